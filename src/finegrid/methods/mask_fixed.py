"""Fixed masks: controls for the methods that learn a mask; only the head trains.

    w = w_0 * b, b zero at random places, or at the smallest |w_0| of each matrix (pruning)

The gain of a learned mask is its score minus that of `mask_magnitude` at the same sparsity.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import one_of
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.mask import Mask, pruned_count, smallest
from finegrid.models import surgery
from finegrid.models.sites import Sites


class MaskFixed(TuningMethod):
    """Set a share of each chosen matrix to zero."""

    starts_pretrained = False
    yaml = "mask_magnitude"

    def __init__(
        self,
        *,
        rule: str = YAML,
        sparsity: float = YAML,
        roles: Sequence[str] | None = YAML,
        layers: Sequence[int] | str | None = YAML,
    ) -> None:
        one_of("method.rule", rule, ("random", "magnitude"))
        self.rule, self.sparsity = rule, sparsity
        self.roles, self.layers = roles, layers

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Mask every chosen matrix."""
        for module, weight in sites.matrices(self.roles, self.layers):
            mask = Mask(~self._pruned(weight))
            surgery.reparametrize(module, "weight", "mask_fixed", mask)

    def _pruned(self, weight: Tensor) -> Tensor:
        if self.rule == "magnitude":
            return smallest(weight, self.sparsity)
        places = torch.randperm(weight.numel(), device=weight.device)
        flat = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        flat[places[: pruned_count(self.sparsity, weight.numel())]] = True
        return flat.view_as(weight)
