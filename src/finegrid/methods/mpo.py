"""Matrix product operators: the outer tensors of each matrix's factorisation train.

Liu et al. 2021, arXiv 2106.02205 (MPOP). With rows and columns split into five factors each,
i = (i_1 .. i_5) and j = (j_1 .. j_5), a matrix is a chain of five tensors,

    W[i, j] = T_1[i_1 j_1] T_2[i_2 j_2] T_3[i_3 j_3] T_4[i_4 j_4] T_5[i_5 j_5]

each T_k[i_k j_k] a matrix (d_k-1, d_k). Nothing is truncated, so the chain is W. The central
tensor T_3, which holds most of the numbers, stays frozen; the four auxiliary ones train.

A chain's tensors are free up to an invertible matrix between neighbours. Ours is the choice that
makes T_1, T_2, T_4 and T_5 identities and T_3 the pre-trained weight itself, reshaped: the start is
exactly the pre-trained model, on every machine, and the delta holds the auxiliary tensors'
differences from the identity (so weight decay pulls towards the pre-trained weights).

Where we differ: the authors' code takes the tensors from singular value decompositions, with the
singular values shared between neighbours. Training can reach the same matrices from either, but
steps differ. Their compression (shorter bonds, and fine-tuning between the cuts) and their chain
for the word embeddings are left out. Their factors of BERT's widths are not known to us: here each
outer factor is the largest number up to `outer` that may be taken from both ends and leaves the
centre 2 or more. At BERT-base's widths the auxiliary tensors then hold 9.5 M numbers, 91 % fewer
than the model has, the mean reduction that the paper reports.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites

# Neighbours i_1 i_2 and i_4 i_5 stay together: a permute of six axes, not ten, of each weight.
TO_CHAIN = (0, 3, 1, 4, 2, 5)  # i_12 i_3 i_45 j_12 j_3 j_45 -> i_12 j_12 i_3 j_3 i_45 j_45
TO_MATRIX = (0, 2, 4, 1, 3, 5)


class MatrixProduct(nn.Module):
    """w -> the chain whose central tensor is w; zero parameters are the identity.

    `first` (i_1 j_1, d_1) and `second` (d_1 i_2 j_2, d_2), `fourth` (d_3, i_4 j_4 d_4) and `fifth`
    (d_4, i_5 j_5) are differences from the identity, all bonds being as long as they can be.
    """

    def __init__(self, weight: Tensor, *, outer: int) -> None:
        super().__init__()
        rows, columns = (factors(width, outer) for width in weight.shape)
        self.ends = ((*rows[:2], *columns[:2]), (*rows[3:], *columns[3:]))
        self.split = tuple(n for a, b, c, d, e in (rows, columns) for n in (a * b, c, d * e))
        pairs = [i * j for i, j in zip(rows, columns, strict=True)]
        short, long = pairs[0], pairs[0] * pairs[1]
        self.first, self.fifth = (nn.Parameter(weight.new_zeros(short, short)) for _ in range(2))
        self.second, self.fourth = (nn.Parameter(weight.new_zeros(long, long)) for _ in range(2))

    def forward(self, weight: Tensor) -> Tensor:
        """The chain as a matrix, of the weight's shape."""
        long = len(self.second)
        with torch.autocast(weight.device.type, enabled=False):
            chain = weight.reshape(self.split).permute(TO_CHAIN)
            product = self.left() @ chain.reshape(long, -1)
            product = product.view(-1, long) @ self.right()
        return product.view(chain.shape).permute(TO_MATRIX).reshape(weight.shape)

    def left(self) -> Tensor:
        """T_1 T_2, (i_1 i_2 j_1 j_2, d_2)."""
        second = _plus_identity(self.second)
        product = _plus_identity(self.first) @ second.view(len(self.first), -1)
        return _rows_first(product, self.ends[0])

    def right(self) -> Tensor:
        """T_4 T_5, (d_3, i_4 i_5 j_4 j_5)."""
        fourth = _plus_identity(self.fourth)
        product = fourth.view(-1, len(self.fifth)) @ _plus_identity(self.fifth)
        return _rows_first(product, self.ends[1])


class MPO(TuningMethod):
    """Let the auxiliary tensors of the chosen matrices train."""

    def __init__(
        self,
        *,
        outer: int = YAML,
        roles: Sequence[str] | None = YAML,
        layers: Sequence[int] | str | None = YAML,
    ) -> None:
        require(outer >= 2, f"method.outer={outer} must be at least 2")
        self.outer, self.roles, self.layers = outer, roles, layers

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put a chain over every chosen matrix.

        Raises:
            UserError: for a matrix whose widths have no factor to take from both ends.
        """
        for module, weight in sites.matrices(self.roles, self.layers):
            chain = MatrixProduct(weight.detach(), outer=self.outer)
            require(
                len(chain.second) > 1,
                f"a matrix of {' x '.join(map(str, weight.shape))} has no factors for method=mpo",
            )
            surgery.reparametrize(module, "weight", "mpo", chain)


def factors(width: int, outer: int) -> tuple[int, int, int, int, int]:
    """Five factors of a width, alike from both ends; the outer ones as large as they may be."""
    ends: list[int] = []
    for _ in range(2):
        rest = width // math.prod(ends) ** 2
        ends.append(max(f for f in range(1, outer + 1) if rest % f**2 == 0 and rest >= 2 * f**2))
    one, two = ends
    return one, two, width // (one * two) ** 2, two, one


def _rows_first(square: Tensor, ends: Sequence[int]) -> Tensor:
    """Both sides of a matrix over i j i' j' in the order i i' j j'."""
    one, two, three, four = ends  # i i' j j'
    axes = square.view(one, three, two, four, one, three, two, four)
    return axes.permute(0, 2, 1, 3, 4, 6, 5, 7).reshape(one * two * three * four, -1)


def _plus_identity(difference: Tensor) -> Tensor:
    return difference + torch.eye(len(difference), device=difference.device)
