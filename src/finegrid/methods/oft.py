"""OFT: rotate what enters a frozen matrix (Qiu et al. 2023, arXiv 2306.07280).

y = W R^T x + b, R block-diagonal with orthogonal blocks of `block` units. A block is Cayley's
transform of a skew-symmetric Q: (I - Q)(I + Q)^-1; the entries of Q above its diagonal train and
are zero at the start, which is exactly the pre-trained model. `fold` multiplies the weight.

Where we differ: the exact transform (peft's `use_cayley_neumann=False`), not the truncated series
of OFT's second version; no constrained rotations, no shared blocks, no dropout of blocks. As in
peft the input is rotated, where the paper rotates the outputs of W.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.anatomy import weight_matrix, widths
from finegrid.models.sites import Sites


class Rotation(nn.Module):
    """x -> x R: (..., in) -> (..., in)."""

    rows: Tensor
    columns: Tensor

    def __init__(self, inputs: int, *, block: int) -> None:
        super().__init__()
        self.block = block
        self.q = nn.Parameter(torch.zeros(inputs // block, block * (block - 1) // 2))
        rows, columns = torch.triu_indices(block, block, 1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def blocks(self) -> Tensor:
        """R's blocks, in / block x block x block; in fp32."""
        upper = self.q.new_zeros(len(self.q), self.block, self.block)
        every = torch.arange(len(self.q), device=self.q.device)[:, None]
        upper = upper.index_put((every, self.rows, self.columns), self.q)
        skew, unit = upper - upper.mT, torch.eye(self.block, device=self.q.device)
        blocks: Tensor = torch.linalg.solve(unit + skew, unit - skew, left=False)
        return blocks

    def forward(self, x: Tensor) -> Tensor:
        """The rotated input."""
        return _blockwise(x, self.blocks().to(x.dtype))

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: W R^T in place of W."""
        weight = weight_matrix(site)
        weight.copy_(_blockwise(weight, self.blocks().mT))


def _blockwise(x: Tensor, blocks: Tensor) -> Tensor:
    """x times the block-diagonal matrix of the blocks: (..., width) -> same."""
    parts = x.reshape(*x.shape[:-1], len(blocks), -1)
    return torch.einsum("...rk,rkc->...rc", parts, blocks).flatten(-2)


def _rotated(site: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    turned: Tensor = site.get_submodule("oft")(inputs[0])
    return turned


class OFT(TuningMethod):
    """Inject rotations before the matrices of some roles."""

    def __init__(self, *, roles: Sequence[str] | None = YAML, block: int = YAML) -> None:
        self.roles, self.block = roles, block

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach them; raises UserError for blocks that do not fill a matrix's input width."""
        for role, site in sites.select(self.roles, None):
            inputs, _ = widths(site.module)
            require(
                self.block >= 2 and inputs % self.block == 0,
                f"method.block={self.block} must be at least 2 and divide {inputs}, the width of "
                f"what {role} reads",
            )
            rotation = Rotation(inputs, block=self.block)
            surgery.attach_before(site.module, "oft", rotation, _rotated)
