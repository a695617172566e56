"""Adversaries behind a gradient reversal: they learn an attribute, and what they read unlearns it.

Ganin & Lempitsky 2015, arXiv 1409.7495.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Reversal(torch.autograd.Function):
    """Identity whose gradient is -scale times what comes."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, scale: float) -> Tensor:
        """The same."""
        ctx.scale = scale
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient turned round."""
        return -ctx.scale * gradient, None


class Adversary(nn.Module):
    """Several small classifiers of an attribute by the embedding; no part of a delta.

    The model tells the attribute of a pass in training and the embedding that it made, and `loss`
    takes both away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads: nn.ModuleList | None = None
        self.numbers: Tensor | None = None  # B, -1: none
        self.embedding: Tensor | None = None  # B H

    def begin(self, width: int, values: int, *, heads: int, dropout: float) -> None:
        """Draw the classifiers."""
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(width, width),
                nn.Tanh(),
                nn.Dropout(dropout),
                nn.Linear(width, values),
            )
            for _ in range(heads)
        )

    def loss(self, scale: float) -> Tensor | None:
        """Mean cross-entropy of the last pass, reversed for what made the embedding, in fp32."""
        h, numbers = self.embedding, self.numbers
        self.embedding = self.numbers = None
        if self.heads is None or h is None or numbers is None or not (numbers >= 0).any():
            return None
        with torch.autocast(h.device.type, enabled=False):
            read = Reversal.apply(h.float(), scale)  # type: ignore[no-untyped-call]
            losses = [functional.cross_entropy(one(read), numbers, ignore_index=-1)
                      for one in self.heads]  # fmt: skip
        return torch.stack(losses).mean()

    def to_delta(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Nothing."""

    def fold(self, site: nn.Module) -> None:
        """Nothing of it is left in a merged model."""
