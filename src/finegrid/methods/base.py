"""The contract of a tuning method."""

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.seeds import forked

# (so many training examples, batch size) -> mean loss of each batch, with its graph
Losses = Callable[[int, int], Iterator[Tensor]]


class TuningMethod(pl.Callback):
    """Decides what of a frozen backbone trains; override `apply`.

    `apply` may only add: unfreeze parameters, inject modules at sites or mask weights. It never
    sees the head, which trains alike for every method, and it needs no Trainer, so that counting,
    loading and testing use it directly.
    """

    starts_pretrained = True  # whether the first forward pass is exactly the pre-trained model's
    positions = 0  # how many of the backbone's positions the method takes for itself
    rate = 1.0  # times optim.lr, for what trains below the head now
    settled = True  # whether what trains now is what the run will deliver

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze, inject or mask; applying twice is the same as applying once."""
        raise NotImplementedError

    def choose(self, backbone: nn.Module, losses: Losses) -> None:
        """Choose what trains by gradients on training rows, after `apply`; most methods do not."""

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Change what trains once a share of the budget is spent; True if it changed."""
        return False

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Add to or take from the gradients of a step."""

    def tune(self, backbone: Backbone, *, seed: int) -> None:
        """Apply the method to a frozen backbone, with a stream of draws of its own."""
        with forked(seed):  # injected modules must not shift anybody else's random draws
            self.apply(backbone.model.base_model, backbone.sites)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Operate before the optimizer is made: the only hook early enough."""
        module: Any = pl_module
        self.tune(module.backbone, seed=module.init_seed)
        module.to(trainer.strategy.root_device)
        self.choose(module.model.base_model, module.losses)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let the method change what trains; the optimizer follows, from a fresh state."""
        module: Any = pl_module
        if self.after_step(module.model.base_model, module.progress):
            module.rate = self.rate
            trainer.strategy.setup_optimizers(trainer)
        module.settled = self.settled

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the method change the gradients."""
        module: Any = pl_module
        self.after_backward(module.model.base_model, module.progress)


def overrides(method: TuningMethod, hook: str) -> bool:
    """Whether a method, or one of those that it consists of, has its own version of a hook."""
    if (members := getattr(method, "each", None)) is not None:
        return any(overrides(member, hook) for member in members)
    return getattr(type(method), hook) is not getattr(TuningMethod, hook)
