"""Threshold masking: real scores are binarized to a mask over frozen weights.

Zhao et al. 2020, arXiv 2004.12406. With one score m per weight and a fixed threshold t,

    w = w_0 * [m > t], in training and evaluation; straight-through gradient

    start: uniform     m ~ U(-0.02, 0.03 / s - 0.02), so that a share s is zero (t = 0.01)
           magnitude   m = 0 for the smallest s of |w_0| in each matrix, else 2 t

Where we differ: the pooler is not masked, as for every method here that does not name it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import one_of, require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.mask import THRESHOLD, ThresholdMask, pruned_count, smallest
from finegrid.models import surgery
from finegrid.models.sites import Sites

SCALE = 0.02


class MaskThreshold(TuningMethod):
    """Learn which weights of the chosen matrices are set to zero, without sampling."""

    starts_pretrained = False

    def __init__(
        self,
        *,
        start: str = YAML,
        sparsity: float = YAML,
        roles: Sequence[str] | None = YAML,
        layers: Sequence[int] | str | None = YAML,
    ) -> None:
        one_of("method.start", start, ("uniform", "magnitude"))
        pruned_count(sparsity, 1)  # refuses a sparsity out of range
        require(
            start == "magnitude" or sparsity > 0,
            "method.sparsity=0 has no uniform start; use a small one, or method.start=magnitude",
        )
        self.start, self.sparsity = start, sparsity
        self.roles, self.layers = roles, layers

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put scores on every chosen matrix."""
        for module, weight in sites.matrices(self.roles, self.layers):
            mask = ThresholdMask(self._scores(weight))
            surgery.reparametrize(module, "weight", "mask_threshold", mask)

    def _scores(self, weight: Tensor) -> Tensor:
        if self.start == "magnitude":
            return torch.where(smallest(weight, self.sparsity), 0.0, 2 * THRESHOLD)
        high = (SCALE + THRESHOLD) / self.sparsity - SCALE
        return torch.empty_like(weight).uniform_(-SCALE, high)
