"""The LightningModule: one step, one optimizer, and prediction over a full set."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from finegrid import surgery
from finegrid.backbone import Backbone
from finegrid.config import OptimConfig
from finegrid.data import Encoded, sorted_batches
from finegrid.seeds import stream
from finegrid.tasks import Task


class FineTuner(pl.LightningModule):
    """A backbone and its head on one task; what trains is what `requires_grad` says."""

    def __init__(self, backbone: Backbone, task: Task, optim: OptimConfig, *, seed: int) -> None:
        super().__init__()
        self.model = backbone.model
        self.backbone = backbone
        self.task, self.optim = task, optim
        self.init_seed, self.dropout_seed = stream(seed, "init"), stream(seed, "dropout")

    def on_train_start(self) -> None:
        """Switch dropout on (weights load in eval mode and stay so) and fix its stream."""
        self.model.train()
        torch.manual_seed(self.dropout_seed)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch: cross-entropy, or squared error for regression."""
        return self.loss(batch)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Mean loss over the batch's rows, in fp32."""
        logits = logits_of(self.model, batch).float()
        if self.task.kind == "regression":
            return functional.mse_loss(logits.squeeze(-1), batch["labels"])
        return functional.cross_entropy(logits, batch["labels"])

    def configure_optimizers(self) -> Optimizer:
        """AdamW over exactly what trains; only matrices decay. The clock sets the rate."""
        parameters = list(surgery.trainable(self.model).values())
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": self.optim.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.optim.lr, fused=True
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm; Lightning refuses a fused optimizer here, for fp16's sake alone."""
        if gradient_clip_val:
            parameters = surgery.trainable(self.model).values()
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)


def logits_of(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Logits (B, outputs) of a padded batch."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    logits: Tensor = model(**{name: batch[name] for name in names if name in batch}).logits
    return logits


def predict(
    model: nn.Module, encoded: Encoded, *, batch_size: int, precision: str = "32"
) -> Tensor:
    """fp32 logits (N, outputs) on the CPU, in the rows' order, without dropout.

    The model's train or eval mode is left as it was.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    parts, order = [], []
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), autocast:
        for index, batch in sorted_batches(encoded, batch_size):
            moved = {
                name: value.to(device) for name, value in batch.items() if name != "real_tokens"
            }
            parts.append(logits_of(model, moved).float())
            order += index
    model.train(training)
    logits = torch.cat(parts).cpu()
    return torch.empty_like(logits).index_copy_(0, torch.tensor(order), logits)
