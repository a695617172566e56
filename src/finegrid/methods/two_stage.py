"""Two-stage fine-tuning: the head first, under a reweighted loss, then everything.

ValizadehAslani et al. 2022, arXiv 2207.10858, for classes of uneven size. For the first
`head_share` of the budget the backbone is frozen and the head trains under class-balanced
reweighting (Cui et al. 2019, arXiv 1901.05555, the loss `reweighted`); then every parameter trains
under the run's own loss, with a fresh optimizer.

    stage 1   theta = theta_0,   head by mean w_y CE(z, y),  w_c ~ 1 / (1 - beta^n_c)
    stage 2   theta = theta_0 + delta, delta unrestricted,   by CE(z, y)

Where we differ: the authors decay the rate in each stage by itself, 1e-4 and then 1e-5 in the code
of their sequel (github.com/TahaAslani/two-stage-fine-tuning); here one schedule spans both, the
head keeps its own rate throughout, and stage 2 has no warm-up. In that code stage 1 also trains
the pooler and the top layer, as the sequel does; the 2022 paper trains the final layer, and so do
we. The length of stage 1 there is one epoch of two, hence a half. Labels that are no classes have
nothing to balance: their stage 1 runs under the kind's own loss.
"""

from typing import Any

from torch import nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites


class TwoStage(TuningMethod):
    """Train the head, then every parameter."""

    def __init__(self, *, head_share: float = YAML, beta: float = YAML) -> None:
        require(
            0 < head_share < 1,
            f"method.head_share={head_share:g} is no share of the budget in (0, 1)",
        )
        require(0 <= beta < 1, f"method.beta={beta:g} must lie in [0, 1)")
        self.head_share = head_share
        self.frozen = self.checkpointable = False
        self.lr_scale = 0.0  # nothing below the head moves in the step before it is frozen
        self.phase_loss: dict[str, Any] | None = {"name": "reweighted", "beta": beta}

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every parameter, as a run delivers it."""
        surgery.unfreeze(backbone.parameters())

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Freeze the backbone after the first step, and let it train when the stage ends."""
        if self.checkpointable or (self.frozen and progress < self.head_share):
            return False
        self.frozen = progress < self.head_share
        if self.frozen:
            surgery.freeze(backbone)
        else:
            surgery.unfreeze(backbone.parameters())
            self.checkpointable, self.lr_scale, self.phase_loss = True, 1.0, None
        return True
