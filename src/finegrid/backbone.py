"""The pre-trained encoder with a fresh head: found, loaded, frozen, fingerprinted."""

import copy
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from finegrid import builtin, hub, places, surgery
from finegrid.attention import take_over
from finegrid.config import ModelConfig, require
from finegrid.dropout import quicken
from finegrid.errors import UserError
from finegrid.lean import slim
from finegrid.seeds import forked
from finegrid.sites import Sites
from finegrid.sources import WAYS_OUT

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Backbone:
    """A model whose base is frozen and whose head trains, with the base's anatomy."""

    model: PreTrainedModel
    sites: Sites
    fingerprint: str  # of the base model's weights as loaded
    revision: str  # commit of the hub repository, or empty for local files

    def sharing(self, *, seed: int | None = None) -> "Backbone":
        """A copy whose base's parameters lie in the same memory; its head is drawn from the seed.

        The base must be frozen still. What of the copy is to train must `own` its memory first.
        """
        base = self.model.base_model
        memo: dict[int, Any] = {
            id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
            for parameter in base.parameters()
        }
        memo |= {id(buffer): buffer for buffer in base.buffers()}
        network, sites = copy.deepcopy((self.model, self.sites), memo)
        if seed is not None:
            draw_head(network, seed)
        return replace(self, model=network, sites=sites)

    def own(self) -> None:
        """Give what trains in the base memory of its own."""
        for parameter in surgery.trainable(self.model.base_model).values():
            parameter.data = parameter.data.clone()


def locate(model: ModelConfig) -> str:
    """The folder or hub id that a model loads from."""
    return places.model(model.path, builtin=builtin.MODEL_DIR)


def tokenizer(model: ModelConfig) -> Any:
    """The tokenizer beside the model's weights.

    Raises:
        UserError: if there is none to be had, or the model cannot read texts of that length.
    """
    try:
        found = AutoTokenizer.from_pretrained(locate(model), **_source(model))
    except (OSError, ValueError) as error:
        raise _not_found(model, error) from error
    require(
        model.max_length <= found.model_max_length,
        f"model.max_length={model.max_length} exceeds the {found.model_max_length} tokens that "
        f"{model.name} can read",
    )
    return found


def build(model: ModelConfig, *, outputs: int, seed: int) -> Backbone:
    """Load the encoder in fp32, put a head of so many outputs on it, freeze the base.

    The head is drawn from `seed` alone, so it is the same for every method.

    Raises:
        UserError: if the files are missing, incomplete or of an unknown architecture.
    """
    with forked(seed):
        make = _pretrained if model.pretrained else _random
        network, revision = make(model, outputs)
    surgery.freeze(network.base_model)
    draw_head(network, seed)
    _keep_fp32(network)
    own = Sites(network, model.sites, network.base_model_prefix) if model.sites else None
    sites = own or Sites.of(network)
    quicken(network)
    slim(network.base_model)
    if "attention" in sites:  # that is, it goes through transformers' attention interface
        take_over(network.base_model)
    return Backbone(network, sites, fingerprint(network.base_model), revision)


class _Fp32Linear(nn.Linear):
    """A linear layer that autocast leaves in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b, in fp32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def draw_head(network: PreTrainedModel, seed: int) -> None:
    """Draw the head anew, as the architecture begins it."""
    with forked(seed), torch.no_grad():
        for module in _head(network):
            network._init_weights(module)


def _keep_fp32(network: PreTrainedModel) -> None:
    """Let the head's matrices work in fp32: rounded to bf16, a label of 3 has steps of 0.016."""
    for module in _head(network):
        if type(module) is nn.Linear:
            module.__class__ = _Fp32Linear


def _head(network: PreTrainedModel) -> Iterator[nn.Module]:
    """The leaves outside the base model."""
    inside = set(map(id, network.base_model.modules()))
    for module in network.modules():
        if id(module) not in inside and not any(module.children()):
            yield module


def fingerprint(module: nn.Module) -> str:
    """Hash of every parameter's name, shape and bits."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _pretrained(model: ModelConfig, outputs: int) -> tuple[PreTrainedModel, str]:
    try:
        network, info = AutoModelForSequenceClassification.from_pretrained(
            locate(model),
            **_source(model),
            num_labels=outputs,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=_attention(),
            output_loading_info=True,
            **model.config,
        )
    except (OSError, ValueError) as error:
        raise _not_found(model, error) from error
    prefix = f"{network.base_model_prefix}."
    missing = sorted(name for name in info["missing_keys"] if name.startswith(prefix))
    if missing:
        raise UserError(
            f"model {model.name} ({locate(model)}) lacks {len(missing)} of the encoder's tensors, "
            f"{missing[0]} among them; they would start at random. Use a complete checkpoint"
        )
    return network, str(getattr(network.config, "_commit_hash", None) or "")


def _random(model: ModelConfig, outputs: int) -> tuple[PreTrainedModel, str]:
    """The same architecture from random weights: the control that shows what pre-training gives."""
    if Path(locate(model)).is_dir():
        config = AutoConfig.from_pretrained(locate(model))
    else:
        config = AutoConfig.for_model(**model.architecture)
    config.update({**model.config, "num_labels": outputs})
    network = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32, attn_implementation=_attention()
    )
    return network, ""


def _attention() -> str:
    """Eager attention trains faster than SDPA on a CPU, where dropout rules out its fused path."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def _source(model: ModelConfig) -> dict[str, Any]:
    if not Path(locate(model)).is_dir():
        hub.settle()
    return {"revision": model.revision, "trust_remote_code": False}


def _not_found(model: ModelConfig, error: Exception) -> UserError:
    root = os.environ.get("FINEGRID_MODEL_DIR")
    tried = [f"the folder {model.path}"]
    tried += [f"a copy below FINEGRID_MODEL_DIR={root}"] if root else []
    tried += ["the hub and its cache (safetensors files only)"]
    reason = str(error).strip().splitlines()[0][:160]
    return UserError(
        f"model {model.name} not found or not loadable; tried {', '.join(tried)} ({reason}). "
        + WAYS_OUT.format(variable="FINEGRID_MODEL_DIR")
    )
