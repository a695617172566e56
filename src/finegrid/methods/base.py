"""The contract of a tuning method."""

import pytorch_lightning as pl
from torch import nn

from finegrid.backbone import Backbone
from finegrid.seeds import forked
from finegrid.sites import Sites


class TuningMethod(pl.Callback):
    """Decides what of a frozen backbone trains; override `apply`.

    `apply` may only add: thaw parameters, inject modules at sites or mask weights. It never sees
    the head, which trains alike for every method, and it needs no Trainer, so that counting,
    loading and testing use it directly.
    """

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Thaw, inject or mask; applying twice is the same as applying once."""
        raise NotImplementedError

    def tune(self, backbone: Backbone, *, seed: int) -> None:
        """Apply the method to a frozen backbone, with a stream of draws of its own."""
        with forked(seed):  # injected modules must not shift anybody else's random draws
            self.apply(backbone.model.base_model, backbone.sites)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Operate before the optimizer is made: the only hook early enough."""
        self.tune(pl_module.backbone, seed=pl_module.init_seed)  # type: ignore[arg-type]
