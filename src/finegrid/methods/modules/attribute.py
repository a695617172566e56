"""What `task.attribute`, a column, says of the rows of a batch, as numbers of its values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from finegrid.data.batching import TokenizedDataset

INPUT = "attribute"  # of a batch: the number of each row's value, -1 for one of no training row


def add_numbers(rows: "TokenizedDataset", values: Sequence[str]) -> None:
    """Let a batch hold the number of each row's value."""
    told = numbers(rows, values)
    rows.extra_inputs[INPUT] = lambda index: told[list(index)]


def numbers(rows: "TokenizedDataset", values: Sequence[str]) -> Tensor:
    """The number of each row's value, N; -1 for one that is not among them."""
    places = {value: number for number, value in enumerate(values)}
    return torch.tensor([places.get(str(value), -1) for value in rows.attributes])
