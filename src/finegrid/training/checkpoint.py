"""Validation along the budget, and the checkpoint that the run is scored with."""

import csv
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from finegrid.config import Budget
from finegrid.data.batching import TokenizedDataset
from finegrid.errors import Diverged
from finegrid.models import surgery
from finegrid.training.budget import DONE, BudgetTimer, epochs
from finegrid.training.module import FineTuner, predict, restore

SHARE = 0.25  # of the training tokens, which validation may read at most
FEWEST = 2  # validation passes, whatever they cost: one alone selects nothing
CHECK_EVERY = 20  # steps between looks at the loss on a GPU: each look waits for the device


@dataclass(frozen=True)
class Checkpoint:
    """Validation scores after a step; `value` is the headline metric."""

    step: int = 0
    value: float = -math.inf
    scores: dict[str, float] = field(default_factory=dict)
    constant: bool = False  # one prediction for all rows


def passes(
    most: int,
    budget: Budget,
    *,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    batch_size: int,
) -> int:
    """How often a run validates: at most `most` times, and for 25 % of its training tokens.

    Tokens are counted, never timed, so it is the same on every machine and for every method. Two
    passes are made in any case, `most` where the budget is in seconds, and one without training
    rows.
    """
    if not len(train):
        return 1
    planned = epochs(budget, train, batch_size)
    if planned is None:
        return most
    tokens = planned * int(train.lengths.sum())
    return min(most, max(FEWEST, int(SHARE * tokens / int(validation.lengths.sum()))))


class BestCheckpoint(pl.Callback):
    """Scores validation at evenly spaced shares of the budget and keeps the best weights.

    Writes `curve.csv` line by line: step, seconds, loss (mean since the last line), validation.
    """

    def __init__(
        self,
        clock: BudgetTimer,
        validation: TokenizedDataset,
        *,
        evaluations: int,
        batch_size: int,
        curve: Path,
    ) -> None:
        self.clock, self.validation = clock, validation
        self.evaluations, self.batch_size, self.curve = evaluations, batch_size, curve
        self.done = self.passes = 0
        self.seconds = 0.0
        self.best = self.last = Checkpoint()
        self.lowest_loss: float | None = None  # on the validation rows, of all passes
        self.weights: dict[str, Tensor] = {}
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the curve; what a method's search took of the budget needs no pass."""
        self.done = int(self.clock.progress / DONE * self.evaluations)
        self._write("step", "seconds", "loss", "validation", mode="w")

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Collect the loss and validate when the next share of the budget is reached."""
        self._losses.append(out["loss"].detach())
        if module.device.type == "cpu" or self.clock.steps % CHECK_EVERY == 0:
            self._check(self._losses[-1])
        reached = int(self.clock.progress / DONE * self.evaluations)
        if reached > self.done:
            self.done = reached
            with self.clock.paused():
                self._validate(trainer, module)

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss became {loss.item()} at step {self.clock.steps}; lower optim.lr"
            )

    def _validate(self, trainer: pl.Trainer, module: FineTuner) -> None:
        started = time.perf_counter()
        losses = torch.stack(self._losses)
        self._losses = []
        loss = losses.mean()
        self._check(loss)
        self.validate(module, precision=str(trainer.precision))
        clock, last = self.clock, self.last
        self._write(clock.steps, f"{clock.seconds:.3f}", f"{loss:.5f}", f"{last.value:.5f}")
        self.seconds += time.perf_counter() - started
        for logger in trainer.loggers:
            named = {f"validation/{name}": score for name, score in last.scores.items()}
            logger.log_metrics(named, step=clock.steps)

    def validate(self, module: FineTuner, *, precision: str) -> None:
        """Score the validation rows, and keep the weights if none were better."""
        outputs = predict(
            module.model,
            self.validation,
            batch_size=self.batch_size,
            precision=precision,
            task=module.task,
        )
        self.passes += 1
        self._keep_loss(module.task.loss_of_all(outputs, self.validation.labels))
        task, labels = module.task, self.validation.labels
        task = task.calibrated(outputs, labels) if task.calibrates else task
        scores = task.score(outputs, labels)
        value = scores[task.headline]
        constant = task.degenerate(outputs)
        self.last = Checkpoint(self.clock.steps, value, scores, constant)
        if module.state.checkpointable and value > self.best.value:
            self.best = self.last
            self.weights = _copy(module)

    def _keep_loss(self, loss: float) -> None:
        if math.isfinite(loss) and (self.lowest_loss is None or loss < self.lowest_loss):
            self.lowest_loss = loss

    def restore(self, module: FineTuner) -> None:
        """Put the best weights back."""
        restore(module, self.weights)

    def _write(self, *cells: object, mode: str = "a") -> None:
        with self.curve.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)


def _copy(module: FineTuner) -> dict[str, Tensor]:
    named = surgery.trainable(module.model)
    return {name: value.detach().to("cpu", copy=True) for name, value in named.items()}
