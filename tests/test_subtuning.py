"""SubTuning: a greedy search on the run's budget, and what it leaves behind."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import composed, run_cell, tuning_method
from safetensors.torch import load_file
from test_methods import encoded, fresh  # noqa: F401

from finegrid import inference
from finegrid.config import Budget, RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.base import SearchPlan, TuningMethod
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.runs import delta
from finegrid.training.budget import BudgetTimer
from finegrid.training.components import prepare
from finegrid.training.cost import CostMonitor
from finegrid.training.search import Folds

SHORT = ("model=tiny", "trainer.threads=1", "data.fraction=0.2", "budget=steps", "evaluations=2")
SEARCH = ("method=subtuning", "method.steps=1", "method.most=2", "budget.steps=32")


class Told:
    """A validation whose scores are given; it sees which layers train."""

    def __init__(self, base: Backbone, of: Callable[[frozenset[int]], float], scores: int) -> None:
        self.base, self.of, self.left = base, of, scores
        self.seen: list[frozenset[int]] = []

    def affords(self, scores: int) -> bool:
        return scores <= self.left

    def score(self) -> float:
        self.left -= 1
        self.seen.append(trained(self.base))
        return self.of(self.seen[-1])


def trained(base: Backbone) -> frozenset[int]:
    """The layers of which something trains; all of each."""
    sites = base.sites["layer"]
    parts = [{p.requires_grad for p in site.module.parameters()} for site in sites]
    assert all(len(part) == 1 for part in parts)
    return frozenset(n for n, part in enumerate(parts) if part == {True})


def searched(
    of: Callable[[frozenset[int]], float], *overrides: str, scores: int = 99
) -> tuple[TuningMethod, Backbone, Told]:
    """The builtin model of three layers after a search with given scores."""
    base, method = fresh(), tuning_method("method=subtuning", *overrides)
    method.tune(base, seed=0)
    told = Told(base, of, scores)
    method.search(base.model.base_model, told)
    return method, base, told


def value(layers: frozenset[int]) -> float:
    """Layer 1 is best, then 0 adds a little, and 2 harms."""
    return sum({0: 0.01, 1: 0.6, 2: -0.1}[layer] for layer in layers)


def test_layers_are_added_while_that_gains() -> None:
    method, base, told = searched(value)
    assert told.seen == [{2}, {1}, {0}, {1, 2}, {0, 1}, {0, 1, 2}]
    assert method.chosen == ["1", "0"]
    assert list(method.chosen_by) == ["2", "1", "0", "1-2", "1-0", "1-0-2"]
    assert method.chosen_by["1-0"] == pytest.approx(0.61)
    assert trained(base) == {0, 1}
    below = surgery.trainable(base.model.base_model)
    assert all(name.startswith(("encoder.layer.0.", "encoder.layer.1.")) for name in below)


@pytest.mark.parametrize(
    ("overrides", "scores", "chosen"),
    [
        (["method.tolerance=0.05"], 99, ["1"]),
        (["method.most=1"], 99, ["1"]),
        ([], 4, ["1"]),  # a second round takes two more
        ([], 5, ["1", "0"]),
    ],
    ids=["tolerance", "most", "budget", "enough"],
)
def test_what_ends_the_search(overrides: list[str], scores: int, chosen: list[str]) -> None:
    assert searched(value, *overrides, scores=scores)[0].chosen == chosen


def test_of_equal_layers_the_upper_one_is_taken() -> None:
    assert searched(lambda layers: 0.5)[0].chosen == ["2"]


def test_a_share_that_pays_no_round_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        method, base, told = searched(value, scores=2)
    assert (method.chosen, dict(method.chosen_by), told.seen) == (["2"], {}, [])
    assert trained(base) == {2}
    assert "the top layer trains, unsearched" in caplog.text


def test_a_delta_says_which_layers_train(
    encoded: TokenizedDataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    _, base, _ = searched(value)
    with torch.no_grad():
        for parameter in surgery.trainable(base.model).values():
            parameter.add_(0.1)
    facts = {"method": "subtuning", "fingerprint": base.fingerprint}
    path = tmp_path / "delta.safetensors"
    delta.save(path, base.model, labels=[], **facts)
    other, again = fresh(), tuning_method("method=subtuning")
    again.tune(other, seed=0)
    delta.load(
        path, other.model, recall=lambda names: again.recall(other.model.base_model, names), **facts
    )
    assert trained(other) == {0, 1}
    for name, parameter in surgery.trainable(base.model).items():
        assert torch.equal(parameter, other.model.get_parameter(name))
    stock = fresh()
    again.tune(stock, seed=0)
    with pytest.raises(UserError, match="lacks"):
        delta.load(path, stock.model, **facts)


def test_a_part_of_the_rows_gives_their_batches(encoded: TokenizedDataset) -> None:  # noqa: F811
    index = np.array([9, 2, 5, 14])
    encoded.extra_inputs["features"] = lambda rows: torch.tensor(rows)
    try:
        part = encoded.take(index)
    finally:
        del encoded.extra_inputs["features"]
    assert len(part) == 4
    found, expected = part.batch([0, 3, 1]), encoded.batch([9, 14, 2])
    assert found.pop("features").tolist() == [9, 14, 2]
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(wanted)), name
    assert torch.equal(part.labels, encoded.labels[torch.from_numpy(index)])


def folds(*overrides: str, steps: int = 2) -> Folds:
    """Cross-validation of layer 2 in two folds, of a budget of 40 steps."""
    config = RunConfig.of(composed("method=subtuning", *SHORT, *overrides, "budget.steps=40"))
    components = prepare(config)
    components.method.tune(components.module.backbone, seed=0)
    clock = BudgetTimer(config.budget, config.optim, rows=len(components.splits.train))
    meter = CostMonitor(components.encoded["train"], config.trainer)
    return Folds(SearchPlan(0.5, 2, steps), clock, meter, components, precision="32")


def test_a_score_costs_what_it_reads_and_leaves_the_weights() -> None:
    validation = folds()
    model, clock = validation.module.model, validation.clock
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert validation.affords(2)
    assert not validation.affords(3), "a score is 2 folds of 2 steps and 2 batches"
    first = validation.score()
    assert (clock.steps, clock.examples, clock.progress) == (8, 8 * 32, 0.2)
    assert clock.tokens > clock.examples
    assert validation.meter.other_tokens == clock.tokens
    assert 0 < validation.meter.other_flops < 1e12
    assert validation.meter.flops(clock.tokens) == validation.meter.other_flops
    assert first == validation.score(), "the same folds, batches and dropout"
    assert not validation.affords(1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_held_out_row_trains_in_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    validation = folds()
    trains: list[set[int]] = []
    scored: list[set[int]] = []
    batch, take = validation.rows.batch, validation.rows.take

    def training(index: list[int]) -> dict[str, Any]:
        trains.append(set(index))
        return batch(index)

    def holding(index: Any) -> TokenizedDataset:
        scored.append(set(index.tolist()))
        return take(index)

    monkeypatch.setattr("finegrid.training.search.flops_per_token", lambda *a, **k: 1.0)
    monkeypatch.setattr("finegrid.training.search.predict", lambda *a, **k: torch.zeros(64, 2))
    monkeypatch.setattr(validation.rows, "batch", training)
    monkeypatch.setattr(validation.rows, "take", holding)
    validation.score()
    assert len(trains) == 4
    assert len(scored) == 2
    for fold, held in enumerate(scored):
        assert len(held) == 64
        assert not held & set().union(*trains[2 * fold : 2 * fold + 2])


def test_the_schedule_spans_what_the_search_left() -> None:
    optim = RunConfig.of(composed("optim.warmup=0.5")).optim
    clock = BudgetTimer(Budget("steps", 10), optim, rows=100)
    clock.count(6, 60, 600)
    clock.begin_phase()
    group = {"initial_lr": 1.0}
    trainer: Any = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[group])])
    found = []
    for _ in range(4):
        clock.on_train_batch_start(trainer, None, {"labels": [0], "real_tokens": 1}, 0)  # type: ignore[arg-type]
        found.append(group["lr"])
        clock.count(1, 10, 100)
    assert found == pytest.approx([0.25, 0.75, 0.75, 0.25])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose search affords two rounds."""
    directory = tmp_path_factory.mktemp("subtuning") / "run"
    run_cell(directory, *SHORT, *SEARCH, "task=builtin_paraphrase", "method.search_share=0.7")
    return directory


def test_a_run_spends_one_budget_on_search_and_training(run: Path, tmp_path: Path) -> None:
    record = inference.read(run)
    plain = run_cell(
        tmp_path / "run", *SHORT, "method=layers", "budget.steps=32", "task=builtin_paraphrase"
    )
    assert record.steps == plain.steps == 32
    rounds = {name.count("-") for name in record.chosen_by}
    assert rounds == {0, 1}
    assert len(record.chosen_by) == 5
    assert record.search_examples == 5 * 4 * 32
    assert record.train_flops > 0
    assert record.evaluations < record.evaluations_planned
    layer = 132_480
    assert record.params_delta == len(record.chosen) * layer
    assert plain.chosen is plain.search_examples is None
    held = {name.split(".")[3] for name in load_file(run / delta.FILE) if ".layer." in name}
    assert held == set(record.chosen)


def test_a_finished_run_is_restored(run: Path) -> None:
    restored = inference.restore(run)
    layers = {n.split(".")[3] for n in surgery.trainable(restored.model) if ".layer." in n}
    assert layers == set(restored.record.chosen)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=builtin_paraphrase", "data.rows=0"], "chooses by them"),
        (["task=builtin_paraphrase", "data.rows=6", "method.folds=4"], "fewer than two a fold"),
        (["task=builtin_paraphrase", "method.folds=1"], "method.folds=1"),
        (["task=builtin_paraphrase", "method.search_share=1"], "method.search_share=1"),
    ],
)
def test_what_cannot_be_searched_is_refused(overrides: list[str], message: str) -> None:
    if "data.rows=0" in overrides:
        overrides = [*overrides, "head=pattern"]
    with pytest.raises(UserError, match=message):
        prepare(RunConfig.of(composed("method=subtuning", "model=tiny", *overrides)))


def test_a_generated_text_is_refused() -> None:
    given = ("task=e2e_cleaned", "model=tiny_llama", "method=subtuning")
    from finegrid.training.components import check_settings

    with pytest.raises(UserError, match=r"hold the answers of task\.kind=generation"):
        check_settings(RunConfig.of(composed(*given)))


def test_a_composition_has_no_search() -> None:
    from finegrid.methods import BitFit, Compose, SubTuning

    with pytest.raises(UserError, match="searches for what trains"):
        Compose(members={"a": BitFit(), "b": SubTuning()})
