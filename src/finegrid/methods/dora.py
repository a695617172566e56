"""DoRA: a weight's rows as magnitude times direction (Liu et al. 2024, arXiv 2402.09353).

W' = m (W + s B A) / ||W + s B A||, the norm row by row (of each output), s = alpha / rank. m starts
as the norms of W and B as zero, so the start is exactly the pre-trained model. The norm counts as a
constant in the backward pass (section 4.3). `fold` writes W' into the weight.

Where we differ: no dropout, with which peft multiplies another W x than the site has computed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Product, bounded
from finegrid.models import surgery
from finegrid.models.anatomy import weight_matrix
from finegrid.models.sites import Sites


class WeightDecomposed(Product):
    """A low-rank update of a weight's direction, and its magnitude: one number for each output."""

    def __init__(self, weight: Tensor, inputs: int, *, rank: int, scale: float) -> None:
        super().__init__(inputs, len(weight), rank=rank, scale=scale)
        self.magnitude = nn.Parameter(weight.detach().float().norm(dim=1))

    def factors(self, weight: Tensor) -> Tensor:
        """Magnitude by norm of the updated weight (out x in), without a gradient of the norm."""
        with torch.no_grad():
            updated = weight + self.b @ self.a * self.scale
            norm: Tensor = torch.linalg.vector_norm(updated, dim=1)
        return self.magnitude / norm

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: the updated rows times their factors."""
        weight = weight_matrix(site)
        factors = self.factors(weight)
        weight.add_(self.b @ self.a * self.scale).mul_(factors[:, None])


def _decomposed(site: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    child: Any = site.get_submodule("dora")
    factors: Tensor = child.factors(weight_matrix(site)).to(y.dtype)
    bias: Tensor | None = getattr(site, "bias", None)
    plain = y if bias is None else y - bias
    update: Tensor = child(inputs[0])
    return y + (factors - 1) * plain + factors * update


class DoRA(TuningMethod):
    """Inject magnitude and low-rank direction at the matrices of some roles."""

    def __init__(
        self, *, roles: Sequence[str] | None = YAML, rank: int = YAML, alpha: float = YAML
    ) -> None:
        self.roles, self.rank, self.alpha = roles, rank, alpha

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach them; raises UserError for a rank that is no rank of such a matrix."""
        for role, site in sites.select(self.roles, None):
            inputs, _ = bounded(site.module, role, self.rank)
            made = WeightDecomposed(
                weight_matrix(site.module), inputs, rank=self.rank, scale=self.alpha / self.rank
            )
            surgery.attach(site.module, "dora", made, _decomposed)
