"""Batches of tokenised rows, padded to their longest; samplers that put similar lengths together.

Shapes: B rows of a batch, T tokens of its longest row.
"""

import copy
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from finegrid.data.examples import Examples
from finegrid.data.tokenization import Tokens
from finegrid.storage.cache import Array
from finegrid.tasks.modules.reader import NO_LABEL

log = logging.getLogger(__name__)
POOL = 50  # batches sorted by length together: little padding, yet well mixed


class TokenizedDataset:
    """Tokenised rows; `batch` pads any of them to their own longest row, never further."""

    def __init__(
        self,
        rows: Examples,
        tokens: Tokens,
        *,
        collate: Callable[[Array], Any] = torch.from_numpy,
        tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        """`collate` gives labels of rows; `tokenizer` is the one that gave the tokens."""
        self.tokens, self.tokenizer = tokens, tokenizer
        self.collate, self.numbers = collate, rows.labels
        self.attributes = rows.attributes
        self.labels = collate(rows.labels)  # of all rows, for their scores
        self.lengths = np.diff(tokens.offsets)
        self.padding = {"input_ids": tokens.padding, "token_type_ids": 0, "labels": NO_LABEL}
        # name -> the tensor of a batch's rows, for a model that reads more than tokens
        self.extra_inputs: dict[str, Callable[[Sequence[int]], Tensor]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; a row of a choice has one an option."""
        if (option := self.tokens.fields.get("option")) is None:
            return int(self.lengths.max(initial=0))
        row = np.repeat(np.arange(len(self)), self.lengths)
        return int(np.unique_counts(row * (int(option.max()) + 1) + option).counts.max())

    def take(self, index: Array, labels: Array | None = None) -> "TokenizedDataset":
        """The rows at these positions, in this order; with other labels, if given."""
        part = copy.copy(self)
        part.tokens, part.lengths = self.tokens.take(index), self.lengths[index]
        part.numbers = self.numbers[index] if labels is None else labels
        part.labels = self.collate(part.numbers)
        part.extra_inputs = {
            name: partial(_of_part, of_rows, index) for name, of_rows in self.extra_inputs.items()
        }
        return part

    def joined(self, other: "TokenizedDataset") -> "TokenizedDataset":
        """These rows and those of another, without extra inputs."""
        both = copy.copy(self)
        both.tokens = self.tokens.joined(other.tokens)
        both.lengths = np.concatenate([self.lengths, other.lengths])
        both.numbers = np.concatenate([self.numbers, other.numbers])
        both.labels, both.extra_inputs = self.collate(both.numbers), {}
        return both

    def token_ids(self) -> Tensor:
        """Every token id in the rows once, the padding's included, in order."""
        ids = np.union1d(self.tokens.fields["input_ids"], self.tokens.padding)
        return torch.from_numpy(ids.astype(np.int64))

    def batch(self, index: Sequence[int]) -> dict[str, Any]:
        """input_ids, attention_mask (token_type_ids): B T; labels; real_tokens: their number.

        Labels are those of the rows, B or B ..., or of the tokens where these have any, B T. And
        the extra inputs.
        """
        lengths, starts = self.lengths[index], self.tokens.offsets[index]
        columns = np.arange(int(lengths.max()))
        mask = columns < lengths[:, None]
        places = (starts[:, None] + columns)[mask]
        batch: dict[str, Any] = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, flat in self.tokens.fields.items():
            padded = np.full(mask.shape, self.padding.get(name, 0), dtype=np.int64)
            padded[mask] = flat[places]
            batch[name] = torch.from_numpy(padded)
        for name, of_rows in self.extra_inputs.items():
            batch[name] = of_rows(index)
        if "labels" not in batch:
            batch["labels"] = self.collate(self.numbers[index])
        return batch | {"real_tokens": int(lengths.sum())}


def _of_part(
    of_rows: Callable[[Sequence[int]], Tensor], index: Array, rows: Sequence[int]
) -> Tensor:
    return of_rows(index[rows].tolist())


class BucketSampler(Sampler[list[int]]):
    """Batches of rows of similar length in a random order, fixed by seed and epoch alone.

    Rows are shuffled, cut into pools of `POOL` batches, sorted by length inside a pool and cut
    into batches; then the batches are shuffled. Every row comes once an epoch.
    """

    def __init__(self, lengths: np.ndarray[Any, Any], *, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        self.epoch += 1
        order = random.permutation(len(self.lengths))
        pool = POOL * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            cuts = range(0, len(rows), self.batch_size)
            batches += [rows[cut : cut + self.batch_size].tolist() for cut in cuts]
        for position in random.permutation(len(batches)):
            yield batches[position]


def train_loader(encoded: TokenizedDataset, *, batch_size: int, seed: int) -> DataLoader[Any]:
    """Endless epochs of bucketed batches; in memory, so no worker processes."""
    sampler = BucketSampler(encoded.lengths, batch_size=batch_size, seed=seed)
    return DataLoader(range(len(encoded)), batch_sampler=sampler, collate_fn=encoded.batch)  # type: ignore[arg-type]


class TrainingBatches:
    """Endless batches of rows that may be replaced on the way: the next batch is of the new ones.

    It has a length, and a large one, because Lightning fetches a batch ahead of what has none.
    """

    def __init__(self, rows: TokenizedDataset, *, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.use(rows)

    def use(self, rows: TokenizedDataset) -> None:
        """Go on with these rows, from their first epoch."""
        self.rows = rows
        self.sampler = BucketSampler(rows.lengths, batch_size=self.batch_size, seed=self.seed)

    def __len__(self) -> int:
        return sys.maxsize

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            rows = self.rows
            for index in self.sampler:
                yield rows.batch(index)
                if rows is not self.rows:
                    break


def sorted_batches(
    encoded: TokenizedDataset, batch_size: int, *, tokens: int
) -> Iterator[tuple[list[int], Any]]:
    """(row numbers, batch) from the longest rows to the shortest, for evaluation.

    A batch has at most so many rows, and so many tokens unless a single row has more.
    """
    order, start = np.argsort(-encoded.lengths, kind="stable"), 0
    while start < len(order):
        longest = int(encoded.lengths[order[start]])
        stop = start + min(batch_size, max(1, tokens // longest))
        index = order[start:stop].tolist()
        yield index, encoded.batch(index)
        start = stop
