"""A model in two stages: its prefix, below everything that trains, and all that comes after it.

A model that was cut gives the hidden states that leave its prefix, and goes on from such states as
if it had just computed them. Meanwhile other modules stand where the layers are that have no part.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.kernels.linear import autocast_dtype
from finegrid.models.backbone import Backbone

BETWEEN = "embeddings_project"  # ELECTRA's, from embeddings that are narrower than its layers


class Given(nn.Module):
    """Stands for the embeddings, and for what lies between them and the layers that run."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The hidden states of the pass under way, in its precision."""
        return self.states.to(autocast_dtype(self.states) or torch.float32)


@dataclass(frozen=True)
class Cut:
    """What stands in for the modules of a model while one of its two stages runs alone."""

    given: Given
    lower: Mapping[str, nn.Module]
    upper: Mapping[str, nn.Module]


def depth(backbone: Backbone) -> int:
    """How many layers lie below the first that trains or has anything injected; -1: not even they.

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
    """Whether a module by itself, not in its children, is more than what was loaded."""
    own = module.parameters(recurse=False)
    return bool(getattr(module, "injected", ())) or any(p.requires_grad for p in own)


def cut(backbone: Backbone, depth: int) -> None:
    """Let a model run in two stages, the prefix being its embeddings and so many layers."""
    model: Any = backbone.model
    (embeddings,), layers = backbone.sites["embeddings"], backbone.sites["layer"]
    modules, place = [site.module for site in layers], layers[0].name.rpartition(".")[0]
    given = Given()
    upper = {embeddings.name: given, place: nn.ModuleList(modules[depth:])}
    if hasattr(model.base_model, BETWEEN):
        upper[f"{model.base_model_prefix}.{BETWEEN}"] = nn.Identity()
    lower = {place: nn.ModuleList(modules[:depth])}
    model.__dict__["cut"] = Cut(given, lower, upper)  # past nn.Module: it is no part of the model


def states(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The hidden states B T H that leave a cut model's prefix."""
    with _standing_in(model, model.__dict__["cut"].lower):
        hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return hidden


@contextmanager
def resumed(model: nn.Module, states: Tensor | None) -> Iterator[None]:
    """Let a cut model go on from these hidden states inside; with none it runs as a whole."""
    if states is None:
        yield
        return
    halves: Cut = model.__dict__["cut"]
    halves.given.states = states
    with _standing_in(model, halves.upper):
        yield
    del halves.given.states


@contextmanager
def _standing_in(model: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put other modules at some places of a model for the time being."""
    own = {name: model.get_submodule(name) for name in others}
    _put(model, others)
    try:
        yield
    finally:
        _put(model, own)


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        path, _, child = name.rpartition(".")
        setattr(model.get_submodule(path), child, module)
