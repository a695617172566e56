"""What a run's seed decides: head, injected modules, dropout and order, each by its own stream."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import composed
from torch import Tensor

from finegrid.config import RunConfig
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.runs.spec import RunSpec
from finegrid.seeds import forked, stream
from finegrid.training.components import RunComponents, prepare
from finegrid.training.session import RunSession

FEW = ("task=builtin_paraphrase", "data.fraction=0.05", "method=lora")


def test_streams_are_apart_and_fixed() -> None:
    names = ("init", "order", "dropout")
    drawn = [stream(seed, name) for seed in range(20) for name in names]
    assert len(set(drawn)) == len(drawn)
    assert drawn[:3] == [stream(0, name) for name in names]
    assert all(0 <= one < 2**63 for one in drawn), "a seed for torch and numpy alike"


def test_a_fork_leaves_the_global_stream_as_it_was() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with forked(1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with forked(1):
        assert torch.equal(torch.rand(3), first)
    with forked(2):
        assert not torch.equal(torch.rand(3), first)


@cache
def prepared(seed: int, *more: str) -> RunComponents:
    """A run's parts after its method was applied."""
    cfg = composed(*FEW, f"seed={seed}", *more)
    parts = prepare(RunConfig.of(cfg))
    parts.method.tune(parts.module.backbone, seed=parts.module.init_seed)
    return parts


def shared(seed: int, base: Backbone) -> RunComponents:
    """The same, sharing a frozen backbone."""
    cfg = composed(*FEW, f"seed={seed}")
    parts = prepare(RunConfig.of(cfg), build=lambda *_, seed, **__: base.sharing(seed=seed))
    parts.method.tune(parts.module.backbone, seed=parts.module.init_seed)
    return parts


def start(parts: RunComponents) -> dict[str, Tensor]:
    """What trains, as drawn: the head and LoRA's A (its B is zero)."""
    trains = surgery.trainable(parts.module.model)
    return {name: value for name, value in trains.items() if value.ndim > 1 and value.any()}


def test_every_seed_draws_its_own_head_and_its_own_injected_modules() -> None:
    one, other = start(prepared(0)), start(prepared(1))
    assert any(name.startswith("classifier.") for name in one)
    assert any(name.endswith("lora.a") for name in one)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert not torch.equal(value, other[name]), name


@pytest.mark.parametrize("seed", [0, 1])
def test_a_shared_backbone_gives_a_run_the_start_it_has_alone(seed: int) -> None:
    alone = start(prepared(seed))
    together = start(shared(seed, prepared(3, "method=head").module.backbone))
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        assert torch.equal(value, together[name]), name


def test_every_seed_has_its_own_dropout_and_repeats_it() -> None:
    """Of one model on one batch, so that nothing but the stream differs."""
    one, other = prepared(0), prepared(1)
    other.module.model.load_state_dict(one.module.model.state_dict())
    batch = one.encoded["train"].batch(range(8))
    losses: list[list[float]] = []
    trainer: Any = SimpleNamespace(optimizers=[])
    for number, parts in enumerate((one, one, other)):
        parts.module.on_train_start()
        for callback in parts.kernels:
            callback.on_train_start(trainer, parts.module)
        torch.manual_seed(number)  # whoever else draws in the process is not felt
        losses.append([parts.module.loss(batch).item() for _ in range(2)])
    assert losses[0] == losses[1], "starting again starts the stream again"
    assert losses[0][0] != losses[0][1]
    assert losses[0][0] != losses[2][0]


def test_every_seed_has_its_own_order_of_the_same_batches_for_every_method(
    tmp_path: Path,
) -> None:
    def order(seed: int, method: str) -> list[list[int]]:
        cfg = composed(*FEW, f"seed={seed}", f"method={method}")
        loader = RunSession(RunSpec.of(cfg, tmp_path)).loader(prepared(0))
        return [batch for _ in range(2) for batch in loader.batch_sampler]

    first = order(0, "lora")
    assert order(0, "bitfit") == first
    assert order(1, "lora") != first
