"""Train, validation and test rows of a run.

Validation is carved from the training rows by strata of the labels; a fraction of the rest is a
prefix of one seeded order, so that small fractions lie inside large ones.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from finegrid.config import DataConfig
from finegrid.data.examples import Examples, read_rows
from finegrid.data.loading import RawSplits
from finegrid.errors import UserError, shown
from finegrid.tasks.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """What a run trains on, selects on and is scored on (first test set: the headline)."""

    train: Examples
    validation: Examples
    test: dict[str, Examples]  # `test`, and for MNLI `test_mismatched`
    overlap: int  # test rows whose text also occurs in the training rows used
    source: str


def stratified_order(
    strata: np.ndarray[Any, Any], seed: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
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


def split(tables: RawSplits, task: Task, data: DataConfig) -> Splits:
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
    task.check_train(train.labels, everything.labels, tables.where("train"))
    _warn_untested(everything, test["test"], task, tables)
    train = take_fraction(train, task, data)
    seen = set(zip(*train.texts, strict=True))
    overlap = sum(text in seen for text in zip(*test["test"].texts, strict=True))
    return Splits(train, validation, test, overlap, tables.source)


def _test_name(name: str, dev: Collection[str]) -> str:
    """`test` for the first dev split; `test_mismatched` for MNLI's `validation_mismatched`."""
    return "test" if name == next(iter(dev)) else f"test_{name.rpartition('_')[2]}"


def _carve(rows: Examples, task: Task, data: DataConfig, *, size: int) -> tuple[Examples, Examples]:
    """(the rest, a stratified part of so many rows), both in the rows' own order."""
    order = stratified_order(task.strata(rows.labels), data.split_seed)
    return rows.take(np.sort(order[size:])), rows.take(np.sort(order[:size]))


def take_fraction(train: Examples, task: Task, data: DataConfig) -> Examples:
    """The first `fraction` of the stratified order: smaller fractions lie inside larger ones."""
    order = stratified_order(task.strata(train.labels), data.subset_seed)
    size = max(1, round(data.fraction * len(train)))
    used = train.take(np.sort(order[:size]))
    counts = task.class_counts(used.labels)
    missing = [name for number, name in enumerate(task.labels) if not counts[number]]
    if missing:
        raise UserError(
            f"data.fraction={data.fraction:g} keeps {size} of {len(train)} train rows of "
            f"{task.name} and none of class {', '.join(missing)}; raise the fraction"
        )
    return used


def _warn_untested(rows: Examples, test: Examples, task: Task, tables: RawSplits) -> None:
    """Warn of classes that no test row is of, where the test rows were carved."""
    counts = task.class_counts(rows.labels)
    unseen = sorted(set(counts) - set(task.class_counts(test.labels)))
    if unseen and not tables.dev:
        listed = ", ".join(f"{shown(task.labels[n])} ({counts[n]})" for n in unseen[:20])
        where = tables.where("train")
        log.warning("%s: no test row is of class (rows): %s", where, listed)
