"""Rows to batches: load, check, split, take the fraction, tokenise, bucket by length, pad."""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler

from finegrid.config import DataConfig
from finegrid.data.files import NUMBER, column, shown, texts
from finegrid.data.loading import Tables
from finegrid.data.tokenization import Tokens
from finegrid.errors import UserError
from finegrid.storage.cache import Array
from finegrid.tasks.task import Task

log = logging.getLogger(__name__)
QUANTILES = 10  # strata of a regression task
POOL = 50  # batches sorted by length together: little padding, yet well mixed
LARGEST = 2.0**63  # a graded label's; the square of an error must fit into fp32


@dataclass(frozen=True)
class Rows:
    """Checked rows of one split: texts, one list a column, labels and the source's row ids."""

    texts: tuple[list[str], ...]
    labels: np.ndarray[Any, np.dtype[Any]]
    idx: list[Any]  # numbers or text

    def __len__(self) -> int:
        return len(self.idx)

    def take(self, index: np.ndarray[Any, Any]) -> "Rows":
        """The rows at these positions, in this order."""
        texts = tuple([column[i] for i in index] for column in self.texts)
        return Rows(texts, self.labels[index], [self.idx[i] for i in index])

    def digest(self) -> str:
        """Hash of what the rows say, in their order."""
        digest = hashlib.sha256()
        for *row, label in zip(*self.texts, self.labels.tolist(), strict=True):
            digest.update(repr((*row, label)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Splits:
    """What a run trains on, selects on and is scored on (first test set: the headline)."""

    train: Rows
    validation: Rows
    test: dict[str, Rows]  # `test`, and for MNLI `test_mismatched`
    overlap: int  # test rows whose text also occurs in the training rows used
    source: str


def stratified_order(rows: Rows, kind: str, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A random order whose every prefix keeps the label distribution; prefixes are nested.

    Each stratum (a class, or a label quantile of a regression task) is shuffled on its own; its
    k-th of n rows gets the place (k + 1/2) / n, and all rows are sorted by place.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    strata = rows.labels
    if kind == "regression":
        ranks = np.argsort(np.argsort(rows.labels, kind="stable"), kind="stable")
        strata = ranks * QUANTILES // len(rows)
    place = np.empty(len(rows))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        place[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((random.random(len(rows)), place))


def split(tables: Tables, task: Task, data: DataConfig) -> Splits:
    """Check the tables and make the run's splits, the same for every method.

    Raises:
        UserError: for unusable columns or labels, or a fraction that leaves a class empty.
    """
    train = everything = read_rows(tables.train, task, tables.where("train"))
    test = {
        _test_name(name, tables.dev): read_rows(table, task, tables.where(name))
        for name, table in tables.dev.items()
    }
    if not test:
        train, test["test"] = _carve(train, task, data, size=max(1, len(train) // 5))
    if data.protocol == "dev":
        validation = test["test"]
    else:
        size = max(1, min(round(data.validation_fraction * len(train)), data.validation_max))
        train, validation = _carve(train, task, data, size=size)
    if len(train) == 0:
        raise UserError(f"{tables.source}: too few rows to carve validation and test from")
    if task.kind == "classification":
        _require_every_class(train, everything, task, tables.where("train"))
        _tell_untested(everything, test["test"], task, tables)
    train = take_fraction(train, task, data)
    seen = set(zip(*train.texts, strict=True))
    overlap = sum(text in seen for text in zip(*test["test"].texts, strict=True))
    return Splits(train, validation, test, overlap, tables.source)


def _test_name(name: str, dev: Collection[str]) -> str:
    """`test` for the first dev split; `test_mismatched` for MNLI's `validation_mismatched`."""
    return "test" if name == next(iter(dev)) else f"test_{name.rpartition('_')[2]}"


def _carve(rows: Rows, task: Task, data: DataConfig, *, size: int) -> tuple[Rows, Rows]:
    """(the rest, a stratified part of so many rows), both in the rows' own order."""
    order = stratified_order(rows, task.kind, data.split_seed)
    return rows.take(np.sort(order[size:])), rows.take(np.sort(order[:size]))


def take_fraction(train: Rows, task: Task, data: DataConfig) -> Rows:
    """The first `fraction` of the stratified order: smaller fractions lie inside larger ones."""
    order = stratified_order(train, task.kind, data.subset_seed)
    size = max(1, round(data.fraction * len(train)))
    used = train.take(np.sort(order[:size]))
    if task.kind == "classification":
        missing = sorted(set(range(task.outputs)) - set(used.labels.tolist()))
        if missing:
            names = ", ".join(task.labels[label] for label in missing)
            raise UserError(
                f"data.fraction={data.fraction:g} keeps {size} of {len(train)} train rows of "
                f"{task.name} and none of class {names}; raise the fraction"
            )
    return used


def _tell_untested(rows: Rows, test: Rows, task: Task, tables: Tables) -> None:
    """Warn of classes that no test row is of, where the test rows were carved."""
    counts = Counter(rows.labels.tolist())
    unseen = sorted(set(counts) - set(test.labels.tolist()))
    if unseen and not tables.dev:
        listed = ", ".join(f"{shown(task.labels[n])} ({counts[n]})" for n in unseen[:20])
        where = tables.where("train")
        log.warning("%s: no test row is of class (rows): %s", where, listed)


def _require_every_class(train: Rows, rows: Rows, task: Task, where: str) -> None:
    """Refuse classes of which nothing is left to train on, whatever the fraction."""
    left, counts = set(train.labels.tolist()), Counter(rows.labels.tolist())
    most = max((counts[label] for label in range(task.outputs) if label not in left), default=-1)
    rare = [label for label in range(task.outputs) if counts[label] <= most]
    if not rare:
        return
    listed = ", ".join(f"{shown(task.labels[n])} ({counts[n]})" for n in rare[:20])
    more = f" and {len(rare) - 20} more" if len(rare) > 20 else ""
    graded = all(NUMBER.fullmatch(name) for name in task.labels)
    raise UserError(
        f"{where}: too few rows to train on and to split, of class (rows): {listed}{more}; add "
        "rows, merge these classes or leave them out"
        + ("; use task.kind=regression for graded labels" if graded else "")
    )


def read_rows(table: pa.Table, task: Task, where: str) -> Rows:
    """Check a table's columns, texts and labels and take them out."""
    if len(table) == 0:
        raise UserError(f"{where}: no rows")
    columns = tuple(column_texts(table, name, where) for name in task.text)
    return Rows(columns, _labels(table, task, where), _ids(table, where))


def column_texts(table: pa.Table, name: str, where: str) -> list[str]:
    """A text column's values; a missing column or an empty text is a `UserError`."""
    values = texts(column(table, name, where), where, name)
    for row, value in enumerate(values, start=1):
        if value is None or not value.strip():
            raise UserError(f"{where}, row {row}: column {name!r} is empty ({value!r})")
    return values  # type: ignore[return-value]


def _ids(table: pa.Table, where: str) -> list[Any]:
    """The rows' ids: of the column idx, whole numbers where all are; else their places."""
    if "idx" not in table.column_names:
        return list(range(len(table)))
    ids = [value or "" for value in texts(table.column("idx"), where, "idx")]
    numbers = all(value.isdecimal() and value.isascii() and len(value) < 19 for value in ids)
    return [int(value) for value in ids] if numbers else ids


def _labels(table: pa.Table, task: Task, where: str) -> np.ndarray[Any, np.dtype[Any]]:
    values = column(table, task.label, where)
    labels = texts(values, where, task.label)
    if task.kind == "regression":
        return _graded(labels, task, where)
    number = {name: place for place, name in enumerate(task.labels)}
    if task.numbered:
        number = {str(place): place for place in range(len(task.labels))} | number
    if not pa.types.is_string(values.type):  # typed: 1 is the class 1.0 too, and true is True
        number |= {name.removesuffix(".0"): n for name, n in number.items()} | number
        number |= {name.lower(): number[name] for name in {"True", "False"} & set(number)} | number
    found = [number.get(label) for label in labels]  # type: ignore[arg-type]
    if None in found:
        row = found.index(None)
        _refuse_label(labels[row], task, f"{where}, row {row + 1}")
    return np.asarray(found, dtype=np.int64)


def _refuse_label(label: str | None, task: Task, where: str) -> None:
    if label is None or not label.strip():
        raise UserError(f"{where}: label is missing")
    names = ", ".join(map(shown, task.labels[:20]))
    more = f" or {len(task.labels) - 20} more" if len(task.labels) > 20 else ""
    hidden = "; GLUE's test splits hide their labels (-1)" if label == "-1" else ""
    raise UserError(f"{where}: label {shown(label)} must be one of {names}{more}{hidden}")


def _graded(labels: Sequence[str | None], task: Task, where: str) -> np.ndarray[Any, np.dtype[Any]]:
    for row, label in enumerate(labels, start=1):
        number = label is not None and NUMBER.fullmatch(label)
        if not number or not abs(float(str(label))) < LARGEST:
            kind = "a number below 2**63" if number else "a number"
            raise UserError(
                f"{where}, row {row}: label {label!r} in column {task.label!r} must be {kind}"
            )
    return np.asarray([float(str(label)) for label in labels], dtype=np.float32)


@dataclass(frozen=True)
class Features:
    """Hidden states of rows, end to end; row i lies from `offsets[i]` to the next offset."""

    states: Tensor
    offsets: Array

    def batch(self, index: Sequence[int]) -> Tensor:
        """B T H; what pads a row repeats its last state, since attention does not see it."""
        starts, stops = (self.offsets[np.asarray(index) + more][:, None] for more in (0, 1))
        columns = np.arange(int((stops - starts).max()))
        places = torch.from_numpy(np.minimum(starts + columns, stops - 1))
        return functional.embedding(places, self.states)


class Encoded:
    """Tokenised rows; `batch` pads any of them to their own longest row, never further."""

    def __init__(self, rows: Rows, tokens: Tokens) -> None:
        self.tokens = tokens
        self.labels = torch.from_numpy(rows.labels)
        self.lengths = np.diff(tokens.offsets)
        self.padding = {"input_ids": tokens.padding, "token_type_ids": 0}
        self.features: Features | None = None  # for a model that was cut

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Sequence[int]) -> dict[str, Any]:
        """input_ids, attention_mask (token_type_ids): B T; labels: B; real_tokens: their number.

        And the rows' features where they are known.
        """
        lengths, starts = self.lengths[index], self.tokens.offsets[index]
        columns = np.arange(int(lengths.max()))
        mask = columns < lengths[:, None]
        places = (starts[:, None] + columns)[mask]
        batch: dict[str, Any] = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, flat in self.tokens.fields.items():
            padded = np.full(mask.shape, self.padding[name], dtype=np.int64)
            padded[mask] = flat[places]
            batch[name] = torch.from_numpy(padded)
        if self.features is not None:
            batch["features"] = self.features.batch(index)
        labels = self.labels[torch.as_tensor(index)]
        return batch | {"labels": labels, "real_tokens": int(lengths.sum())}


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


def train_loader(encoded: Encoded, *, batch_size: int, seed: int) -> DataLoader[Any]:
    """Endless epochs of bucketed batches; in memory, so no worker processes."""
    sampler = BucketSampler(encoded.lengths, batch_size=batch_size, seed=seed)
    return DataLoader(range(len(encoded)), batch_sampler=sampler, collate_fn=encoded.batch)  # type: ignore[arg-type]


def sorted_batches(
    encoded: Encoded, batch_size: int, *, tokens: int
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
