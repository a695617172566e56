"""How far a run has come: a bar over its budget, and a file for those who look on."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from finegrid.runs import live
from finegrid.runs.live import LiveRun
from finegrid.training.budget import BudgetTimer
from finegrid.training.checkpoint import BestCheckpoint

EVERY = 1.0  # seconds between two versions of the file, at least


class BudgetProgressBar(pl.Callback):
    """Share of the budget spent, time left and the latest validation score."""

    def __init__(self, clock: BudgetTimer, selection: BestCheckpoint) -> None:
        self.clock, self.selection = clock, selection
        self.bar: tqdm[None] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        budget = self.clock.budget
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(
            total=1.0,
            desc=f"{budget.amount:g} {budget.unit}",
            bar_format=form,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance."""
        assert self.bar is not None
        if self.selection.last.scores:
            self.bar.set_postfix(validation=f"{self.selection.last.value:.4f}", refresh=False)
        self.bar.update(min(self.clock.progress, 1.0) - self.bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        assert self.bar is not None
        self.bar.close()


class ProgressFile(pl.Callback):
    """Writes where a run stands into its directory, at most once a second.

    Between two versions a step costs a look at the clock; the loss is read, and a device waited
    for, only when it is written. `began` is when set-up began, by `time.perf_counter`.
    """

    def __init__(
        self, clock: BudgetTimer, selection: BestCheckpoint, directory: Path, *, began: float
    ) -> None:
        self.clock, self.selection, self.directory = clock, selection, directory
        self.began = began
        self._due = 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Write it, if the last version is old enough."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + EVERY
            live.write(self.directory, self._live(module, float(out["loss"])))

    def _live(self, module: Any, loss: float) -> LiveRun:
        clock, last = self.clock, self.selection.last
        return LiveRun(
            step=clock.steps,
            share=clock.progress,
            setup=clock.started - self.began,
            elapsed=time.perf_counter() - clock.started,
            seconds=clock.seconds,
            examples=clock.examples,
            tokens=clock.tokens,
            rows=clock.rows,
            unit=clock.budget.unit,
            amount=clock.budget.amount,
            metric=module.task.headline,
            loss=loss if math.isfinite(loss) else None,
            score=last.value if last.scores else None,
        )
