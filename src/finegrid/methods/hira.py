"""HiRA: a weight times a low-rank matrix, entry by entry (Huang et al., ICLR 2025).

dW = W * (B A), whose rank is not bounded by that of B A. A is drawn as a fresh Linear's and B is
zero, so the start is exactly the pre-trained model. openreview.net/forum?id=TwJrTz9cRS has the
paper.

Where we differ: no dropout; query and value, where the paper tunes query, key, value, up and down.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Product, bounded
from finegrid.models import surgery
from finegrid.models.anatomy import weight_matrix
from finegrid.models.sites import Sites


class HadamardFactor(Product):
    """B A, by which a weight is multiplied."""

    def of(self, site: Any) -> Tensor:
        """W * (B A), out x in."""
        return weight_matrix(site) * (self.b @ self.a)

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: add W * (B A) to the site's weight."""
        weight_matrix(site).add_(self.of(site))


def _multiplied(site: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    child: Any = site.get_submodule("hira")
    return y + functional.linear(inputs[0], child.of(site))


class HiRA(TuningMethod):
    """Inject low-rank factors of the entries at the matrices of some roles."""

    def __init__(self, *, roles: Sequence[str] | None = YAML, rank: int = YAML) -> None:
        self.roles, self.rank = roles, rank

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach them; raises UserError for a rank that is no rank of such a matrix."""
        for role, site in sites.select(self.roles, None):
            widths = bounded(site.module, role, self.rank)
            child = HadamardFactor(*widths, rank=self.rank, scale=1.0)
            surgery.attach(site.module, "hira", child, _multiplied)
