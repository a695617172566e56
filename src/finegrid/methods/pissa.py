"""PiSSA: LoRA that starts from a weight's principal part (Meng et al. 2024, arXiv 2404.02948).

W = U S V^T; A and B start as sqrt(S_r / s) V_r^T and U_r sqrt(S_r / s), s = alpha / rank, and

    y = (W - s B_0 A_0) x + b + s B A x,

so the residual matrix is frozen, its principal part trains and the start is exactly the pre-trained
model. The backbone's weight stays as it is: the product of the first factors is subtracted from the
output instead. These are computed anew from the stock checkpoint when a delta is loaded, which
holds A and B alone; B_0 A_0, the truncated W, does not depend on the signs that an SVD chooses.

Where we differ: a full SVD, not the paper's randomised one; no dropout, after which the start would
not be the pre-trained model in training.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import LowRank, attach, bounded
from finegrid.models.anatomy import weight_matrix
from finegrid.models.sites import Sites


class Principal(LowRank):
    """dW = s (B A - B_0 A_0), with the principal part of a weight (out x in) as the start."""

    first_a: Tensor
    first_b: Tensor

    def __init__(self, weight: Tensor, *, rank: int, scale: float) -> None:
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs, rank=rank, scale=scale)
        left, values, right = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        root = (values[:rank] / scale).sqrt()
        self.a = nn.Parameter(root[:, None] * right[:rank])
        self.b = nn.Parameter(left[:, :rank] * root)
        self.register_buffer("first_a", self.a.detach().clone(), persistent=False)
        self.register_buffer("first_b", self.b.detach().clone(), persistent=False)

    def matrix(self) -> Tensor:
        """The difference of both products."""
        return (self.b @ self.a - self.first_b @ self.first_a) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The same without making the matrix."""
        first = functional.linear(functional.linear(x, self.first_a), self.first_b)
        return super().forward(x) - first * self.scale


class PiSSA(TuningMethod):
    """Inject the principal part of the matrices of some roles."""

    def __init__(
        self, *, roles: Sequence[str] | None = YAML, rank: int = YAML, alpha: float = YAML
    ) -> None:
        self.roles, self.rank, self.alpha = roles, rank, alpha

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach it; raises UserError for a rank that is no rank of such a matrix."""
        attach(sites, self.roles, "pissa", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> Principal:
        bounded(linear, role, self.rank)
        return Principal(weight_matrix(linear), rank=self.rank, scale=self.alpha / self.rank)
