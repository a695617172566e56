"""Train, validation and test rows of a run.

A fraction of the training rows is a prefix of one seeded order, so that small fractions lie inside
large ones. Validation is carved by strata of the labels: from all training rows before the fraction
is taken (`data.validation=fixed`), or from the fraction's own rows (`share`).
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from finegrid.config import DataConfig
from finegrid.data.examples import Examples, read_rows
from finegrid.data.loading import RawSplits
from finegrid.errors import UserError, require, shown
from finegrid.tasks.task import Task

log = logging.getLogger(__name__)
COPIED = 0.1  # of the test rows: more of them among the training rows is worth a word
SHARE = 0.2  # of a fraction's rows for validation, at most half of them
LEAST = 8  # rows for validation, whatever the share
Order = np.ndarray[Any, np.dtype[np.int64]]  # row numbers
CYCLE = round(1 / SHARE)  # of so many successive rows of a stratum one goes to validation


@dataclass(frozen=True)
class Splits:
    """What a run trains on, selects on and is scored on (first test set: the headline)."""

    train: Examples
    validation: Examples
    test: dict[str, Examples]  # `test`, and for MNLI `test_mismatched`
    overlap: int  # test rows whose text also occurs in the training rows used
    source: str
    fraction: float  # of the rows that a fraction is taken of
    unlabelled: Examples | None = None  # training rows left out, if asked for; their labels are not


def stratified_order(strata: np.ndarray[Any, Any], seed: int) -> Order:
    """A random order whose every prefix keeps the label distribution; prefixes are nested.

    The rows of each stratum (`Task.strata`) are shuffled by themselves; the k-th of n rows gets the
    place (k + 1/2) / n, and all rows are sorted by place.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        place[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((random.random(len(strata)), place))


def split(tables: RawSplits, task: Task, data: DataConfig, *, unlabelled: bool = False) -> Splits:
    """Check the tables and make the run's splits, the same for every method.

    `unlabelled` asks for the training rows left out too.

    Raises:
        UserError: for unusable columns or labels, too few rows, or a class that none is left of.
    """
    train = everything = read_rows(tables.train, task, tables.where("train"))
    test = {
        _test_name(name, tables.dev): read_rows(table, task, tables.where(name))
        for name, table in tables.dev.items()
    }
    if not test:
        train, test["test"] = _carve(train, task, data, size=max(1, len(train) // 5))
    validation = test["test"]  # with data.protocol=dev
    shared = data.protocol == "holdout" and data.validation == "share"
    if data.protocol == "holdout" and not shared:
        size = max(1, min(round(data.validation_fraction * len(train)), data.validation_max))
        train, validation = _carve(train, task, data, size=size)
    if len(train) == 0:
        raise UserError(f"{tables.source}: too few rows to carve validation and test from")
    task.check_train(train.labels, everything.labels, tables.where("train"))
    _warn_untested(everything, test["test"], task, tables)
    order = used_rows(train, task, data)
    used = train.take(np.sort(order))
    rest = left_out(train, order, task, data) if unlabelled else None
    if shared:
        used, validation = _share_out(train, order, task, data)
    seen = set(zip(*used.texts, strict=True))
    if (rows := task.training_rows(used.labels)) is not None:
        used = used.labelled(*rows)
    overlap = sum(text in seen for text in zip(*test["test"].texts, strict=True))
    if overlap > COPIED * len(test["test"]):
        log.warning(
            "%s: %s of %s test rows are training rows too, so their scores are too high",
            tables.source, f"{overlap:,}", f"{len(test['test']):,}",
        )  # fmt: skip
    fraction = data.fraction if data.rows is None else data.rows / len(train)
    return Splits(used, validation, test, overlap, tables.source, fraction, rest)


def _test_name(name: str, dev: Collection[str]) -> str:
    """`test` for the first dev split; `test_mismatched` for MNLI's `validation_mismatched`."""
    return "test" if name == next(iter(dev)) else f"test_{name.rpartition('_')[2]}"


def _carve(rows: Examples, task: Task, data: DataConfig, *, size: int) -> tuple[Examples, Examples]:
    """(the rest, a stratified part of so many rows), both in the rows' own order."""
    order = stratified_order(task.strata(rows.labels), data.split_seed)
    return rows.take(np.sort(order[size:])), rows.take(np.sort(order[:size]))


def used_rows(train: Examples, task: Task, data: DataConfig) -> Order:
    """Numbers of the rows that a run uses: the first of the stratified order, in that order.

    Smaller fractions lie inside larger ones.
    """
    require(
        (data.rows or 0) <= len(train),
        f"data.rows={data.rows} asks for more than the {len(train)} rows of {task.name} that "
        "there are to train on; ask for fewer, or leave it out for all of them",
    )
    size = max(1, round(data.fraction * len(train))) if data.rows is None else data.rows
    order = stratified_order(task.strata(train.labels), data.subset_seed)[:size]
    if size == 0:
        return order
    _require_classes(train.take(order), task, data, f"keeps {size} of {len(train)} train rows")
    return order


def left_out(train: Examples, order: Order, task: Task, data: DataConfig) -> Examples:
    """The rows that a run does not use, in their order, with labels that say nothing."""
    rest = np.setdiff1d(np.arange(len(train)), order)
    require(
        len(rest) > 0,
        f"{_asked(data)} leaves out none of the {len(train)} training rows of {task.name}, and "
        "self-training needs some; lower it",
    )
    rows = train.take(rest)
    return rows.labelled(range(len(rows)), task.unknown_labels(rows.texts))


def _share_out(
    rows: Examples, order: Order, task: Task, data: DataConfig
) -> tuple[Examples, Examples]:
    """(train, validation) of the rows that a run uses, both in the rows' own order."""
    size = min(max(LEAST, round(SHARE * len(order))), len(order) // 2)
    require(
        size > 0,
        f"{_asked(data)} keeps {len(order)} train row{'' if len(order) == 1 else 's'} of "
        f"{task.name}, and data.validation=share needs 2 to divide; raise it",
    )
    places = share_order(task.strata(rows.labels)[order], data.split_seed)
    train, validation = (rows.take(np.sort(order[part])) for part in (places[size:], places[:size]))
    kept = f"with data.validation=share keeps {len(train)} rows to train on"
    _require_classes(train, task, data, kept)
    return train, validation


def share_order(strata: np.ndarray[Any, Any], seed: int) -> Order:
    """Places of rows in the order in which validation takes them; `strata`: of nested rows.

    Of `CYCLE` successive rows of a stratum the seed says which is taken first, second, ..., and the
    first of them is taken last, so that a rare class has rows to train on. A row's turn does not
    depend on how many come after it: validation of few rows lies in that of many, but for what
    rounding and the least size move.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    turns = np.append(CYCLE - 1, random.permutation(CYCLE - 1))
    turn = np.empty(len(strata), dtype=np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        turn[members] = turns[np.arange(len(members)) % CYCLE]
    return np.argsort(turn, kind="stable")


def _require_classes(rows: Examples, task: Task, data: DataConfig, kept: str) -> None:
    """Refuse training rows that lack a class."""
    counts = task.class_counts(rows.labels)
    named = enumerate(task.labels) if task.EVERY_CLASS else ()
    missing = [name for number, name in named if not counts[number]]
    require(
        not missing,
        f"{_asked(data)} {kept} of {task.name} and none of class {', '.join(missing)}; raise "
        + ("the fraction" if data.rows is None else "it"),
    )


def _asked(data: DataConfig) -> str:
    """The option that says how many rows a run uses."""
    rows = data.rows
    return f"data.fraction={data.fraction:g}" if rows is None else f"data.rows={rows}"


def _warn_untested(rows: Examples, test: Examples, task: Task, tables: RawSplits) -> None:
    """Warn of classes that no test row is of, where the test rows were carved."""
    counts = task.class_counts(rows.labels)
    unseen = sorted(set(counts) - set(task.class_counts(test.labels)))
    if unseen and not tables.dev:
        listed = ", ".join(f"{shown(task.labels[n])} ({counts[n]})" for n in unseen[:20])
        where = tables.where("train")
        log.warning("%s: no test row is of class (rows): %s", where, listed)
