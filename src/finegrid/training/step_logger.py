"""Loss, learning rate and gradient norm of a run in its loggers, every few steps."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from finegrid.training.budget import DONE, BudgetTimer

POINTS = 50  # of a run, where `log_every` does not say


class StepLogger(pl.Callback):
    """Logs every `every` steps; None: at 50 evenly spaced shares of the budget.

    `train/loss` is the mean since the last point, `train/grad_norm` the global norm before clipping
    at this step, `train/lr` the rate of what the method trains. Losses are collected as tensors and
    read when they are logged, so that no other step waits for the device.
    """

    def __init__(self, clock: BudgetTimer, every: int | None) -> None:
        self.clock, self.every = clock, every
        self.done = 0
        self._losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Collect the loss; log when a point is due."""
        self._losses.append(out["loss"].detach())
        share = self.clock.progress / DONE
        point = self.clock.steps // self.every if self.every else int(share * POINTS)
        if point > self.done:
            self.done = point
            with self.clock.paused():
                self._log(trainer, module)

    def _log(self, trainer: pl.Trainer, module: Any) -> None:
        both = torch.stack(self._losses).mean(), module.gradient_norm()
        loss, norm = torch.stack(both).tolist()
        self._losses = []
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in trainer.loggers:
            values = {"train/loss": loss, "train/lr": rate, "train/grad_norm": norm}
            logger.log_metrics(values, step=self.clock.steps)
