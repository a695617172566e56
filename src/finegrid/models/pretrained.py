"""Checks of a pre-trained checkpoint: what cannot be fine-tuned is refused in one line.

In the order of their cost: `config.json` (`configure`), the headers of the weight files
(`check_files`), the weights as loaded (`check_loaded`), and one forward pass (`check_pass`).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.models.auto import modeling_auto as auto

from finegrid.errors import UserError, nearest, require
from finegrid.models.anatomy import DECODERS
from finegrid.models.sites import need_anatomy

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS = b"version https://git-lfs"  # first bytes of a pointer to a file that was not fetched
FLOATS = ("F64", "F32", "F16", "BF16")
FORWARD = {  # options of the forward pass, set whatever config.json says
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "problem_type": None,
}
NOT_FREE = ("num_labels", "id2label", "label2id", "model_type", *FORWARD)


def reason(error: Exception) -> str:
    """The message of an error as one line of at most 200 characters."""
    if "trust_remote_code" in str(error):
        return "needs code of its own to load, which is never run here; use a known architecture"
    return " ".join(str(error).split())[:200] or type(error).__name__


def configure(
    config: Any, changes: Mapping[str, Any], *, outputs: int, auto_class: str, sites: bool
) -> None:
    """Apply `model.config` and the number of outputs to a config; refuse what cannot be tuned.

    `auto_class` is the class of transformers that knows the head.

    Raises:
        UserError: naming the setting or the kind of model.
    """
    known = {*config.to_dict(), *config.attribute_map}.difference(NOT_FREE)
    for key, value in changes.items():
        require(key not in NOT_FREE, f"model.config.{key} is not free to choose; leave it out")
        require(key in known, f"model.config.{key} is unknown; {nearest(key, known)}")
        try:
            setattr(config, key, value)
        except Exception as error:  # each field checks its own type
            raise UserError(f"model.config.{key}={value}: {reason(error)}") from error
    config.update({"num_labels": outputs, **FORWARD})
    vars(config).pop("auto_map", None)  # remote code: neither run nor passed on by an export
    _need_known(config, auto_class, sites=sites)


def is_decoder(config: Any) -> bool:
    """Whether a model type is that of a causal decoder, by transformers' tables or ours."""
    kind = config.model_type
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return kind in DECODERS or (causal and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)


def _need_known(config: Any, auto_class: str, *, sites: bool) -> None:
    kind, quantised = config.model_type, getattr(config, "quantization_config", None)
    decoder = is_decoder(config)
    classifies = kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    these = "; only encoders such as BERT and decoders such as Llama can be fine-tuned here"
    require(not config.is_encoder_decoder, f"{kind} is an encoder-decoder{these}")
    require(classifies, f"{kind} is no model that classifies text{these}")
    _need_head(kind, auto_class, decoder=decoder)
    require(
        decoder or not getattr(config, "is_decoder", False),
        "config.json says is_decoder: true, so that no token sees those behind it; if it is an "
        "encoder after all, add +model.config.is_decoder=false",
    )
    layers = getattr(config, "num_hidden_layers", 1)
    require(layers >= 1, f"{layers} layers are none")
    require(not quantised, "its weights are quantised; use the checkpoint in fp32, bf16 or fp16")
    if not sites:
        need_anatomy(kind)


def _need_head(kind: str, auto_class: str, *, decoder: bool) -> None:
    """Refuse a model type that has no head of that class."""
    heads = {
        "AutoModelForCausalLM": (decoder, "predicts no next token"),
        "AutoModelForMaskedLM": (
            kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            "has no masked-language-model head",
        ),
        "AutoModelForTokenClassification": (
            kind in auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
            "has no head in transformers that classifies tokens",
        ),
    }
    has, lack = heads.get(auto_class, (True, ""))
    require(has, f"{kind} {lack}; use another model for this task")


def need_no_adapter(folder: Path) -> None:
    """Raise `UserError` for a folder that peft wrote."""
    require(
        not (folder / "adapter_config.json").exists(),
        "holds a peft adapter (adapter_config.json); merge it first: PeftModel.from_pretrained"
        "(...).merge_and_unload().save_pretrained(FOLDER)",
    )


def check_files(folder: Path) -> None:
    """Check the headers of a folder's weight files.

    Raises:
        UserError: if they are an adapter's, missing, cut short, or not floating point.
    """
    need_no_adapter(folder)
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    _check_name(name, weights.get_slice(name).get_dtype(), file)
        except (SafetensorError, OSError) as error:
            if file.is_file() and file.open("rb").read(len(LFS)) == LFS:
                raise UserError(f"{file.name} is a git-lfs pointer: run `git lfs pull`") from error
            raise UserError(f"{file.name} is cut short or damaged ({reason(error)})") from error


def need_head(folder: Path, network: Any) -> None:
    """Check that a folder's weight files hold tensors of a language model's head, if it has any.

    A head that is nothing but its embeddings has none.

    Raises:
        UserError: if they hold none.
    """
    base = f"{network.base_model_prefix}."
    head = [name for name, _ in network.named_parameters() if not name.startswith(base)]
    held: set[str] = set()
    for file in _files(folder):
        with safe_open(file, "pt") as weights:
            held |= set(weights.keys())
    held |= {re.sub("gamma$", "weight", re.sub("beta$", "bias", name)) for name in held}  # of 2019
    require(
        not head or not held.isdisjoint(head),
        f"holds no language-model head (no {head[:1]}), which head=pattern reads words with; use a "
        "model that was saved with it, or head=classifier",
    )


def _files(folder: Path) -> list[Path]:
    """The weight files that transformers will read."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    others = sorted(file.name for file in folder.glob("*.bin"))
    require(
        (folder / INDEX).is_file(),
        f"holds no {WEIGHTS}"
        + (f" (only {others[0]}: convert it with save_pretrained)" if others else ""),
    )
    try:
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(named))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{INDEX} is not readable ({reason(error)})") from error
    missing = [file.name for file in files if not file.is_file()]
    require(not missing, f"lacks {len(missing)} of {len(files)} files, such as {missing[:1]}")
    return files


def _check_name(name: str, kind: str, file: Path) -> None:
    adapter = re.search(r"(^|\.)(lora_|base_layer\.|base_model\.)|\.adapters?\.", name)
    require(not adapter, f"{file.name} holds an adapter's tensors ({name}); merge it first")
    fits = kind in FLOATS or name.rpartition(".")[2] not in ("weight", "bias")
    require(fits, f"{file.name} holds {name} as {kind}; use the weights in fp32, bf16 or fp16")


def check_loaded(network: Any, info: Mapping[str, Any], *, changed: bool, lm: bool) -> bool:
    """Check the weights as loaded; True if the pooler alone is missing and must be drawn.

    `lm`: the head is a language model's, which must be there too.

    Raises:
        UserError: if anything else of it is missing, of another shape, left over or not finite.
    """
    if lm:
        base = f"{network.base_model_prefix}."
        head = sorted(name for name in info["missing_keys"] if not name.startswith(base))
        require(
            not head,
            f"holds no language-model head ({head[:1]} is missing), which this task reads words "
            "with; use a model that was saved with it",
        )
    prefix, pooler = f"{network.base_model_prefix}.", pooler_parameters(network)
    missing = {name for name in info["missing_keys"] if name.startswith(prefix)}
    drawn = bool(pooler) and pooler.keys() <= missing
    lacks = sorted(missing - pooler.keys() if drawn else missing)
    require(
        not lacks,
        f"lacks {len(lacks)} of the model's tensors, {lacks[:1]} among them; they would start "
        "at random. Use a complete checkpoint, of the architecture that config.json says",
    )
    for name, theirs, ours in info["mismatched_keys"]:
        require(
            not name.startswith(prefix),
            f"{name} has shape {tuple(theirs)}, by its settings it should have {tuple(ours)}; "
            "correct config.json or model.config",
        )
    extra = sorted(n for n in info["unexpected_keys"] if re.search(r"(^|\.)\d+\.", n))
    require(
        changed or not extra,
        f"holds {len(extra)} tensors that its config.json has no place for, {extra[:1]} among them",
    )
    for name, value in network.base_model.named_parameters():
        finite = f"{prefix}{name}" in missing or bool(torch.isfinite(value.sum()))
        require(
            finite, f"{prefix}{name} holds NaN or infinite numbers; use an undamaged checkpoint"
        )
    return drawn


def check_pass(network: Any) -> None:
    """Run a forward pass of two tokens, which fails where sizes do not fit one another.

    Raises:
        UserError: if that fails.
    """
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(input_ids=torch.zeros(1, 2, dtype=torch.long))
    except Exception as error:
        raise UserError(
            f"its settings do not fit one another: {reason(error)}; correct config.json or "
            "model.config"
        ) from error
    network.train(training)


def pooler_parameters(network: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the pooler inside the base model; empty if there is none."""
    pooler: nn.Module | None = getattr(network.base_model, "pooler", None)
    prefix = f"{network.base_model_prefix}.pooler."
    return {f"{prefix}{n}": p for n, p in pooler.named_parameters()} if pooler else {}


def has_no_vocabulary(tokenizer: Any) -> bool:
    """Whether a tokenizer has special tokens only, as one loaded without its files has."""
    return len(tokenizer) <= len(set(tokenizer.all_special_ids))
