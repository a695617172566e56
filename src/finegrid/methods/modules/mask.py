"""Binary masks over frozen weights, fixed or learned by scores.

A masked weight is w * mask: entries where the mask is false are zero.
"""

import torch
from torch import Tensor, nn

from finegrid.errors import require

THRESHOLD = 0.01  # of the scores of `ThresholdMask` at the start


class Mask(nn.Module):
    """w -> w * mask with a fixed boolean mask."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight; same shape."""
        return weight * self.mask

    def to_delta(self) -> dict[str, Tensor]:
        """The mask, as booleans of the weight's shape."""
        return {"mask": self.mask}

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load a mask."""
        self.mask = state["mask"].to(self.mask.device)


class LearnedMask(nn.Module):
    """A binary mask computed from one trained score per weight.

    Subclasses define `straight_through` (training) and `binarize` (evaluation). Scores are stored
    as a vector because vectors get no weight decay, which would pull scores to where masks flip.
    """

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.shape = tuple(scores.shape)
        self.scores = nn.Parameter(scores.flatten())
        self.fixed: Tensor | None = None

    def straight_through(self) -> Tensor:
        """Straight-through estimator: 0 or 1 in the forward pass, a gradient of the scores."""
        raise NotImplementedError

    def binarize(self) -> Tensor:
        """The boolean mask of evaluation and of the delta, flat."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight; same shape."""
        if self.training and self.fixed is None:
            return weight * self.straight_through().view(self.shape)
        return weight * self.to_delta()["mask"]

    def to_delta(self) -> dict[str, Tensor]:
        """The binarized mask, of the weight's shape."""
        mask = self.binarize() if self.fixed is None else self.fixed
        return {"mask": mask.view(self.shape)}

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load a mask and use it from now on instead of the scores."""
        self.fixed = state["mask"].to(self.scores.device)


class ThresholdMask(LearnedMask):
    """A mask that keeps the weights whose score lies above a threshold (2004.12406)."""

    threshold = THRESHOLD

    def straight_through(self) -> Tensor:
        """The binarized mask; identity gradient to the scores."""
        return self.binarize().to(self.scores.dtype) + self.scores - self.scores.detach()

    def binarize(self) -> Tensor:
        """Where the score lies above the threshold."""
        return self.scores > self.threshold


def smallest(weight: Tensor, sparsity: float) -> Tensor:
    """Boolean mask of the floor(sparsity * n) entries of smallest magnitude."""
    return lowest(weight.detach().abs().flatten(), sparsity).view_as(weight)


def lowest(scores: Tensor, sparsity: float) -> Tensor:
    """Boolean mask of the floor(sparsity * n) lowest of n scores."""
    chosen = scores.topk(pruned_count(sparsity, len(scores)), largest=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, chosen, True)


def pruned_count(sparsity: float, size: int) -> int:
    """floor(sparsity * size): how many of `size` entries are set to zero.

    Raises:
        UserError: unless the sparsity lies in [0, 1).
    """
    require(
        0 <= sparsity < 1,
        f"method.sparsity={sparsity:g} must lie in [0, 1); 0.05 makes 5 % of each matrix zero",
    )
    return int(sparsity * size)
