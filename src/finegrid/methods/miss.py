"""MiSS: one small matrix shared by shards of the input (Kang & Yin 2024, arXiv 2409.15371).

The input is cut into shards of `rank` units (the last one filled up with zeros) and their sum is
multiplied by D (rank, out), zero at the start: dW = [D^T D^T ...], cut to the width, of half the
numbers that LoRA of the same rank has, and of no random draw at all.

Where we differ: no dropout; the balanced form alone, neither `bat` nor `mini`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach
from finegrid.models.anatomy import widths
from finegrid.models.sites import Sites


class ShardUpdate(Update):
    """dW = D^T side by side."""

    def __init__(self, inputs: int, outputs: int, *, rank: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.d = nn.Parameter(torch.zeros(rank, outputs))

    def matrix(self) -> Tensor:
        """D^T side by side, out x in."""
        times = -(-self.inputs // len(self.d))
        return self.d.T.repeat(1, times)[:, : self.inputs]

    def forward(self, x: Tensor) -> Tensor:
        """D of the sum of the shards."""
        rank = len(self.d)
        padded = functional.pad(x, (0, -self.inputs % rank))
        return padded.reshape(*x.shape[:-1], -1, rank).sum(dim=-2) @ self.d


class MiSS(TuningMethod):
    """Inject a matrix for the sum of shards at the matrices of some roles."""

    def __init__(self, *, roles: Sequence[str] | None = YAML, rank: int = YAML) -> None:
        self.roles, self.rank = roles, rank

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach it; raises UserError for a rank above a matrix's input width."""
        attach(sites, self.roles, "miss", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> ShardUpdate:
        inputs, outputs = widths(linear)
        require(
            1 <= self.rank <= inputs,
            f"method.rank={self.rank} must lie in [1, {inputs}], what {role} reads being as wide",
        )
        return ShardUpdate(inputs, outputs, rank=self.rank)
