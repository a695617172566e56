"""LoKr: a Kronecker product beside frozen matrices (Yeh et al. 2024, arXiv 2309.14859).

dW = (alpha / rank) C (x) (B A). A width w is split into the two factors nearest to its root, w1 <=
w2; C has the first ones of output and input, B A the second ones. Where the rank is half of these
or more, one matrix D stands for B A. C starts at zero and the others as a fresh Linear's, so the
start is exactly the pre-trained model.

Where we differ: LyCORIS starts with B zero and C drawn, and scales by 1 where D stands for B A; we
start and scale as peft does.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach, bounded
from finegrid.models.sites import Sites


class KroneckerUpdate(Update):
    """dW = scale C (x) B A, or C (x) D."""

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float) -> None:
        super().__init__()
        self.rank, self.scale = rank, scale
        (rows, high), (columns, wide) = factors(outputs), factors(inputs)
        self.c = nn.Parameter(torch.zeros(rows, columns))
        if self.full(rank, high, wide):
            self.d = nn.Parameter(torch.empty(high, wide))
        else:
            self.b = nn.Parameter(torch.empty(high, rank))
            self.a = nn.Parameter(torch.empty(rank, wide))
        for name, drawn in self.named_parameters():
            if name != "c":
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))

    @staticmethod
    def full(rank: int, high: int, wide: int) -> bool:
        """Whether a product of two matrices would not be smaller."""
        return rank >= max(high, wide) / 2

    def matrix(self) -> Tensor:
        """The Kronecker product, out x in."""
        second = self.d if hasattr(self, "d") else self.b @ self.a
        return torch.kron(self.c, second) * self.scale


def factors(width: int) -> tuple[int, int]:
    """Two numbers, the first not larger, with this product and as near to each other as can be."""
    first = next(n for n in range(math.isqrt(width), 0, -1) if width % n == 0)
    return first, width // first


class LoKr(TuningMethod):
    """Inject Kronecker products at the matrices of some roles."""

    def __init__(
        self, *, roles: Sequence[str] | None = YAML, rank: int = YAML, alpha: float = YAML
    ) -> None:
        self.roles, self.rank, self.alpha = roles, rank, alpha

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach them; raises UserError for a rank that is no rank of such a matrix."""
        attach(sites, self.roles, "lokr", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> KroneckerUpdate:
        return KroneckerUpdate(
            *bounded(linear, role, self.rank), rank=self.rank, scale=self.alpha / self.rank
        )
