"""What training needs at least: its layers' matrix products, at the rate the machine does them."""

import math
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from finegrid.models import surgery
from finegrid.models.sites import Site, Sites

GAUGE = 0.02  # seconds: every cell of a sweep pays them


def floor_flops(model: PreTrainedModel, sites: Sites) -> float:
    """FLOPs per token of text that no implementation of a training step does without.

    Each entry of the layers' matrices takes 2 forward, 2 for the gradient of the matrix's input
    if anything that trains comes before it, and 2 for its own gradient if it trains. Attention's
    scores, embeddings, pooler, head and the matrices that a method injects are left out.
    """
    flops = 0
    for weight, reached, trained in _products(model, sites):
        flops += 2 * (weight.numel() * (1 + reached) + min(trained, weight.numel()))
    return float(flops)


def _products(model: PreTrainedModel, sites: Sites) -> Iterator[tuple[nn.Parameter, bool, int]]:
    """(matrix, whether gradients flow on below it, how many numbers of it train), call by call."""
    place = _places(model, sites)
    trains = (place.get(id(p)) for p in surgery.trainable(model).values())
    first = min((number for number in trains if number is not None), default=math.inf)
    for site, entry in _matrices(sites):
        for call in range(_calls(model.config, sites)):
            reached = call * len(place) + place[id(_weight(entry))] > first
            yield _weight(site), reached, _trained(site.module)


def _places(model: PreTrainedModel, sites: Sites) -> dict[int, int]:
    """id -> number of the encoder's parameters in the order in which a pass meets them.

    Modules register them in that order. What comes after the layers has no place.
    """
    after = {id(p) for site in _those(sites, "pooler") for p in site.module.parameters()}
    encoder = (id(parameter) for parameter in model.base_model.parameters())
    place = {key: number for number, key in enumerate(k for k in encoder if k not in after)}
    last = _those(sites, "output", nn.Linear)
    outputs = {site.layer: place[id(_weight(site))] for site in last}
    for norm in _those(sites, "output_norm"):  # ALBERT registers it before all of its layer
        for parameter in norm.module.parameters():
            place[id(parameter)] = outputs.get(norm.layer, place[id(parameter)])
    return place


def _matrices(sites: Sites) -> Iterator[tuple[Site, Site]]:
    """(site, the first site that reads the same input) for every weight matrix of the layers."""
    queries = {site.layer: site for site in _those(sites, "query", nn.Linear)}
    for role, site in sites.select(None, None):
        if isinstance(site.module, nn.Linear):
            yield site, queries.get(site.layer, site) if role in ("key", "value") else site


def _those(sites: Sites, role: str, kind: type[nn.Module] = nn.Module) -> list[Site]:
    """The sites of a role that are of a kind; none where the architecture lacks the role."""
    if role not in sites:
        return []
    return [site for site in sites[role] if isinstance(site.module, kind)]


def _weight(site: Site) -> nn.Parameter:
    """A matrix itself, whatever a method put over it."""
    weight = surgery.raw_parameter(site.module, "weight")
    assert weight is not None
    return weight


def _calls(config: Any, sites: Sites) -> int:
    """How often a pass calls each layer: ALBERT has one layer and calls it twelve times."""
    return max(1, getattr(config, "num_hidden_layers", 0) // max(1, sites.n_layers))


def _trained(site: nn.Module) -> int:
    """Numbers that train in a site's weight, or over it in what a method put there."""
    over: dict[str, str | None] = getattr(site, "injected", {})
    children = [site.get_submodule(name) for name, tensor in over.items() if tensor == "weight"]
    parameters = [p for child in children for p in child.parameters()]
    own = surgery.raw_parameter(site, "weight")
    return sum(p.numel() for p in (own, *parameters) if p is not None and p.requires_grad)


@cache
def matmul_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a square matrix product: the best of many, since neighbours only ever slow it."""
    # on few threads as small as full speed allows: a short product is more often undisturbed
    side = 4096 if device == "cuda" else 384 if threads <= 4 else 1024
    # no random numbers: they would shift everybody else's draws
    square = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(dtype)
    _timed(square)  # sets up the library
    times = [_timed(square)]
    while sum(times) < GAUGE:
        times.append(_timed(square))
    return 2 * side**3 / min(times)


def _timed(square: torch.Tensor) -> float:
    """Seconds of one product."""
    began = time.perf_counter()
    square @ square
    if square.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
