"""The contract of a tuning method."""

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from finegrid.backbone import Backbone
from finegrid.seeds import forked
from finegrid.sites import Sites


Losses = Callable[[int], Iterator[Tensor]]  # so many training examples -> the loss of each


class TuningMethod(pl.Callback):
    """Decides what of a frozen backbone trains; override `apply`.

    `apply` may only add: thaw parameters, inject modules at sites or mask weights. It never sees
    the head, which trains alike for every method, and it needs no Trainer, so that counting,
    loading and testing use it directly.
    """

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Thaw, inject or mask; applying twice is the same as applying once."""
        raise NotImplementedError

    def choose(self, backbone: nn.Module, losses: Losses) -> None:
        """Choose what trains by gradients on training rows, after `apply`; most methods do not."""

    def tune(self, backbone: Backbone, *, seed: int) -> None:
        """Apply the method to a frozen backbone, with a stream of draws of its own."""
        with forked(seed):  # injected modules must not shift anybody else's random draws
            self.apply(backbone.model.base_model, backbone.sites)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Operate before the optimizer is made: the only hook early enough."""
        module: Any = pl_module
        self.tune(module.backbone, seed=module.init_seed)
        self.choose(module.backbone.model.base_model, module.losses)
