"""RandLoRA: a full-rank update from scaled random bases (Albert et al. 2025, arXiv 2502.00987).

dW = s sum_n B_n diag(l_n) A diag(g_n) over n = 1 ... ceil(min(in, out) / rank), s = alpha / rank. A
(rank, narrow) and every B_n (wide, rank) are drawn once for all matrices, divided by their standard
deviation, frozen, and cut to each matrix's widths; the vectors l_n (rank, zero at the start) and
g_n (narrow, 1 / their larger extent) train, so the start is exactly the pre-trained model. Where a
matrix reads fewer units than it returns, A reads; else the product is transposed. The bases follow
from `key` alone and are drawn as peft 0.21 draws them (`projection_prng_key`), in bfloat16; a delta
holds the vectors.

Where we differ: no dropout, no sparse bases. As in peft, the ranks and bases of both factors are
flattened in different orders, so that column (n, k) of B meets row (k, n) of A in flat order: with
random bases another pairing, not another family.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach, widest
from finegrid.models.anatomy import widths
from finegrid.models.sites import Sites


class Bases(nn.Module):
    """A (rank, narrow) and B (wide, bases, rank), which all matrices share."""

    a: Tensor
    b: Tensor

    def __init__(self, inputs: int, outputs: int, *, rank: int, key: int) -> None:
        super().__init__()
        self.key, self.rank = key, rank
        narrow, wide = sorted((inputs, outputs))
        generator = torch.Generator(device="cpu").manual_seed(key)
        a = _drawn((rank, 1, narrow), generator)[:, 0]
        count = math.ceil(narrow / rank)
        b = torch.cat([_drawn((wide, 1, rank), generator) for _ in range(count)], dim=1)
        device = torch.empty(0).device  # the current default, such as `meta`
        for name, value in (("a", a), ("b", b)):
            scaled = (value / value.std()).float().to(device)
            self.register_buffer(name, scaled, persistent=False)


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """As torch draws the weight of a Linear or convolution."""
    empty = torch.empty(shape, dtype=torch.bfloat16, device="cpu")
    return nn.init.kaiming_uniform_(empty, a=math.sqrt(5), generator=generator)


class BasesUpdate(Update):
    """dW = scale sum_n B_n diag(l_n) A diag(g_n), or its transposed."""

    def __init__(self, shared: Bases, inputs: int, outputs: int, *, scale: float) -> None:
        super().__init__()
        self.shared, self.scale, self.reads = shared, scale, inputs <= outputs
        narrow, self.wide = sorted((inputs, outputs))
        count = math.ceil(narrow / shared.rank)
        self.by_rank = nn.Parameter(torch.zeros(shared.rank, count))
        self.by_unit = nn.Parameter(torch.full((count, narrow), 1 / max(count, narrow)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """What reads, (n rank, in), and what writes, (out, n rank)."""
        count, narrow = self.by_unit.shape
        a = self.by_rank[:, :, None] * self.shared.a[:, None, :narrow] * self.by_unit
        a, b = a.flatten(end_dim=1), self.shared.b[: self.wide, :count].flatten(start_dim=1)
        return (a, b) if self.reads else (b.T, a.T)

    def matrix(self) -> Tensor:
        """The product, out x in."""
        first, second = self.factors()
        return second @ first * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The same without making the matrix."""
        first, second = self.factors()
        return functional.linear(functional.linear(x, first), second) * self.scale


class RandLoRA(TuningMethod):
    """Inject scaled random bases at the matrices of some roles."""

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        rank: int = YAML,
        alpha: float = YAML,
        key: int = YAML,
    ) -> None:
        require(rank >= 1, f"method.rank={rank} must be at least 1")
        self.roles, self.rank, self.alpha, self.key = roles, rank, alpha, key

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the vectors; the bases are as wide as the widest matrix."""
        shared = Bases(*widest(sites, self.roles), rank=self.rank, key=self.key)
        scale = self.alpha / self.rank
        attach(
            sites,
            self.roles,
            "randlora",
            lambda linear, _: BasesUpdate(shared, *widths(linear), scale=scale),
        )
