"""Train only the rows of an embedding matrix that the training data use.

Tokens in no training row get no gradient: all that AdamW does to their embeddings is weight decay.
So a small matrix of the rows in use replaces the large one in forward, backward, clipping and
AdamW, which spares 20 to 40 bytes of traffic a number of the rest in every step: in MiniLM half of
all parameters are embeddings. One more row, of ones, which no token uses, measures how much weight
decay has shrunk the rest. Both are written back before the large matrix is read. The result is
that of training all rows.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class UsedRowsEmbedding(nn.Embedding):
    """An `nn.Embedding` that trains the rows in use."""

    subset: "RowSubset"

    def forward(self, input: Tensor) -> Tensor:
        """ids -> ids E, from the subset while gradients are recorded."""
        subset = self.subset
        if torch.is_grad_enabled():
            subset.stale = True
            return functional.embedding(
                subset.places[input], subset.rows, padding_idx=subset.padding
            )
        subset.write_back(self.weight)
        return super().forward(input)


class RowSubset:
    """The rows (used, E) of a matrix (vocabulary, E) that train, and their places in it."""

    def __init__(self, matrix: Tensor, used: Tensor, padding: int | None) -> None:
        self.used = used
        self.places = used.new_full((len(matrix),), -1)
        self.places[used] = torch.arange(len(used), device=used.device)
        self.padding = None if padding is None else int(self.places[padding])
        ones = matrix.new_ones(1, matrix.shape[1])
        self.rows = nn.Parameter(torch.cat([matrix.detach()[used], ones]))
        self.left = 1.0  # what weight decay had left of the ones at the last write-back
        self.stale = False  # whether the rows may differ from the matrix

    def write_back(self, matrix: Tensor) -> None:
        """Bring the matrix up to date."""
        if not self.stale:
            return
        with torch.inference_mode(False), torch.no_grad():
            left = float(self.rows[-1, 0])
            matrix.mul_(left / self.left)
            matrix[self.used] = self.rows[:-1]
        self.left, self.stale = left, False


def train_used_rows(
    module: Any, token_ids: Callable[[], Tensor]
) -> tuple[nn.Parameter, nn.Parameter] | None:
    """Train an embedding by the rows of these ids: (its weight, the rows to optimize instead).

    None, and no change, where it does not train, most rows are in use, or a method changes what it
    computes.
    """
    if type(module) is not nn.Embedding or not _plain(module):
        return None
    weight, used = cast(nn.Parameter, module.weight), token_ids()
    if 2 * len(used) >= len(weight):
        return None
    subset = RowSubset(weight, used.to(weight.device), module.padding_idx)
    module.__class__, module.__dict__["subset"] = UsedRowsEmbedding, subset
    return weight, subset.rows


def _plain(module: nn.Embedding) -> bool:
    """Whether an embedding trains, and nothing was injected into it."""
    injected = any((module._forward_hooks, module._forward_pre_hooks, module._modules))
    return module.weight.requires_grad and not injected
