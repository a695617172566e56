"""What proves a fetched model right: sums of its files, perplexities, how it continues a text."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finegrid.errors import require
from finegrid.fetch.checkpoints import Checkpoint
from finegrid.fetch.weights import Array

WITHIN = 0.005  # of a perplexity, relative: machines sum in other orders


def need_sum(file: Path, expected: str) -> None:
    """Raise `UserError` unless a file has this SHA-256."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    require(
        found == expected,
        f"{file.name}: SHA-256 {found[:16]}... is not {expected[:16]}..., so it is not the file "
        "that was checked; nothing was written",
    )


def sum_of(tensors: Mapping[str, Array]) -> str:
    """SHA-256 of names and values, in the order of names: the same for every library's layout."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def of_folder(folder: Path) -> str:
    """The same of the weights in a folder."""
    from safetensors.numpy import load_file

    return sum_of(load_file(folder / "model.safetensors"))


def prove(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """Load a converted model as a user would and compare what it computes; a line a figure.

    Raises:
        UserError: naming the figure that is another.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = of_folder(folder)
    require(found == checkpoint.weights, _differs("weights", found, checkpoint.weights))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        perplexities = list(_perplexities(model, tokenizer, checkpoint))
        _continues(model, tokenizer, checkpoint)
    size = sum(parameter.numel() for parameter in model.parameters())
    return [
        f"{size:,} parameters, weights' SHA-256 {found[:16]}...",
        f"perplexities {' and '.join(perplexities)}, as expected; texts continued as expected",
    ]


def _perplexities(model: Any, tokenizer: Any, checkpoint: Checkpoint) -> Iterator[str]:
    for text, (length, expected) in checkpoint.perplexity.items():
        ids = tokenizer(text, return_tensors="pt").input_ids
        require(ids.shape[1] == length, _differs("tokens", ids.shape[1], length))
        value = math.exp(model(input_ids=ids, labels=ids).loss.item())
        close = abs(value / expected - 1) < WITHIN
        require(close, _differs("perplexity", f"{value:.3f}", f"{expected:.3f}"))
        yield f"{value:.3f}"


def _continues(model: Any, tokenizer: Any, checkpoint: Checkpoint) -> None:
    asked = {text: (tokenizer(text).input_ids, end) for text, end in checkpoint.greedy.items()}
    for question, answer in checkpoint.answers.items():
        turn = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        asked[question] = (tokenizer(text).input_ids, answer)
    import torch

    for text, (ids, expected) in asked.items():
        start = torch.tensor([ids])
        most = len(tokenizer(expected).input_ids)
        written = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=most
        )
        found = tokenizer.decode(written[0, len(ids) :])
        require(found == expected, _differs(f"continuation of {text!r}", repr(found), expected))


def _differs(what: str, found: object, expected: object) -> str:
    return f"the converted model is wrong: {what} {found} instead of {expected}"
