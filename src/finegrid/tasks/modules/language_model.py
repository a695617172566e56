"""Causal language models read at the tokens that a task asks of them.

Shapes: B sequences, T tokens, H hidden size, V vocabulary, K tokens that are read.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finegrid.tasks.modules.reader import NO_LABEL

if TYPE_CHECKING:
    from torch import Tensor


def target_logits(model: Any, batch: Mapping[str, "Tensor"]) -> "Tensor":
    """Logits (K, V) for the K tokens of a batch that have a label."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return logits_at(model, inputs, batch["labels"] != NO_LABEL)


def logits_at(model: Any, inputs: Mapping[str, "Tensor"], targets: "Tensor") -> "Tensor":
    """Logits (K, V) for the K marked tokens of `targets` (B T, true or false), row by row.

    The logits for a token come from the one before it, so none of the first can be marked. The
    language-model head reads the hidden states before the marked tokens alone: with a vocabulary
    of 50,000 it takes more time and memory than several layers.
    """

    def select(head: Any, arguments: tuple[Any, ...]) -> tuple["Tensor"]:
        h = arguments[0][:, -targets.shape[1] :]  # a soft prompt may stand before the text
        return (h[:, :-1][targets[:, 1:]][None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits


def token_loss(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Mean cross-entropy of the tokens that `labels` (B T) names, from their logits (K, V)."""
    from torch.nn import functional

    return functional.cross_entropy(logits, labels[labels != NO_LABEL])


def left_padded(ids: "Tensor", mask: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Token ids and mask (B T) with the padding moved from the right to the left.

    A model that generates reads the last token of each row, so that it must not be padding.
    """
    moved = mask.flip(1)
    out = ids.flip(1)  # padding first
    out[moved.bool()] = ids[mask.bool()]
    return out, moved


def greedy(
    model: Any, ids: "Tensor", mask: "Tensor", *, most: int, end: int, padding: int
) -> list["Tensor"]:
    """Ids of the likeliest next tokens of left-padded prompts, B T: at most `most` a row.

    A row stops at `end`, and is padded from there on. What a checkpoint's generation_config.json
    asks for, such as a penalty on repetition, is left aside.
    """
    from transformers import GenerationConfig

    # UniPELT's gates read the first token of each pass, which must be the text's
    gated = any(type(module).__name__ == "Gate" for module in model.modules())
    rows = zip(ids, mask.bool(), strict=True)
    parts = [one[real][None] for one, real in rows] if gated else [ids]
    theirs = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=padding)
    settings = {"max_new_tokens": most, "do_sample": False, "use_cache": not gated}
    made: list[Tensor] = []
    try:
        for part in parts:
            seen = mask if part is ids else part.new_ones(part.shape)
            found = model.generate(input_ids=part, attention_mask=seen, **settings)
            made += found[:, part.shape[1] :]
    finally:
        model.generation_config = theirs
    return made
