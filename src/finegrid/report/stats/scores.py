"""The scores of each cell: by seed and, where predictions are at hand, on resampled test rows.

Predictions come from a run's directory or, just the same, from the columns of a `runs.parquet`.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report.load import caveats
from finegrid.report.load.outcomes import COLUMNS as STORED
from finegrid.report.load.outcomes import Predictions, of_run
from finegrid.report.load.rankings import CELL, RANKING, Results
from finegrid.report.stats import sums
from finegrid.report.stats.bootstrap import MEAN, METRICS, Resampler
from finegrid.report.stats.constant import Baseline, baseline, learned
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.row_noise import variance
from finegrid.runs import layout

NEEDED = [*CELL, "seed", "test", "metric", "degenerate", "test_rows", "directory"]
TOGETHER = 256  # runs scored at once: what makes matrix products of useful size
HELD = 50_000_000  # bytes of predictions
AGREES = 1e-3  # of the record's score with that of the predictions
POSITIVE = "positive_class"  # of a record
KNOWN = (*METRICS, *sums.METRICS)
Key = tuple[Any, ...]  # the values of rankings.RANKING


@dataclass(frozen=True)
class Known:
    """One cell: its scores, and which rows each run has right where that is a yes or no."""

    scores: Scores
    correct: dict[int, NDArray[np.uint8]]  # seed -> N bits, packed
    learned: bool = True  # false: predicts a constant, or is not better than one
    constant: float = nan  # the score of the best constant prediction, where known


@dataclass(frozen=True)
class Evidence:
    """What is known of every cell that has a score."""

    rankings: dict[Key, dict[str, Known]]  # ranking -> method -> cell
    notes: tuple[str, ...] = ()  # which predictions could not be used
    # directory -> predictions, so that nobody else opens the files again; some, if they are many
    predictions: Mapping[str, Predictions] = field(default_factory=dict)


@dataclass
class Held:
    """Predictions that stay in memory once read, up to `HELD` bytes."""

    by_directory: dict[str, Predictions] = field(default_factory=dict)
    size: int = 0

    def take(self, read: Iterable[tuple[str, Predictions]]) -> None:
        """Hold one ranking's, whose labels are the same."""
        labels = None
        for directory, one in read:
            labels = one.labels if labels is None else labels
            self.size += one.values.nbytes + sum(x.nbytes for x in one.statistics.values())
            if directory and self.size <= HELD:
                self.by_directory[directory] = one._replace(labels=labels)


def evidence(
    results: Results,
    *,
    seeds_alone: bool = False,
    tell: Callable[[int], None] = lambda done: None,
) -> Evidence:
    """Scores of every cell; with those on resampled rows where a ranking's predictions are there.

    Args:
        results: runs in rankings.
        seeds_alone: leave the chance of test rows aside, so that all speaks of these test sets.
        tell: called with the number of runs read so far.
    """
    runs = results.runs[results.runs["status"].eq("ok") & results.runs["test"].notna()]
    more = [name for name in runs if str(name).startswith("test/") or name in (*STORED, POSITIVE)]
    runs = runs[[*NEEDED, *more]].astype({"method": object, "directory": object})
    rankings: dict[Key, dict[str, Known]] = {}
    refused: list[str] = []
    resampler, of = None, None  # rankings on one test set come one after the other
    done, held = 0, Held()
    for key, ranking in runs.groupby(RANKING, observed=True):
        metrics = () if seeds_alone else _metrics(ranking)
        read = dict(readable(ranking, refused)) if metrics else {}
        held.take(zip(runs.loc[list(read), "directory"], read.values(), strict=True))
        metrics, read = _computable(metrics, read, refused)
        if one := next(iter(read.values()), None):
            positive = _positive(ranking)
            if of != (one.rows, metrics, positive):
                resampler = None  # its memory goes before the next set takes some
                resampler = Resampler(one.labels, metrics, positive=positive)
                of = one.rows, metrics, positive
        rankings[key] = _cells(ranking, read, resampler if read else None, metrics, refused)
        done += len(ranking)
        tell(done)
    unused = [f"Predictions not used: {caveats.some(refused)}."] if refused else []
    return Evidence(rankings, (*unused, *_limits(rankings)), held.by_directory)


def _cells(
    runs: pd.DataFrame,
    read: dict[Any, Predictions],
    resampler: Resampler | None,
    metrics: tuple[str, ...],
    refused: list[str],
) -> dict[str, Known]:
    """The cells of one ranking, by method."""
    scored = _scored(runs, read, resampler, refused) if resampler else {}
    some = next(iter(read.values()), None)
    constant = baseline(runs, metrics, resampler, some.statistics if some else {})
    return {
        str(method): _cell(of_method, read, scored, metrics, constant)
        for method, of_method in runs.groupby("method", observed=True, sort=False)
    }


def _positive(runs: pd.DataFrame) -> int | None:
    """Number of the class that F1 is of, where the records tell."""
    classes = runs[POSITIVE].dropna().tolist() if POSITIVE in runs else []
    return int(classes[0]) if classes else None


def _scored(
    runs: pd.DataFrame, read: dict[Any, Predictions], resampler: Resampler, refused: list[str]
) -> dict[Any, NDArray[np.float32]]:
    """Run -> scores on resampled rows, of the predictions that give their record's score."""
    runs = runs.loc[list(read)]
    every = list(read.values())
    batches = [every[start : start + TOGETHER] for start in range(0, len(every), TOGETHER)]
    parts = [
        resampler.scores(np.stack([one.values for one in batch]), [one.statistics for one in batch])
        for batch in batches
    ]
    scores = np.concatenate(parts, axis=1)
    constant = runs["degenerate"].eq(True).to_numpy()  # some metrics are undefined there
    agree = constant | (np.abs(scores[0] - runs["test"].to_numpy(float)) <= AGREES)
    for run in runs.index[~agree]:
        refused.append(f"{_place(runs.loc[run])} (its score is not its record's)")
    return {
        run: column.astype(np.float32)
        for run, column, fine in zip(read, scores[1:].T, agree, strict=True)
        if fine
    }


def _computable(
    metrics: tuple[str, ...], read: dict[Any, Predictions], refused: list[str]
) -> tuple[tuple[str, ...], dict[Any, Predictions]]:
    """The metrics, and the predictions that have the numbers which all of them are made of."""
    needed = {sums.METRICS[name].statistic for name in metrics if name in sums.METRICS}
    fine = {run: one for run, one in read.items() if needed <= set(one.statistics)}
    if len(fine) < len(read):
        refused.append(f"of {len(read) - len(fine)} runs ({', '.join(sorted(needed))} lacking)")
    return metrics, fine


def _metrics(runs: pd.DataFrame) -> tuple[str, ...]:
    """What the headline metric is made of; nothing if that cannot be computed here."""
    headline = str(runs["metric"].iloc[0])
    if headline != MEAN:
        return (headline,) if headline in KNOWN else ()
    return tuple(
        name for name in KNOWN if f"test/{name}" in runs and runs[f"test/{name}"].notna().any()
    )


def readable(
    runs: pd.DataFrame, refused: list[str], known: Mapping[str, Predictions] | None = None
) -> Iterable[tuple[Any, Predictions]]:
    """Run -> predictions, of those on the rows that most of the ranking was scored on."""
    by_run: dict[Any, Predictions] = {}
    for run, row in zip(runs.index, runs.to_dict("records"), strict=True):
        try:
            predictions = of_run(row, known)
        except FileNotFoundError:
            continue  # a note tells of all of them
        except (OSError, ValueError, KeyError, zlib.error) as error:
            refused.append(f"{_place(row)} ({str(error).splitlines()[0][:100]})")
            continue
        if predictions:
            by_run[run] = predictions
    counts = Counter(one.rows for one in by_run.values())
    usual = max(counts, key=lambda rows: (counts[rows], rows), default="")
    for run, predictions in by_run.items():
        if predictions.rows == usual:
            yield run, predictions
        else:
            place = _place(runs.loc[run])
            refused.append(f"{place} (other rows or labels than most of its ranking)")


def _place(run: Any) -> str:
    """Where a run's predictions are, for a note."""
    if run["directory"]:
        return f"{run['directory']}/{layout.PREDICTIONS}"
    return f"{run['method']} seed {run['seed']} on {run['task']} at {run['fraction']:g}"


def _cell(
    runs: pd.DataFrame,
    read: dict[Any, Predictions],
    scored: dict[Any, NDArray[np.float32]],
    metrics: tuple[str, ...],
    constant: Baseline | None,
) -> Known:
    seeds, values = tuple(runs["seed"].tolist()), runs["test"].to_numpy(float)
    known = {seed: run for seed, run in zip(seeds, runs.index, strict=True) if run in scored}
    if known:
        unknown = np.full_like(next(iter(scored.values())), np.nan)
        columns = [scored[known[seed]] if seed in known else unknown for seed in seeds]
        rows = len(next(iter(read.values())).values)
        scores = Scores(seeds, values, np.stack(columns, axis=1), rows)
    else:
        least = runs["test_rows"].min()
        rows = int(least) if least > 0 else 0
        scores = Scores(seeds, values, rows=rows, of_rows=variance(runs, metrics, rows))
    correct = {
        seed: np.packbits(read[run].values == read[run].labels)
        for seed, run in known.items()
        if read[run].numbered
    }
    known_score = constant.score if constant and constant.known else nan
    return Known(scores, correct, learned(runs, scores, constant), known_score)


def _limits(rankings: dict[Key, dict[str, Known]]) -> Iterator[str]:
    """What the tests of rankings without predictions, or with one seed, do not tell."""
    compared = [methods for methods in rankings.values() if len(methods) > 1]
    cells = [cell.scores for methods in compared for cell in methods.values()]
    lacking = [scores for scores in cells if scores.resampled is None]
    if any(scores.of_rows > 0 for scores in lacking):
        yield (
            "Where predictions are missing the chance of test rows is estimated from score and "
            "number of rows, as if methods erred on unrelated rows: fewer are told apart."
        )
    if any(not scores.of_rows > 0 for scores in lacking):
        yield (
            "Where neither predictions nor the number of test rows are used a test knows the "
            "chance of seeds alone: it speaks of this test set, not of others like it."
        )
    if any(len(scores.seeds) == 1 for scores in cells):
        yield (
            "Where a method has one seed a test knows the chance of seeds from other methods at "
            "best; else it speaks of these runs, not of their methods. Run more seeds."
        )
