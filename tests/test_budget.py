"""Budgets in every unit, the schedule over them, and the clock."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import composed, run_cell

from finegrid.config import Budget, OptimConfig, RunConfig
from finegrid.errors import UserError
from finegrid.runs.record import Record
from finegrid.strategies.fused_trainer import SharedTimer
from finegrid.training import budget
from finegrid.training.budget import BudgetTimer, schedule
from finegrid.training.state import TrainState

OPTIM = OptimConfig(lr=1.0, head_lr=None, weight_decay=0.0, warmup=0.1, schedule="linear", clip=0.0)


def ended(tmp_path_factory: pytest.TempPathFactory, unit: str, amount: float) -> Record:
    """A short run under a budget."""
    directory = tmp_path_factory.mktemp(unit)
    return run_cell(directory, f"budget={unit}", f"budget.{unit}={amount}", "method=head",
                    "data.fraction=0.2", "evaluations=2")  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "amount"),
    [("epochs", 1.5), ("steps", 7), ("examples", 200), ("tokens", 5000), ("seconds", 0.5)],
)
def test_a_run_ends_inside_its_budget_plus_one_step(
    tmp_path_factory: pytest.TempPathFactory, unit: str, amount: float
) -> None:
    record = ended(tmp_path_factory, unit, amount)
    assert record.status == "ok"
    assert (record.budget_unit, record.budget) == (unit, amount)
    batch, steps, rows = 32, record.steps, record.train_rows
    spent = {
        "epochs": record.epochs,
        "steps": steps,
        "examples": record.epochs * rows,
        "tokens": record.tokens_per_second * record.train_seconds,
        "seconds": record.train_seconds,
    }
    step = {"epochs": batch / rows, "steps": 1, "examples": batch, "tokens": 64 * batch,
            "seconds": math.inf}  # fmt: skip
    assert amount * (1 - 1e-6) <= spent[unit] < amount + step[unit]


def test_schedule() -> None:
    linear = [schedule(p, warmup=0.1, shape="linear") for p in (0, 0.05, 0.1, 0.55, 1, 1.2)]
    assert linear == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    assert schedule(0.9, warmup=0.1, shape="constant") == 1
    assert schedule(0.0, warmup=0.0, shape="linear") == 1


def test_the_first_step_already_moves() -> None:
    clock = BudgetTimer(Budget("steps", 10), OPTIM, rows=100)
    batch = {"labels": [0] * 10, "real_tokens": 50}
    assert clock._share_of_step(batch) == pytest.approx(0.1)
    assert schedule(0.5 * clock._share_of_step(batch), warmup=0.1, shape="linear") == 0.5


@pytest.mark.parametrize(
    ("unit", "amount"),
    [("steps", 5), ("examples", 50), ("epochs", 0.5), ("tokens", 250)],
)
def test_each_step_takes_the_rate_of_its_middle(unit: str, amount: float) -> None:
    """Five steps of 10 of 100 rows, 50 tokens each: a tenth of the budget is behind the first."""
    clock = BudgetTimer(Budget(unit, amount), OPTIM, rows=100)
    group = {"lr": 0.0, "initial_lr": 2.0}
    trainer: Any = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[group])])
    module: Any = SimpleNamespace(state=TrainState())
    batch, rates, spent, stops = {"labels": [0] * 10, "real_tokens": 50}, [], [], []
    for step in range(5):
        clock.on_train_batch_start(trainer, module, batch, step)
        rates.append(group["lr"])
        clock.on_train_batch_end(trainer, module, None, batch, step)
        spent.append(module.state.progress)
        stops.append(trainer.should_stop)
    middles = (0.1, 0.3, 0.5, 0.7, 0.9)
    assert rates == pytest.approx([2 * (1 - middle) / 0.9 for middle in middles])
    assert spent == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert stops == [False] * 4 + [True]
    assert (clock.steps, clock.examples, clock.tokens, clock.epochs) == (5, 50, 250, 0.5)


def test_a_step_of_seconds_is_as_long_as_the_mean_of_those_before() -> None:
    clock = SharedTimer(Budget("seconds", 10), OPTIM, rows=100)
    batch = {"labels": [0] * 10, "real_tokens": 50}
    nobody: Any = None
    clock.on_train_start(nobody, nobody)
    assert (clock.seconds, clock._share_of_step(batch)) == (0, 0), "it counts its credit alone"
    clock.credit(1.0, 1.0)
    clock.credit(2.0, 1.0)
    clock.steps = 2
    assert clock._share_of_step(batch) == pytest.approx(0.15)
    assert clock.progress == pytest.approx(0.3)


def test_paused_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"perf_counter": 100.0, "process_time": 7.0}
    for name in now:
        monkeypatch.setattr(budget.time, name, lambda name=name: now[name])

    def passes(seconds: float, cpu_seconds: float) -> None:
        now["perf_counter"] += seconds
        now["process_time"] += cpu_seconds

    clock = BudgetTimer(Budget("seconds", 10), OPTIM, rows=100)
    clock._resume()
    passes(2.0, 1.5)
    with clock.paused():
        passes(50.0, 40.0)
        assert clock.seconds == 2.0
    passes(1.0, 0.25)
    assert clock.seconds == 3.0
    clock._pause()
    passes(9.0, 9.0)
    assert (clock.seconds, clock.cpu_seconds) == (3.0, 1.75)


class FakeTime:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(budget, "time", self)

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


def test_seconds_count_from_the_first_step_to_the_last_without_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, now = BudgetTimer(Budget("seconds", 10), OPTIM, rows=100), FakeTime(monkeypatch)
    group = {"lr": 0.0, "initial_lr": 1.0}
    trainer: Any = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[group])])
    module: Any = SimpleNamespace(state=TrainState())
    batch, stops = {"labels": [0] * 10, "real_tokens": 50}, []
    now.now += 50  # set-up
    clock.on_train_start(trainer, module)
    for step in range(3):
        clock.on_train_batch_start(trainer, module, batch, step)
        now.now += 4
        clock.on_train_batch_end(trainer, module, None, batch, step)
        stops.append(trainer.should_stop)
        with clock.paused():
            now.now += 30
            assert clock.seconds == 4 * (step + 1)
    assert stops == [False, False, True]
    assert (clock.started, clock.seconds) == (150, 12)
    clock.on_train_end(trainer, module)
    now.now += 7
    assert clock.seconds == 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.epochs=0"], "must be above 0"),
        (["budget.epochs=-1"], "must be above 0"),
        (["budget.epochs=inf"], "must be above 0 and finite"),
        (["budget.epochs=nan"], "must be above 0 and finite"),
        (["budget.epochs=abc"], "must be a number"),
        (["+budget.steps=3"], "exactly one unit"),
        (["+budget.hours=3", "~budget.epochs"], "unknown"),
        (["evaluations=0"], "at least 1"),
        (["seed=1.5"], "integer"),
        (["select=worst"], "unknown"),
    ],
)
def test_bad_budgets(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.of(composed(*overrides))
