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

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.sparse_delta import SparseDifference, count, top
from finegrid.models import surgery
from finegrid.models.sites import Sites

LEFT, RIGHT, START, PACE = -1.5, 1.5, 5.0, 50.0


class GatedDifference(nn.Module):
    """w -> w + z * d with hard-concrete gates z; its delta is a sparse difference."""

    def __init__(self, weight: Tensor, *, structured: bool) -> None:
        super().__init__()
        self.shape = weight.shape
        self.difference = nn.Parameter(weight.new_zeros(weight.numel()))
        self.gates = nn.Parameter(weight.new_zeros(weight.numel()))
        self.group = nn.Parameter(weight.new_zeros(1)) if structured else None
        self.sparse: SparseDifference | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """The weight plus the delta; same shape."""
        if self.sparse is not None:
            tuned: Tensor = self.sparse(weight)
            return tuned
        return weight + self.gated().view_as(weight)

    def gated(self) -> Tensor:
        """z * d, flat; in training the gates are sampled."""
        gate = self._open(self.gates)
        if self.group is not None:
            gate = gate * self._open(self.group)
        return gate * self.difference

    def expected(self) -> Tensor:
        """The expected number of open gates, the L0 penalty of this matrix."""
        opened = torch.sigmoid(START + PACE * self.gates).sum()
        return (
            opened if self.group is None else opened * torch.sigmoid(START + PACE * self.group[0])
        )

    def project(self, places: Tensor) -> None:
        """Drop the gates and train only the entries at these flat indices from now on."""
        self.sparse = SparseDifference(self.shape, places)
        with torch.no_grad():
            self.sparse.values.copy_(self.gated()[self.sparse.places])
        self._drop()

    def to_delta(self) -> dict[str, Tensor]:
        """Values and mask of the chosen entries; none of them before the projection."""
        if self.sparse is not None:
            return self.sparse.to_delta()
        return SparseDifference(self.shape, self._nowhere()).to_delta()

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load values and mask, and drop the gates."""
        self.sparse = SparseDifference(self.shape, self._nowhere())
        self.sparse.from_delta(state)
        self._drop()

    def _drop(self) -> None:
        """Free the memory of the search; its parameters train no longer."""
        for parameter in (self.difference, self.gates, self.group):
            if parameter is not None:
                parameter.requires_grad_(False)
                parameter.grad = None
                parameter.data = parameter.new_empty(0)

    def _nowhere(self) -> Tensor:
        return torch.empty(0, dtype=torch.int64, device=self.gates.device)

    def _open(self, gates: Tensor) -> Tensor:
        logits = START + PACE * gates
        if self.training:
            logits = logits + torch.rand_like(gates).clamp(1e-6, 1 - 1e-6).logit()
        return (torch.sigmoid(logits) * (RIGHT - LEFT) + LEFT).clamp(0, 1)


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
        gated = _gated(backbone)
        training = backbone.training
        backbone.eval()  # the expected gates, not a sample
        chosen = top([m.gated().detach().abs() for m in gated], self.density, together=True)
        for module, places in zip(gated, chosen, strict=True):
            module.project(places)
        backbone.train(training)
        self.checkpointable, self.lr_scale = True, self.refit_rate
        return True

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Add the gradient of the L0 penalty during the search."""
        if not self.checkpointable:
            penalty = torch.stack([module.expected() for module in _gated(backbone)]).sum()
            (self.l0 * penalty).backward()  # type: ignore[no-untyped-call]


def _gated(backbone: nn.Module) -> list[GatedDifference]:
    return [module for module in backbone.modules() if isinstance(module, GatedDifference)]
