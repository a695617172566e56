"""When a run validates, which weights it keeps and what it writes of its curve; without a model."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from finegrid.config import Budget
from finegrid.errors import Diverged
from finegrid.training import checkpoint
from finegrid.training.checkpoint import BestCheckpoint, passes
from finegrid.training.state import TrainState


class FakeClock:
    """A clock that a test sets; it counts how often it was paused."""

    steps, progress, seconds, pauses = 0, 0.0, 0.0, 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pauses += 1
        yield


class Bench:
    """A selection whose validation gives the values that it is told."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, curve: Path, *, evaluations: int, values: list[float]
    ) -> None:
        self.clock: Any = FakeClock()
        rows: Any = SimpleNamespace(labels=torch.zeros(4))
        self.selection = BestCheckpoint(
            self.clock, rows, evaluations=evaluations, batch_size=4, curve=curve
        )
        self.logged: list[tuple[dict[str, float], int]] = []
        logger = SimpleNamespace(log_metrics=lambda told, step: self.logged.append((told, step)))
        self.trainer: Any = SimpleNamespace(precision="32-true", loggers=[logger])
        left = iter(values)
        task = SimpleNamespace(
            headline="f1",
            score=lambda *_: {"f1": next(left)},
            degenerate=lambda _: False,
            loss_of_all=lambda *_: 0.5,
            calibrates=False,
        )
        self.module: Any = SimpleNamespace(
            model=nn.Linear(1, 1, bias=False),
            task=task,
            state=TrainState(),
            device=torch.device("cpu"),
        )
        monkeypatch.setattr(checkpoint, "predict", lambda *_, **__: torch.zeros(4, 2))
        self.selection.on_train_start(self.trainer, self.module)

    def step(self, progress: float, loss: float = 1.0) -> None:
        """One step of training: the weight becomes the step's number."""
        self.clock.steps, self.clock.progress = self.clock.steps + 1, progress
        self.clock.seconds += 2.0
        with torch.no_grad():
            self.module.model.weight.fill_(self.clock.steps)
        outputs = {"loss": torch.tensor(loss)}
        self.selection.on_train_batch_end(self.trainer, self.module, outputs, None, 0)

    def kept(self) -> float:
        """The weight after the best was put back."""
        self.selection.restore(self.module)
        return self.module.model.weight.item()


def run(bench: Bench, shares: Sequence[float]) -> list[int]:
    """The steps after which it validated."""
    seen = []
    for share in shares:
        before = bench.clock.pauses
        bench.step(share)
        if bench.clock.pauses > before:
            seen.append(bench.clock.steps)
    return seen


class Rows:
    """Tokenised rows as far as their lengths."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = np.asarray(lengths)

    def __len__(self) -> int:
        return len(self.lengths)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"epochs": 4}, 5),  # 4 x 100 tokens, a quarter of which is 5 x 20
        ({"epochs": 3.9}, 4),
        ({"epochs": 100}, 9),  # at most as many as asked for
        ({"epochs": 0.01}, 2),  # at least two
        ({"examples": 40}, 5),
        ({"steps": 16}, 5),  # four of 3, 3, 3 and 1 rows are an epoch
        ({"tokens": 400}, 5),
        ({"seconds": 1e-3}, 9),  # whose tokens nobody knows
    ],
    ids=str,
)
def test_validation_reads_a_quarter_of_the_tokens_at_most(
    budget: dict[str, float], expected: int
) -> None:
    train: Any = Rows(*[10] * 10)
    validation: Any = Rows(15, 5)
    given = Budget.of(OmegaConf.create(budget))
    more = {"train": train, "validation": validation, "batch_size": 3}
    assert passes(9, given, **more) == expected
    assert passes(1, given, **more) == 1, "one is enough where one is asked for"


@pytest.mark.parametrize(
    ("evaluations", "shares", "expected"),
    [
        (2, (0.25, 0.5, 0.75, 1.0), [2, 4]),
        (1, (0.5, 0.99, 1.0), [3]),
        (4, (0.6, 0.65, 0.7, 1.2), [1, 4]),  # steps may pass more than one share
        (9, (0.5, 1.0), [1, 2]),
        (3, (1 / 3 - 1e-12, 2 / 3 - 1e-12, 1 - 1e-12), [1, 2, 3]),  # sums of fractions of an epoch
    ],
)
def test_validation_comes_at_even_shares_of_the_budget_off_the_clock(
    evaluations: int, shares: tuple[float, ...], expected: list[int],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    bench = Bench(monkeypatch, tmp_path / "c", evaluations=evaluations, values=[0.5] * 9)
    assert run(bench, shares) == expected


@pytest.mark.parametrize(
    ("values", "best"),
    [([0.2, 0.4, 0.3], 2), ([0.4, 0.4, 0.4], 1), ([-0.3, -0.2, -0.1], 3), ([0.0, -1.0, 0.0], 1)],
)
def test_the_first_of_the_best_is_kept_and_put_back(
    values: list[float], best: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, tmp_path / "c", evaluations=3, values=values)
    run(bench, (1 / 3, 2 / 3, 1.0))
    chosen, last = bench.selection.best, bench.selection.last
    assert (chosen.step, chosen.value, chosen.scores) == (
        best, values[best - 1], {"f1": values[best - 1]},
    )  # fmt: skip
    assert (last.step, last.value) == (3, values[-1])
    assert bench.kept() == best


def test_what_is_not_checkpointable_is_never_the_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, tmp_path / "c", evaluations=3, values=[0.9, 0.2, 0.1])
    bench.module.state.checkpointable = False
    bench.step(1 / 3)
    bench.module.state.checkpointable = True
    bench.step(2 / 3)
    bench.step(1.0)
    assert (bench.selection.best.step, bench.kept()) == (2, 2)


def test_the_curve_has_the_mean_loss_since_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, tmp_path / "c", evaluations=2, values=[0.5, 0.25])
    for share, loss in ((0.25, 4.0), (0.5, 2.0), (0.75, 1.0), (1.0, 0.5)):
        bench.step(share, loss)
    lines = list(csv.reader((tmp_path / "c").open(encoding="utf-8")))
    assert lines == [
        ["step", "seconds", "loss", "validation"],
        ["2", "4.000", "3.00000", "0.50000"],
        ["4", "8.000", "0.75000", "0.25000"],
    ]
    assert bench.logged == [
        ({"validation/f1": 0.5}, 2),
        ({"validation/f1": 0.25}, 4),
    ]


def test_a_loss_that_is_not_finite_ends_the_run_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, tmp_path / "c", evaluations=1, values=[0.5])
    bench.step(0.25)
    with pytest.raises(Diverged, match=r"became nan at step 2; lower optim\.lr"):
        bench.step(0.5, float("nan"))


def test_seconds_of_every_validation_are_summed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ticks = iter([0.0, 3.0, 10.0, 15.0])
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    bench = Bench(monkeypatch, tmp_path / "c", evaluations=2, values=[0.5, 0.6])
    run(bench, (0.5, 1.0))
    assert bench.selection.seconds == 8.0
