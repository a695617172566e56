"""How methods err on a test set: scores by class, confusion matrices, rows on which they disagree.

From stored predictions of classes; of a regression there is nothing here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report import formatting
from finegrid.report.load import outcomes
from finegrid.report.load.outcomes import Predictions
from finegrid.report.stats.scores import readable

CLASSES, MOST = 20, 1000  # of a matrix at most, and at all
ROWS = 12  # shown


@dataclass(frozen=True)
class Confusion:
    """One method's mean over seeds."""

    method: str
    f1: tuple[str, ...]  # by class
    counts: tuple[tuple[tuple[str, int], ...], ...]  # gold by predicted: rows, percent of the gold


@dataclass(frozen=True)
class Row:
    """A test row, and who predicts what: (class, methods), the most methods first."""

    name: str
    gold: str
    predicted: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Mistakes:
    """Of the methods of one ranking."""

    classes: tuple[str, ...]  # with their number of test rows; empty if too many for matrices
    names: tuple[str, ...]
    methods: tuple[Confusion, ...]
    rows: tuple[Row, ...]


def mistakes(
    runs: pd.DataFrame, methods: Sequence[str], known: Mapping[str, Predictions] | None = None
) -> Mistakes | None:
    """How the methods of a ranking err, in the order given; None without predictions of classes.

    Args:
        runs: of the ranking, those that ended well.
        methods: their names.
        known: directory -> predictions that have been read.
    """
    by_run = dict(readable(runs, [], known))
    first = next(iter(by_run.values()), None)
    if first is None or not all(one.numbered for one in by_run.values()):
        return None
    labels, every = first.labels, [first.labels, *(one.values for one in by_run.values())]
    size = 1 + int(max(numbers.max() for numbers in every))
    if size > MOST or min(numbers.min() for numbers in every) < 0:
        return None
    names = _names(runs, size)
    values: dict[str, NDArray[Any]] = {}
    for name in methods:
        of_method = [one.values for run, one in by_run.items() if runs.at[run, "method"] == name]
        values |= {name: np.stack(of_method)} if of_method else {}
    few = size <= CLASSES
    rows = np.bincount(labels, minlength=size)
    return Mistakes(
        tuple(f"{name} ({many:,})" for name, many in zip(names, rows, strict=True)) if few else (),
        names,
        tuple(_confusion(name, labels, each, size) for name, each in values.items()) if few else (),
        _disagreements(labels, values, names, str(runs.loc[next(iter(by_run)), "directory"])),
    )


def _names(runs: pd.DataFrame, size: int) -> tuple[str, ...]:
    """Names of the classes; their numbers where the records, of an older version, have none."""
    for text in runs["labels"].dropna().unique() if "labels" in runs else ():
        try:
            names = json.loads(text)
        except ValueError:
            continue
        if isinstance(names, list) and len(names) >= size:
            return tuple(map(str, names[:size]))
    known = runs.reindex(columns=["positive_class", "positive"]).dropna().to_numpy()
    named = {int(number): str(name) for number, name in known}
    return tuple(named.get(number, f"class {number}") for number in range(size))


def _confusion(method: str, labels: NDArray[Any], values: NDArray[Any], size: int) -> Confusion:
    """values: seeds x N."""
    places = labels * size + values + size**2 * np.arange(len(values))[:, None]
    counts = np.bincount(places.ravel(), minlength=len(values) * size**2).reshape(-1, size, size)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    f1 = (2 * hits / np.maximum(1, counts.sum(1) + counts.sum(2))).mean(0)
    mean = counts.mean(0)
    shares = np.rint(100 * mean / np.maximum(1, mean.sum(1, keepdims=True))).astype(int)
    texts = [[f"{many:,.1f}".removesuffix(".0") for many in line] for line in mean]
    lines = (tuple(zip(*both, strict=True)) for both in zip(texts, shares.tolist(), strict=True))
    return Confusion(method, tuple(formatting.score(score, 3) for score in f1), tuple(lines))


def _disagreements(
    labels: NDArray[Any], values: dict[str, NDArray[Any]], names: Sequence[str], directory: str
) -> tuple[Row, ...]:
    """The rows at which the shares of seeds that predict a class vary most between methods."""
    if len(values) < 2:
        return ()
    total = sum(
        np.stack([(each == number).mean(0) for each in values.values()]).var(0)  # of methods x N
        for number in range(len(names))
    )
    most = [row for row in np.argsort(-total, kind="stable")[:ROWS] if total[row] > 0]
    ids = outcomes.row_names(directory)
    return tuple(
        Row(ids[row] if ids else str(row), names[labels[row]],
            _votes({name: each[:, row] for name, each in values.items()}, names))
        for row in most
    )  # fmt: skip


def _votes(values: dict[str, NDArray[Any]], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What most seeds of each method predict; in brackets how many, unless all do."""
    votes: dict[str, list[str]] = {}
    for method, predicted in values.items():
        counts = np.bincount(predicted)
        top = int(counts.argmax())
        agree = "" if counts[top] == len(predicted) else f" ({counts[top]} of {len(predicted)})"
        votes.setdefault(names[top], []).append(f"{method}{agree}")
    ranked = sorted(votes.items(), key=lambda vote: -len(vote[1]))
    return tuple((name, ", ".join(methods)) for name, methods in ranked)
