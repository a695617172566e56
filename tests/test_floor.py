"""The floor of a training step's FLOPs, against formulas, autograd and what is executed."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import METHODS, composed, tuning_method
from test_counts import MATRICES, SQUARE, WIDE, on_meta
from test_methods import OPTIM, TASK, encoded, tuned  # noqa: F401
from test_models import B, T, build_small
from torch import nn
from transformers import PreTrainedModel

from finegrid.config import RunConfig
from finegrid.data.batching import Encoded
from finegrid.models import surgery
from finegrid.models.sites import ANATOMY, Sites
from finegrid.training import flops as gauge
from finegrid.training.cost import Meter, count_flops
from finegrid.training.flops import floor_flops, matmul_rate
from finegrid.training.module import FineTuner

LAYER = 4 * SQUARE + 2 * WIDE  # a layer's matrices in BERT-base
FIRST = 3 * SQUARE  # of them, those that read the layer's input


def floor_of(model: str, *overrides: str) -> float:
    """The floor of a method on a published architecture."""
    network, sites = on_meta(model)
    with torch.device("meta"):
        tuning_method(*overrides).apply(network.base_model, sites)
    return floor_flops(network, sites)


@pytest.mark.parametrize("model", ["bert-base", "albert-base"])
@pytest.mark.parametrize(("method", "factor"), [("head", 2), ("bitfit", 4), ("full", 6)])
def test_frozen_matrices_save_a_third_and_a_head_alone_two(
    model: str, method: str, factor: int
) -> None:
    """ALBERT's one layer is called twelve times and costs what BERT's twelve layers cost."""
    assert floor_of(model, f"method={method}") == factor * MATRICES


BERT_BASE = {  # what trains -> gradients of inputs, gradients of matrices, in entries
    "method=layers method.layers=top-1": (LAYER - FIRST, LAYER),
    "method=layers method.layers=bottom-1": (MATRICES - FIRST, LAYER),
    "method=layers method.layers=top-1 method.roles=[pooler]": (0, 0),
    "method=bitfit_q_m2": (MATRICES - FIRST, 0),
    "method=layernorm": (MATRICES, 0),
    "method=lora": (MATRICES - FIRST, 0),
    "method=prompt": (MATRICES, 0),
    "method=mask_random": (0, 0),
    "method=supermask": (MATRICES - FIRST, MATRICES),
    "method=diff_pruning": (MATRICES - FIRST, MATRICES),
    "method=sparse_random": (
        MATRICES - FIRST, 12 * (4 * int(0.005 * SQUARE) + 2 * int(0.005 * WIDE))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "entries"), BERT_BASE.items())
def test_gradients_cost_where_something_trains(overrides: str, entries: tuple[int, int]) -> None:
    assert floor_of("bert-base", *overrides.split()) == 2 * (MATRICES + sum(entries))


@pytest.mark.parametrize("kind", sorted(ANATOMY))
def test_gradients_flow_where_autograd_lets_them(kind: str) -> None:
    """Whichever part of whichever layer trains."""
    network = build_small(kind)
    surgery.freeze(network)
    sites = Sites.of(network)
    for role in sites.roles:
        for site in sites[role]:
            if site.name == "deberta.encoder.LayerNorm":
                continue  # of the relative positions, read by every layer: the floor is too low
            site.module.requires_grad_(True)
            assert floor_flops(network, sites) == observed(network, sites), site.name
            site.module.requires_grad_(False)


def observed(network: PreTrainedModel, sites: Sites) -> int:
    """2 for each entry of a matrix, its input's gradient and its own, by watching a pass."""
    entries = []

    def watch(site: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight = site.weight
        if len(inputs[0]) == B:  # DeBERTa projects its positions too, whatever the text
            entries.append(weight.numel() * (1 + inputs[0].requires_grad + weight.requires_grad))

    handles = [site.module.register_forward_hook(watch) for _, site in sites.select(None, None)]
    ids = torch.arange(1, B * T + 1).view(B, T)
    network(input_ids=ids, attention_mask=torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    return 2 * sum(entries)


class OneLength:
    """Sixteen times one row: batches without padding."""

    lengths = np.ones(16, dtype=np.int64)

    def __init__(self, rows: Encoded) -> None:
        self.rows = rows

    def batch(self, index: list[int]) -> dict[str, Any]:
        return self.rows.batch([0] * len(index))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_executed_lies_above_the_floor(method: str, encoded: Encoded) -> None:  # noqa: F811
    module = FineTuner(tuned(method), TASK, OPTIM, seed=0)
    module.model.train()
    executed = count_flops(module, OneLength(encoded))
    floor = floor_flops(module.model, module.backbone.sites)
    assert floor <= executed
    if method in ("full", "head", "bitfit", "layernorm", "layers"):
        # nothing injected: attention's scores, pooler and head make the difference
        assert executed < 1.2 * floor


def test_the_gauge_draws_nothing() -> None:
    state = torch.get_rng_state()
    rate = matmul_rate.__wrapped__("cpu", torch.float32, torch.get_num_threads())
    assert 1e8 < rate < 1e14
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("threads", "side"), [(1, 384), (4, 384), (5, 1024)])
def test_the_gauge_takes_the_best_of_a_few_products(
    threads: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 0.02 s, without the first one, which sets up the library."""
    times, squares = iter([9.0, 0.004, 0.002, 0.015, 0.001]), []

    def timed(square: torch.Tensor) -> float:
        squares.append(square.shape)
        return next(times)

    monkeypatch.setattr(gauge, "_timed", timed)
    rate = matmul_rate.__wrapped__("cpu", torch.float32, threads)
    assert rate == pytest.approx(2 * side**3 / 0.002)
    assert squares == [(side, side)] * 4


def test_mfu_is_the_floor_in_seconds_over_seconds(encoded: Encoded) -> None:  # noqa: F811
    meter = Meter(encoded, RunConfig.of(composed("trainer=cpu")).trainer)
    assert meter.mfu(1000, 1.0) is None  # nothing was trained
    meter.floor_per_token, meter.matmul_rate = 3e6, 1e9
    assert math.isclose(meter.mfu(1000, 12.0) or 0, 0.25)
    assert meter.mfu(0, 1.0) is None
    assert meter.mfu(1000, 0.0) is None
