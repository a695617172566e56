"""Binary masks over frozen weights: which entries stay, which become zero."""

import torch
from torch import Tensor, nn

from finegrid.errors import require


class Mask(nn.Module):
    """w -> w * mask with a mask of booleans that does not change."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the site computes with; same shape."""
        return weight * self.mask

    def to_delta(self) -> dict[str, Tensor]:
        """The mask."""
        return {"mask": self.mask}

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Take over a mask."""
        self.mask = state["mask"].to(self.mask.device)


class LearnedMask(nn.Module):
    """A mask drawn or cut from one trained score per weight; subclasses say how.

    Scores are flat, so that no weight decay pulls them to where the mask flips.
    """

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.shape = tuple(scores.shape)
        self.scores = nn.Parameter(scores.flatten())
        self.fixed: Tensor | None = None

    def learn(self) -> Tensor:
        """The mask of a training pass, 0 or 1 each, differentiable in the scores by decree."""
        raise NotImplementedError

    def binarize(self) -> Tensor:
        """The mask that is evaluated and stored, as booleans."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the site computes with; same shape."""
        if self.training and self.fixed is None:
            return weight * self.learn().view(self.shape)
        return weight * self.to_delta()["mask"]

    def to_delta(self) -> dict[str, Tensor]:
        """The settled mask."""
        settled = self.binarize() if self.fixed is None else self.fixed
        return {"mask": settled.view(self.shape)}

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Keep a settled mask for good; the scores are not needed any more."""
        self.fixed = state["mask"].to(self.scores.device)


def smallest(weight: Tensor, sparsity: float) -> Tensor:
    """Which floor(sparsity * n) entries of a weight are smallest in magnitude, as booleans."""
    count = zeros(sparsity, weight.numel())
    chosen = weight.detach().abs().flatten().topk(count, largest=False).indices
    flat = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    return flat.index_fill(0, chosen, True).view_as(weight)


def zeros(sparsity: float, size: int) -> int:
    """How many of so many entries a sparsity removes.

    Raises:
        UserError: unless the sparsity lies in [0, 1).
    """
    require(
        0 <= sparsity < 1,
        f"method.sparsity={sparsity:g} must lie in [0, 1); 0.05 makes 5 % of each matrix zero",
    )
    return int(sparsity * size)
