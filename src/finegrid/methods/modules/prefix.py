"""A layer's learned keys and values, which `models.attention` puts before those of the text."""

import torch
from torch import Tensor, nn

from finegrid.methods.modules.adapter import Gate


class Prefix(nn.Module):
    """A layer's learned keys and values, to be put before those of the text.

    Queries B heads T d -> keys and values, B heads length d each.
    """

    def __init__(self, width: int, *, length: int, gate: int | None) -> None:
        """`width` is that of keys and values, `gate` that of the queries, or None for no gate."""
        super().__init__()
        self.key = nn.Parameter(torch.empty(length, width).normal_(std=0.02))
        self.value = nn.Parameter(torch.empty(length, width).normal_(std=0.02))
        self.gate = None if gate is None else Gate(gate)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values before they are split into heads: length H."""
        return self.key, self.value

    def seen(self, query: Tensor) -> Tensor | None:
        """Which of the keys each row of the queries sees, B length; None: all."""
        return None

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for each row of the queries, B heads T d."""
        rows, d = len(query), query.shape[-1]
        key, value = (x.reshape(len(x), -1, d).transpose(0, 1) for x in self.pair())
        key, value = key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)
        if self.gate is None:
            return key, value
        gate: Tensor = self.gate(query[:, :, 0].flatten(1))[..., None, None]  # B 1 1 1
        return gate * key, gate * value
