"""The budget: how much a run has trained, its learning-rate schedule, and when it must stop."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch

from finegrid.config import Budget, OptimConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.training import heartbeat

DONE = 1 - 1e-9  # sums of fractions of an epoch end this close to one


def epochs(budget: Budget, rows: TokenizedDataset, batch_size: int) -> float | None:
    """Passes over the training rows that a budget allows; None for seconds, which do not tell."""
    epoch = {
        "epochs": 1,
        "steps": math.ceil(len(rows) / batch_size),
        "examples": len(rows),
        "tokens": int(rows.lengths.sum()),
    }
    return budget.amount / epoch[budget.unit] if budget.unit in epoch else None


class BudgetTimer(pl.Callback):
    """Counts steps, examples, tokens, epochs and seconds of training; stops at the budget.

    Seconds are wall-clock time between the first step and the last, minus everything done under
    `paused` (evaluation and saving). The learning rate follows the share of the budget that is
    spent by the middle of a step, in whichever unit the budget is given, so every run's schedule
    spans exactly its budget. A run overshoots its budget by less than one step.
    """

    def __init__(self, budget: Budget, optim: OptimConfig, *, rows: int) -> None:
        self.budget, self.optim, self.rows = budget, optim, rows
        self.steps = self.examples = self.tokens = 0
        self.phase = (0.0, 1.0)  # shares of the budget that the schedule spans now
        self.started = 0.0  # time.perf_counter() at the first step
        self._seconds, self._since = 0.0, 0.0
        self.cpu_seconds, self._cpu_since = 0.0, 0.0  # of all threads, while the clock ran

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self._seconds + (time.perf_counter() - self._since if self._since else 0.0)

    @property
    def epochs(self) -> float:
        """Passes over the training rows so far."""
        return self.examples / max(1, self.rows)  # none of none

    @property
    def progress(self) -> float:
        """Share of the budget that is spent; 1 or a little more at the end."""
        return float(getattr(self, self.budget.unit)) / self.budget.amount

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock inside, once queued device work is done."""
        self._pause()
        yield
        self._resume()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, after set-up."""
        self.started = time.perf_counter()
        self._resume()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set this step's learning rate."""
        middle = self.progress + 0.5 * self._share_of_step(batch)
        begin, end = self.phase
        spent = (middle - begin) / (end - begin)
        factor = schedule(spent, warmup=self.optim.warmup, shape=self.optim.schedule)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * factor

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Count the step and stop the run once the budget is spent."""
        self.count(1, len(batch["labels"]), batch["real_tokens"])
        module.state.progress = self.progress
        trainer.should_stop = self.progress >= DONE

    def count(self, steps: int, examples: int, tokens: int) -> None:
        """Add what was spent."""
        heartbeat.beat()
        self.steps += steps
        self.examples += examples
        self.tokens += tokens

    def begin_phase(self, end: float = 1.0) -> None:
        """Let the schedule span the budget from here to its share `end`."""
        self.phase = (min(self.progress, end * DONE), end)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._pause()

    def _share_of_step(self, batch: dict[str, Any]) -> float:
        spent = {
            "steps": 1.0,
            "examples": len(batch["labels"]),
            "epochs": len(batch["labels"]) / self.rows,
            "tokens": batch["real_tokens"],
            "seconds": self.seconds / self.steps if self.steps else 0.0,
        }
        return float(spent[self.budget.unit]) / self.budget.amount

    def _pause(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._since:
            self.cpu_seconds += time.process_time() - self._cpu_since
        self._seconds, self._since = self.seconds, 0.0

    def _resume(self) -> None:
        self._since = time.perf_counter()
        self._cpu_since = time.process_time()


def schedule(progress: float, *, warmup: float, shape: str) -> float:
    """Learning-rate factor at a share of the budget: a linear rise, then as `shape` says."""
    progress = min(progress, 1.0)
    if progress < warmup:
        return progress / warmup
    return 1.0 if shape == "constant" else (1.0 - progress) / (1.0 - warmup)
