"""What is known of each cell's score: its seeds and, from predictions, the chance of test rows."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report import notes
from finegrid.report.frame import CELL, RANKING, Results
from finegrid.report.resampling import MEAN, METRICS, Resampler
from finegrid.report.stats import Scores

FILE = "predictions.parquet"
NEEDED = [*CELL, "seed", "test", "metric", "degenerate", "test_rows", "directory"]
COLUMNS = ["split", "idx", "label", "prediction"]
TOGETHER = 256  # runs scored at once: what makes matrix products of useful size
AGREES = 1e-3  # of the record's score with that of the predictions
Key = tuple[Any, ...]  # the values of frame.RANKING


class Predictions(NamedTuple):
    """One run's predictions on the headline test set."""

    rows: bytes  # digest of idx and labels
    labels: NDArray[np.generic]  # N
    values: NDArray[np.generic]  # N


@dataclass(frozen=True)
class Known:
    """One cell: its scores, and which rows each run has right where that is a yes or no."""

    scores: Scores
    correct: dict[int, NDArray[np.uint8]]  # seed -> N bits, packed


@dataclass(frozen=True)
class Evidence:
    """What is known of every cell that has a score."""

    rankings: dict[Key, dict[str, Known]]  # ranking -> method -> cell
    notes: tuple[str, ...] = ()  # which predictions could not be used


def evidence(results: Results, *, tell: Callable[[int], None] = lambda done: None) -> Evidence:
    """Scores of every cell; with those on resampled rows where a ranking's predictions are there.

    Args:
        results: runs in rankings.
        tell: called with the number of runs read so far.
    """
    runs = results.runs[results.runs["status"].eq("ok") & results.runs["test"].notna()]
    scores = [name for name in runs if str(name).startswith(("test/", "positive_class"))]
    runs = runs[[*NEEDED, *scores]].astype({"method": object, "directory": object})
    found: dict[Key, dict[str, Known]] = {}
    refused: list[str] = []
    draws = _Draws()
    done = 0
    for key, own in runs.groupby(RANKING, observed=True):
        found[key] = _ranking(own, draws, refused)
        done += len(own)
        tell(done)
    told = [f"Predictions not used: {notes.some(refused)}."] if refused else []
    return Evidence(found, tuple([*told, *_unresampled(found)]))


class _Draws:
    """The draws of the last test set: rankings on one set come one after the other."""

    def __init__(self) -> None:
        self._of: tuple[bytes, tuple[str, ...]] | None = None
        self._draws: Resampler | None = None

    def of(self, predictions: Predictions, metrics: tuple[str, ...]) -> Resampler:
        """The draws of the test set of some predictions."""
        if self._draws is None or self._of != (predictions.rows, metrics):
            self._draws = None  # its memory goes before the next set takes some
            self._draws = Resampler(predictions.labels, metrics)
            self._of = predictions.rows, metrics
        return self._draws


def _ranking(runs: pd.DataFrame, draws: _Draws, refused: list[str]) -> dict[str, Known]:
    metrics = _metrics(runs)
    several = runs["method"].nunique() > 1 and metrics and runs["directory"].ne("").any()
    read = dict(_readable(runs, refused)) if several else {}
    scored = _scored(runs, read, draws, metrics, refused) if read else {}
    return {
        str(method): _cell(own, read, scored)
        for method, own in runs.groupby("method", observed=True, sort=False)
    }


def _scored(
    runs: pd.DataFrame,
    read: dict[str, Predictions],
    draws: _Draws,
    metrics: tuple[str, ...],
    refused: list[str],
) -> dict[str, NDArray[np.float32]]:
    """Directory -> scores on resampled rows, of the predictions that give their record's score."""
    resampler = draws.of(next(iter(read.values())), metrics)
    own = runs.set_index("directory").loc[list(read)]
    values = [predictions.values for predictions in read.values()]
    parts = [values[start : start + TOGETHER] for start in range(0, len(values), TOGETHER)]
    scores = np.concatenate([resampler.scores(np.stack(part)) for part in parts], axis=1)
    constant = own["degenerate"].eq(True).to_numpy()  # some metrics are undefined there
    agree = constant | (np.abs(scores[0] - own["test"].to_numpy(float)) <= AGREES)
    found = {}
    for directory, column, fine in zip(read, scores[1:].T, agree, strict=True):
        if fine:
            found[directory] = column.astype(np.float32)
        else:
            refused.append(f"{directory}/{FILE} (its score is not its record's)")
    return found


def _metrics(runs: pd.DataFrame) -> tuple[str, ...]:
    """What the headline metric is made of; nothing if that cannot be computed here."""
    headline = str(runs["metric"].iloc[0])
    if headline != MEAN:
        names = [headline] if headline in METRICS else []
    else:
        names = [n for n in METRICS if f"test/{n}" in runs and runs[f"test/{n}"].notna().any()]
    of = [f"f1:{n:g}" for n in runs.get("positive_class", pd.Series(dtype=float)).dropna()]
    return tuple(of[0] if name == "f1" and of else name for name in names)


def _readable(runs: pd.DataFrame, refused: list[str]) -> Iterable[tuple[str, Predictions]]:
    """Directory -> predictions, of those on the rows that most of the ranking was scored on."""
    found = {}
    for directory in filter(None, runs["directory"]):
        try:
            found[directory] = read(directory)
        except FileNotFoundError:
            continue  # told of all together
        except (OSError, ValueError, KeyError) as error:
            refused.append(f"{directory}/{FILE} ({str(error).splitlines()[0][:100]})")
    counts = Counter(one.rows for one in found.values())
    usual = max(counts, key=lambda rows: (counts[rows], rows), default=b"")
    for directory, predictions in found.items():
        if predictions.rows == usual:
            yield directory, predictions
        else:
            refused.append(f"{directory}/{FILE} (other rows or labels than most of its ranking)")


def read(directory: str) -> Predictions:
    """A run's predictions on the headline test set.

    Raises:
        OSError, ValueError, KeyError: if there are none that can be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.memory_map(f"{directory}/{FILE}"), pre_buffer=False) as file:
        table = file.read(columns=COLUMNS, use_threads=False)
    if len(table.column("split").unique()) > 1:
        table = table.filter(table.column("split").to_numpy() == "test")
    idx, labels, values = (table.column(name).to_numpy() for name in COLUMNS[1:])
    if not len(labels) or not np.isfinite(values).all():
        raise ValueError("no rows, or predictions that are no numbers")
    digest = blake2b(idx.tobytes(), digest_size=16)
    digest.update(labels.tobytes())
    return Predictions(digest.digest(), labels, values)


def _cell(
    runs: pd.DataFrame, read: dict[str, Predictions], scored: dict[str, NDArray[np.float32]]
) -> Known:
    seeds, values = tuple(runs["seed"].tolist()), runs["test"].to_numpy(float)
    known = {s: d for s, d in zip(seeds, runs["directory"], strict=True) if d in scored}
    if not known:
        rows = runs["test_rows"].min()
        return Known(Scores(seeds, values, rows=int(rows) if rows > 0 else 0), {})
    unknown = np.full_like(next(iter(scored.values())), np.nan)
    columns = [scored[known[seed]] if seed in known else unknown for seed in seeds]
    predictions = {seed: read[directory] for seed, directory in known.items()}
    rows = len(next(iter(predictions.values())).values)
    right = {
        seed: np.packbits(one.values == one.labels)
        for seed, one in predictions.items()
        if one.values.dtype.kind in "iu"
    }
    return Known(Scores(seeds, values, np.stack(columns, axis=1), rows), right)


def _unresampled(found: dict[Key, dict[str, Known]]) -> list[str]:
    """What the tests of rankings without predictions, or with one seed, do not tell."""
    told = []
    compared = [methods for methods in found.values() if len(methods) > 1]
    cells = [cell.scores for methods in compared for cell in methods.values()]
    if any(scores.resampled is None for scores in cells):
        told.append(
            "Where predictions are missing a test knows the chance of seeds alone: it speaks of "
            "this test set, not of others like it."
        )
    if any(len(scores.seeds) == 1 for scores in cells):
        told.append(
            "Where a method has one seed a test knows the chance of seeds from other methods at "
            "best; else it speaks of these runs, not of their methods. Run more seeds."
        )
    return told
