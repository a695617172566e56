"""What a head does beside the gradient: it starts from training rows, and follows the steps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from finegrid.models.heads import Head
from finegrid.training.module import FineTuner, logits_of

ROWS = 64  # of a pass


def begin(head: Head, module: FineTuner) -> None:
    """Let a head start from training rows, spread evenly; call it before the method's surgery."""
    rows = module.train_rows
    if rows is None or not head.rows_at_start or not len(rows):
        return
    count = min(len(rows), head.rows_at_start)
    chosen = np.linspace(0, len(rows) - 1, count).astype(int)
    training = module.model.training
    module.model.eval()

    def passes() -> Iterator[Tensor]:
        for start in range(0, count, ROWS):
            batch = rows.batch(chosen[start : start + ROWS].tolist())
            del batch["real_tokens"]
            moved = {name: value.to(module.device) for name, value in batch.items()}
            logits_of(module.model, moved)
            yield moved["labels"]

    with torch.no_grad():
        head.begin(module.model, passes())
    module.model.train(training)


class HeadUpdates(pl.Callback):
    """Calls a run's head before training and after each step."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the head, on the device, before the method operates."""
        module: Any = pl_module
        module.to(trainer.strategy.root_device)
        begin(self.head, module)

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Let the head follow the step."""
        self.head.after_step(module.model, batch["labels"])
