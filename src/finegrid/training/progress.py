"""A progress bar over a run's budget."""

import sys
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from finegrid.training.budget import BudgetTimer
from finegrid.training.checkpoint import BestCheckpoint


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
        self.bar.set_postfix(validation=f"{self.selection.last.value:.4f}", refresh=False)
        self.bar.update(min(self.clock.progress, 1.0) - self.bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        assert self.bar is not None
        self.bar.close()
