"""The door to the kernels: `optimize` replaces modules of a loaded model by faster ones.

It is called in one place, and only with `trainer.kernels: true`; otherwise a model is what torch
and transformers made it. What is replaced bears a name of its own in `print(model)`: CachedLinear,
AutocastLayerNorm, AutocastRMSNorm, FastDropout, UsedRowsEmbedding. Without dropout, losses and
gradients are those of the stock modules to rounding; with it, the distribution is the same but not
the draws.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from finegrid.kernels import linear
from finegrid.kernels.allocator import disable_malloc_trim
from finegrid.kernels.attention import register_attention
from finegrid.kernels.dropout import draw_from, patch_dropout
from finegrid.kernels.embedding import train_used_rows


def optimize(model: Any, *, token_ids: Callable[[], Tensor] | None = None) -> "Kernels":
    """Let a transformers model compute by the kernels, in place; call it before a method's surgery.

    `token_ids` gives every token id that training meets; the embeddings of the others then decay
    without taking part in a step. Leave it out where a method reads gradients or changes what
    trains between the steps. The callback returned does what remains when training starts.
    """
    disable_malloc_trim()
    linear.patch(model.base_model)
    patch_dropout(model)
    register_attention(model.base_model)
    return Kernels(token_ids)


class Kernels(pl.Callback):
    """Prepares the kernels for training once a method has changed the model."""

    def __init__(self, token_ids: Callable[[], Tensor] | None = None) -> None:
        self.token_ids = token_ids

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed all dropout, the method's too, and let the optimizer hold the embeddings in use."""
        module: Any = pl_module
        patch_dropout(module.model)
        draw_from(module.model, np.random.SFC64(module.dropout_seed))
        for optimizer in trainer.optimizers:
            self.narrow(optimizer, pl_module)

    def narrow(self, optimizer: Optimizer, module: pl.LightningModule) -> None:
        """Replace trained word embeddings in an optimizer by the rows in use.

        The rows become a parameter of the Lightning module, so that `zero_grad` clears theirs.
        """
        model: Any = module.model
        pair = self.token_ids and train_used_rows(model.get_input_embeddings(), self.token_ids)
        if not pair:
            return
        weight, rows = pair
        module.register_parameter("used_rows", rows)
        for group in optimizer.param_groups:
            group["params"] = [rows if p is weight else p for p in group["params"]]
