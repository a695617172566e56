"""A sparse additive delta: few entries of a frozen weight train."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import require


class SparseDifference(nn.Module):
    """w -> w + v scattered to `places`; the values v are the only parameters.

    `places` are indices into the flattened weight, stored sorted. v starts at zero.
    """

    places: Tensor

    def __init__(self, shape: Sequence[int], places: Tensor) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.values = nn.Parameter(torch.zeros(len(places), device=places.device))
        self.register_buffer("places", places.sort().values, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight plus the delta; same shape."""
        return weight.flatten().index_add(0, self.places, self.values).view_as(weight)

    def move(self, places: Tensor) -> None:
        """Train the entries at other indices instead, from zero."""
        self.values = nn.Parameter(self.values.new_zeros(len(places)))
        self.places = places.sort().values

    def to_delta(self) -> dict[str, Tensor]:
        """`values` in the order of their indices, and `where`, a boolean mask of the shape."""
        where = torch.zeros(self.shape, dtype=torch.bool, device=self.places.device)
        where.view(-1)[self.places] = True
        return {"values": self.values, "where": where}

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load values and indices."""
        self.places = state["where"].flatten().nonzero().squeeze(-1).to(self.places.device)
        self.values = nn.Parameter(state["values"].to(self.values))


def count(density: float, size: int) -> int:
    """floor(density * size), at least 1: how many of `size` entries train.

    Raises:
        UserError: unless the density lies in (0, 1].
    """
    require(0 < density <= 1, f"method.density={density:g} must lie in (0, 1]; 0.005 is half a %")
    return max(1, int(density * size))


def top(scores: Sequence[Tensor], density: float, *, together: bool) -> list[Tensor]:
    """Flat indices of the highest scores per tensor.

    `together`: the highest of all tensors at once; otherwise the same share of each tensor.
    """
    if not together:
        return [s.flatten().topk(count(density, s.numel())).indices for s in scores]
    flat = torch.cat([s.flatten() for s in scores])
    chosen = flat.topk(count(density, len(flat))).indices
    parts = torch.zeros_like(flat, dtype=torch.bool).index_fill(0, chosen, True)
    sizes = [s.numel() for s in scores]
    return [part.nonzero().squeeze(-1) for part in torch.split(parts, sizes)]
