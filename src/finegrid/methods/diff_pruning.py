"""Diff pruning: learn a dense delta under an L0 penalty, then train only its largest entries.

Guo, Rush & Kim 2020, arXiv 2012.07463. First stage, with a gate a per weight (and, structured, one
per matrix g) and u ~ U(0, 1):

    w = w_0 + z * d      z = clamp(sigmoid(logit(u) + a) (r - l) + l, 0, 1), l = -1.5, r = 1.5
    penalty = l0 * sum sigmoid(a) * sigmoid(g)     the expected number of open gates: log(-l/r) = 0
    structured: z = z(a) * z(g)                    start: d = 0, a = g = 5

After `search_share` of the budget the `density` largest |z * d| of all matrices together become a
sparse delta, and only those entries train for the rest.

Where we differ: both stages share one budget and one learning-rate schedule, the second at
`refit_rate` times the rate and with a fresh optimizer. Adam moves every parameter by about the
learning rate a step; gates must move by several units, differences by thousandths, so a gate is
PACE times its parameter. Matrices of the layers only: no biases,
no embeddings.
"""

from torch import nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.gated_difference import GatedDifference, penalty, project
from finegrid.methods.modules.sparse_delta import count
from finegrid.models import surgery
from finegrid.models.sites import Sites


class DiffPruning(TuningMethod):
    """Search which entries of the matrices to train, then train only those."""

    def __init__(
        self,
        *,
        density: float = YAML,
        structured: bool = YAML,
        l0: float = YAML,
        search_share: float = YAML,
        refit_rate: float = YAML,
        search: float | None = None,  # the name of `search_share` until 0.9
    ) -> None:
        count(density, 1)  # refuses a density out of range
        require(l0 >= 0, f"method.l0={l0:g} is negative")
        share = search_share if search is None else search
        require(0 < share < 1, f"method.search_share={share:g} must lie in (0, 1), of the budget")
        require(refit_rate > 0, f"method.refit_rate={refit_rate:g} must be above 0")
        self.density, self.structured, self.l0 = density, structured, l0
        self.search_share, self.refit_rate = share, refit_rate
        self.checkpointable = False

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put a gated difference on every weight matrix of the layers."""
        for module, weight in sites.matrices(None, None):
            gated = GatedDifference(weight.detach(), structured=self.structured)
            surgery.reparametrize(module, "weight", "diff_pruning", gated)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """When the search ends, train only the largest entries."""
        if self.checkpointable or progress < self.search_share:
            return False
        project(_gated(backbone), self.density)
        self.checkpointable, self.lr_scale = True, self.refit_rate
        return True

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Add the gradient of the L0 penalty during the search."""
        if not self.checkpointable:
            (self.l0 * penalty(_gated(backbone))).backward()  # type: ignore[no-untyped-call]


def _gated(backbone: nn.Module) -> list[GatedDifference]:
    return [module for module in backbone.modules() if isinstance(module, GatedDifference)]
