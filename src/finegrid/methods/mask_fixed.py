"""Fixed masks: the controls of every method that learns one; only the head trains.

    w = w_0 * b, b zero at random places, or at the smallest |w_0| of each matrix (pruning)

What a learned mask scores beyond `mask_magnitude` of its sparsity is what learning it is worth.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import one_of
from finegrid.methods.base import TuningMethod
from finegrid.methods.modules.mask import Mask, smallest, zeros
from finegrid.models import surgery
from finegrid.models.sites import Sites


class MaskFixed(TuningMethod):
    """Zero a share of each chosen matrix, once and for all."""

    starts_pretrained = False

    def __init__(
        self,
        *,
        rule: str,
        sparsity: float,
        roles: Sequence[str] | None,
        layers: Sequence[int] | str | None,
    ) -> None:
        one_of("method.rule", rule, ("random", "magnitude"))
        self.rule, self.sparsity = rule, sparsity
        self.roles, self.layers = roles, layers

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Mask every chosen matrix."""
        for module, weight in sites.matrices(self.roles, self.layers):
            kept = ~self._pruned(weight)
            surgery.reparametrize(module, "weight", "mask_fixed", Mask(kept))

    def _pruned(self, weight: Tensor) -> Tensor:
        if self.rule == "magnitude":
            return smallest(weight, self.sparsity)
        places = torch.randperm(weight.numel(), device=weight.device)
        flat = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        flat[places[: zeros(self.sparsity, weight.numel())]] = True
        return flat.view_as(weight)
