"""Measures finished runs and pairs of them: data frames whose rows name their run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from finegrid.analysis import distances, importance, overlap, spectra
from finegrid.analysis.weights import Solution, Weights
from finegrid.runs.record import Record

ABOUT = ("cell", "method", "task", "model", "fraction", "budget_unit", "budget", "seed")
Measure = Callable[[Solution, Solution], pd.DataFrame]
Frames = dict[str, pd.DataFrame]


def runs(
    weights: Weights, records: Mapping[Path, Record], *, embeddings: bool = False
) -> Iterator[tuple[Path, Frames]]:
    """Each run's frames: distances, importance, spectra, masks, injected."""
    for directory in tqdm(records, desc="runs", disable=None):
        frames = measured(weights.solution(directory), embeddings=embeddings)
        about = described(records[directory])
        yield directory, {name: _led(frame, about) for name, frame in frames.items()}


def measured(solution: Solution, *, embeddings: bool = False) -> Frames:
    """One run's frames by name; those of masks and injected modules may be empty."""
    moved = distances.table(solution)
    return {
        "distances": moved,
        "importance": importance.table(moved),
        "spectra": spectra.table(solution, embeddings=embeddings),
        "masks": overlap.zeros(solution),
        "injected": injected(solution),
    }


def injected(solution: Solution) -> pd.DataFrame:
    """One row a module that works beside the weights, so that no distance tells of it."""
    rows = [
        (path, type(module).__name__, sum(value.numel() for value in module.parameters()))
        for path, module in solution.unmerged().items()
    ]
    return pd.DataFrame(rows, columns=["path", "type", "numel"])


def between(
    weights: Weights,
    records: Mapping[Path, Record],
    pairs: Iterable[tuple[Path, Path]],
    measure: Measure,
) -> pd.DataFrame:
    """The frames of a measurement of pairs, one below the other; two runs in memory at a time."""
    frames = []
    for first, group in groupby(tqdm(list(pairs), desc="pairs", disable=None), key=itemgetter(0)):
        a = weights.solution(first)
        for _, second in group:
            about = _pair(records[first], records[second])
            frames.append(_led(measure(a, weights.solution(second)), about))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def described(record: Record) -> dict[str, object]:
    """The columns that say which run a row is about, as the report names them."""
    about = {name: getattr(record, name) for name in ABOUT}
    return about | {"overrides": " ".join(record.overrides)}


def folder(record: Record) -> str:
    """What a run's files are found under."""
    return f"{record.task}-{record.model}-{record.method}-s{record.seed}-{record.cell}"


def _pair(a: Record, b: Record) -> dict[str, object]:
    ends = {"a": described(a), "b": described(b)}
    about = {f"{key}_{end}": of[key] for key in ends["a"] for end, of in ends.items()}
    return {"relation": overlap.relation(a, b), **about}


def _led(frame: pd.DataFrame, about: Mapping[str, object]) -> pd.DataFrame:
    """The frame with the same values in front of each row."""
    front = pd.DataFrame({key: [value] * len(frame) for key, value in about.items()})
    return pd.concat([front, frame], axis=1)
