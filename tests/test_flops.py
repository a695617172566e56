"""FLOPs per token against their formula, and the machine's rate."""

import math

import pytest
import torch
from conftest import composed
from test_methods import OPTIM, TASK, encoded, tuned  # noqa: F401

from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.training import cost, flops
from finegrid.training.cost import CostMonitor
from finegrid.training.flops import flops_per_token, matmul_rate
from finegrid.training.module import FineTuner

LAYERS, H, FF = 3, 128, 256  # of the builtin model
MATRICES = LAYERS * (4 * H * H + 2 * H * FF)
POOLER, HEAD = H * H, 2 * H


@pytest.mark.parametrize("method", ["full", "head", "bitfit"])
def test_flops_are_those_of_real_tokens_of_a_usual_row(
    method: str,
    encoded: TokenizedDataset,  # noqa: F811
) -> None:
    """2 an entry and token: forward, for the gradient that passes and for a matrix's own.

    The rows have from 11 to 33 tokens: padding, or a row that is not the median one, would show.
    """
    tokens = sorted(encoded.lengths.tolist())[len(encoded) // 2]
    assert tokens not in (min(encoded.lengths), max(encoded.lengths))
    attention = LAYERS * 2 * tokens * H  # entries of scores and contexts
    forward = tokens * (MATRICES + attention) + POOLER + HEAD
    backward = {
        "full": 2 * forward,
        "head": HEAD,
        "bitfit": tokens * (MATRICES + 2 * attention) + POOLER + 2 * HEAD,
    }
    module = FineTuner(tuned(method), TASK, OPTIM, seed=0)
    module.model.train()
    assert flops_per_token(module, encoded) == 2 * (forward + backward[method]) / tokens


def test_counting_leaves_no_trace(encoded: TokenizedDataset) -> None:  # noqa: F811
    """Dropout's draws are another stream's, and the first step starts without gradients."""
    module = FineTuner(tuned("full"), TASK, OPTIM, seed=0)
    module.model.train()
    state = torch.get_rng_state()
    flops_per_token(module, encoded)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_peak_memory_is_that_of_the_run(
    encoded: TokenizedDataset,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peak is reset when a run's monitor is made, after the machine was measured."""
    order: list[str] = []
    monkeypatch.setattr(cost, "machine_rate", lambda trainer: order.append("measured") or 1.0)
    monkeypatch.setattr(cost, "reset_peak_memory", lambda: order.append("reset"))
    CostMonitor(encoded, RunConfig.of(composed()).trainer)
    assert order == ["measured", "reset"]


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

    monkeypatch.setattr(flops, "_timed", timed)
    rate = matmul_rate.__wrapped__("cpu", torch.float32, threads)
    assert rate == pytest.approx(2 * side**3 / 0.002)
    assert squares == [(side, side)] * 4


def test_mfu_is_the_share_of_the_machines_rate(encoded: TokenizedDataset) -> None:  # noqa: F811
    meter = CostMonitor(encoded, RunConfig.of(composed("trainer=cpu")).trainer)
    assert meter.mfu(1000, 1.0) is None  # nothing was trained
    meter.flops_per_token, meter.matmul_rate = 3e6, 1e9
    assert math.isclose(meter.mfu(1000, 12.0) or 0, 0.25)
    assert meter.mfu(0, 1.0) is None
    assert meter.mfu(1000, 0.0) is None
