"""LISA: a few layers at a time train, drawn anew every round (Pan et al. 2024, arXiv 2403.17919).

The embeddings, the head and whatever else lies outside the layers always train. The budget is cut
into `rounds` equal parts; in each of them `active_layers` layers train, drawn uniformly without
replacement, and all others are frozen. The optimizer is made anew when the draw changes, so no
frozen layer has moments.

What trains in any round belongs to the delta, drawn once from the run's seed: a run stores every
layer that was ever active, nearly the model, and what it saves is memory and time of training. A
frozen layer's weights get no gradient: 4 FLOPs a weight and token in place of 6, the embeddings'
gradient still passing through all layers. Outside of Lightning (`finegrid.apply`) these gradients
are computed and dropped.

Where we differ: the authors' code (LMFlow) draws every so many steps, 20 in its script; here a
round is a share of the budget. It sets `requires_grad` alone, so that moments go on and a layer
that is drawn again finds those it had; here AdamW restarts in every round, for embeddings and head
too. The draw is uniform, as there.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites


class LISA(TuningMethod):
    """Train a few random layers in each round, and always what lies outside the layers."""

    def __init__(self, *, active_layers: int = YAML, rounds: int = YAML) -> None:
        require(rounds >= 1, f"method.rounds={rounds} must be at least 1")
        self.active_layers, self.rounds = active_layers, rounds
        self.round = 0
        self.idle: list[list[nn.Module]] = []  # of each round, what trains in others alone
        self.hook: RemovableHandle | None = None

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Draw the layers of every round; unfreeze them all, and what lies outside the layers.

        Raises:
            UserError: for more layers than there are, or none.
        """
        layers = [site.module for site in sites["layer"]]
        count = self.active_layers
        require(
            1 <= count <= len(layers),
            f"method.active_layers={count} must lie in [1, {len(layers)}], the number of layers",
        )
        draws = [
            set(torch.randperm(len(layers), device="cpu")[:count].tolist())
            for _ in range(self.rounds)
        ]
        drawn = sorted(set().union(*draws))
        inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
        surgery.unfreeze(p for p in backbone.parameters() if id(p) not in inside)
        for number in drawn:
            surgery.unfreeze(layers[number].parameters())
        self.idle = [[layers[number] for number in drawn if number not in draw] for draw in draws]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Apply the method, and leave out the gradients of what does not train in a round."""
        super().setup(trainer, pl_module, stage)
        module: Any = pl_module
        if self.hook is None:
            self.hook = module.model.base_model.register_forward_pre_hook(self._freeze)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the model as it was."""
        if self.hook is not None:
            self.hook.remove()
            self.hook = None

    def _freeze(self, backbone: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Before a pass with gradients; `after_backward` lets what belongs to the delta train."""
        if torch.is_grad_enabled():
            for layer in self.idle[self.round]:
                surgery.freeze(layer)

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Drop the gradients of the layers that do not train in this round."""
        for layer in self.idle[self.round]:
            layer.requires_grad_(True)
            layer.zero_grad(set_to_none=True)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Begin the round that the budget has come to."""
        before, self.round = self.round, min(int(progress * self.rounds), self.rounds - 1)
        return self.round != before
