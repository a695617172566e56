"""`TuningMethod`, the base class of all methods: what a method may change and when it is called."""

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
    """A Lightning callback that decides which parameters train; subclasses override `apply`.

    `apply` gets a frozen backbone and may only add: unfreeze parameters, inject modules at sites or
    mask weights. It never sees the head, which trains alike for every method. It needs no Trainer,
    so counting parameters, loading a delta and tests call it directly.
    """

    starts_pretrained = True  # whether the first forward pass is exactly the pre-trained model's
    positions = 0  # how many of the backbone's positions the method takes for itself
    lr_scale = 1.0  # times optim.lr, for what trains below the head now
    checkpointable = True  # False in a temporary phase, whose weights are never the result

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze, inject or mask; idempotent."""
        raise NotImplementedError

    def choose(self, backbone: nn.Module, losses: Losses) -> None:
        """After `apply`: choose what trains by gradients on training rows (e.g. Fisher masks)."""

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Change what trains, given the share of the budget spent (0 to 1); True if it changed."""
        return False

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Change the gradients of a step, e.g. add those of a penalty."""

    def tune(self, backbone: Backbone, *, seed: int) -> None:
        """Apply the method to a frozen backbone, with the global random state forked."""
        with forked(seed):  # injected modules must not shift other random draws
            self.apply(backbone.model.base_model, backbone.sites)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Apply the method: the last hook before Lightning makes the optimizer."""
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
        """Let the method change what trains; then the optimizer is made anew."""
        module: Any = pl_module
        if self.after_step(module.model.base_model, module.state.progress):
            module.state.lr_scale = self.lr_scale
            trainer.strategy.setup_optimizers(trainer)
        module.state.checkpointable = self.checkpointable

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the method change the gradients."""
        module: Any = pl_module
        self.after_backward(module.model.base_model, module.state.progress)


def overrides(method: TuningMethod, hook: str) -> bool:
    """Whether a method, or a member of a composition, overrides a hook of `TuningMethod`."""
    if (members := getattr(method, "each", None)) is not None:
        return any(overrides(member, hook) for member in members)
    return getattr(type(method), hook) is not getattr(TuningMethod, hook)
