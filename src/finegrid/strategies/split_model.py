"""Run a model in two stages: its frozen lower part, and everything above it.

A split model returns the hidden states that leave its lower part, and starts a forward pass from
such states when it is called with `features=`. During either stage stubs replace the modules that
take no part.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from finegrid.models import decoder
from finegrid.models.backbone import Backbone

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of a backbone
BETWEEN = "embeddings_project"  # ELECTRA's, from embeddings that are narrower than its layers


class CachedStates(nn.Module):
    """Stub that replaces the embeddings and returns the cached hidden states."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """B T H, in the precision of the pass."""
        kind = self.states.device.type
        mixed = torch.is_autocast_enabled(kind)
        return self.states.to(torch.get_autocast_dtype(kind) if mixed else torch.float32)


class CachedOutput(CachedStates):
    """Stub that replaces a base model, all of which is frozen."""

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        """B 1 H, in the precision of the pass."""
        return BaseModelOutputWithPast(last_hidden_state=super().forward())


@dataclass(frozen=True)
class Split:
    """The modules, by path, that replace those of a model while one of its stages runs alone."""

    stub: CachedStates
    lower: Mapping[str, nn.Module]
    upper: Mapping[str, nn.Module]


def depth(backbone: Backbone) -> int:
    """Number of fully frozen lowest layers without injected modules; -1 if the embeddings train.

    All of them where nothing but a pooler or the head trains.
    """
    sites = backbone.sites
    if "embeddings" not in sites or "layer" not in sites:
        return -1
    stack = [site for role in ("layer", "pooler") if role in sites for site in sites[role]]
    place = {id(part): n for n, site in enumerate(stack) for part in site.module.modules()}
    base = backbone.model.base_model
    place |= dict.fromkeys(map(id, _idle(base)), sites.n_layers)
    changed = (place.get(id(module), -1) for module in base.modules() if _changed(module))
    return min(changed, default=sites.n_layers)


def _idle(base: Any) -> Iterator[nn.Module]:
    """A base model and what was injected in itself, if it serves what was injected elsewhere."""
    if not (base._forward_hooks or base._forward_pre_hooks):
        yield base
        for name in getattr(base, "injected", ()):
            yield from base.get_submodule(name).modules()


def _changed(module: nn.Module) -> bool:
    """Whether a module itself, its children aside, differs from what was loaded."""
    direct = module.parameters(recurse=False)
    return bool(getattr(module, "injected", ())) or any(p.requires_grad for p in direct)


def split_at(backbone: Backbone, depth: int) -> None:
    """Split a model above its embeddings and `depth` layers; its `forward` then takes `features`.

    They are hidden states B T H, or B 1 H where no layer follows. Without them it runs as before.
    """
    model: Any = backbone.model
    split = _above_all(backbone) if backbone.sites.decoder else _above(backbone, depth)
    model.__dict__["split"] = split  # past nn.Module: it is no part of it
    complete = model.forward

    def forward(*, features: Tensor | None = None, **inputs: Tensor) -> Any:
        if features is None:
            return complete(**inputs)
        width = features.shape[1]
        with forward_from(model, features):
            return complete(**{name: x[:, :width] for name, x in inputs.items()})

    model.forward = forward


def _above(backbone: Backbone, depth: int) -> Split:
    """An encoder, split above `depth` layers."""
    model: Any = backbone.model
    (embeddings,), layers = backbone.sites["embeddings"], backbone.sites["layer"]
    modules, place = [site.module for site in layers], layers[0].name.rpartition(".")[0]
    stub = CachedStates()
    upper = {embeddings.name: stub, place: nn.ModuleList(modules[depth:])}
    if hasattr(model.base_model, BETWEEN):
        upper[f"{model.base_model_prefix}.{BETWEEN}"] = nn.Identity()
    return Split(stub, {place: nn.ModuleList(modules[:depth])}, upper)


def _above_all(backbone: Backbone) -> Split:
    """A decoder, split below its head: masks, positions and a norm lie between other layers."""
    stub = CachedOutput()
    return Split(stub, {}, {str(backbone.model.base_model_prefix): stub})


def states(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The hidden states that leave a split model's lower part: B T H, of a decoder B 1 H.

    A decoder's are those of each row's last token, which its head reads.
    """
    split: Split = model.__dict__["split"]
    if isinstance(split.stub, CachedOutput):
        return decoder.pooled(model, inputs)[:, None]
    with swapped_modules(model, split.lower):
        hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return hidden


@contextmanager
def forward_from(model: nn.Module, states: Tensor) -> Iterator[None]:
    """Start forward passes inside from cached hidden states, above the split."""
    split: Split = model.__dict__["split"]
    split.stub.states = states
    with swapped_modules(model, split.upper):
        yield
    del split.stub.states


@contextmanager
def swapped_modules(model: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace modules of a model, by path, inside."""
    originals = {name: model.get_submodule(name) for name in others}
    _put(model, others)
    try:
        yield
    finally:
        _put(model, originals)


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        path, _, child = name.rpartition(".")
        setattr(model.get_submodule(path), child, module)
