"""LoHa: the Hadamard product of two low-rank matrices (Hyeon-Woo et al. 2022, arXiv 2108.06098).

dW = (alpha / rank) (B1 A1) * (B2 A2), of a rank up to rank^2. A2 starts at zero and the others as a
fresh Linear's, so the start is exactly the pre-trained model. FedPara, which the paper names it,
adds such products to nothing; LyCORIS (Yeh et al. 2024, arXiv 2309.14859) puts them beside a frozen
weight, which is what we and peft do.

Where we differ: LyCORIS draws the others from normal distributions; we draw them as peft does.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach, bounded
from finegrid.models.sites import Sites


class HadamardUpdate(Update):
    """dW = scale (B1 A1) * (B2 A2)."""

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.b1, self.b2 = (nn.Parameter(torch.empty(outputs, rank)) for _ in range(2))
        self.a1 = nn.Parameter(torch.empty(rank, inputs))
        self.a2 = nn.Parameter(torch.zeros(rank, inputs))
        for drawn in (self.b1, self.a1, self.b2):
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))

    def matrix(self) -> Tensor:
        """The product, out x in."""
        return (self.b1 @ self.a1) * (self.b2 @ self.a2) * self.scale


class LoHa(TuningMethod):
    """Inject products of two low-rank matrices at the matrices of some roles."""

    def __init__(
        self, *, roles: Sequence[str] | None = YAML, rank: int = YAML, alpha: float = YAML
    ) -> None:
        self.roles, self.rank, self.alpha = roles, rank, alpha

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach them; raises UserError for a rank that is no rank of such a matrix."""
        attach(sites, self.roles, "loha", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> HadamardUpdate:
        return HadamardUpdate(
            *bounded(linear, role, self.rank), rank=self.rank, scale=self.alpha / self.rank
        )
