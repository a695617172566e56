"""Reads what runs leave beside their records: learning curves, and distances of weights."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from finegrid.runs.layout import CURVE, DISTANCES


@dataclass(frozen=True)
class Curve:
    """Validation after each evaluation of a run."""

    step: tuple[float, ...]
    seconds: tuple[float, ...]
    validation: tuple[float, ...]


def read(directory: str | Path) -> Curve | None:
    """A run's curve; `None` where there is none, or where it breaks off within its first line."""
    if not directory:  # of a run read from a table
        return None
    try:
        with (Path(directory) / CURVE).open(newline="", encoding="utf-8") as file:
            lines = [
                (float(line["step"]), float(line["seconds"]), float(line["validation"]))
                for line in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not lines or not np.isfinite(lines).all():
        return None
    step, seconds, validation = zip(*lines, strict=True)
    return Curve(step, seconds, validation)


def sampled(runs: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` runs, the same number of seeds a method, the lowest seeds first."""
    methods = max(1, runs.method.nunique())
    ordered = runs.sort_values(["method", "seed"])
    return ordered[ordered.groupby("method", observed=True).cumcount() < max(1, most // methods)]


def mean_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and range over seeds of the k-th evaluation: method, step, seconds, mean, low, high.

    Evaluations stand at equal shares of the budget, so the k-th ones of two seeds belong together.
    A seed whose curve is shorter ends the method's line there.
    """
    parts = [
        pd.DataFrame(vars(curve)).assign(method=str(method)).reset_index(names="k")
        for method, directory in zip(runs.method, runs.directory, strict=True)
        if (curve := read(directory)) is not None
    ]
    if not parts:
        return pd.DataFrame()
    means = pd.concat(parts).groupby(["method", "k"], sort=False).agg(
        step=("step", "mean"), seconds=("seconds", "mean"), mean=("validation", "mean"),
        low=("validation", "min"), high=("validation", "max"), seeds=("validation", "size"),
    )  # fmt: skip
    every = means["seeds"] == means.groupby("method")["seeds"].transform("max")
    return means[every].reset_index("method").reset_index(drop=True)


def distances(runs: pd.DataFrame) -> pd.DataFrame:
    """The distances that finegrid analyse wrote, of all runs: its columns, method and seed."""
    tables = []
    for method, seed, directory in zip(runs.method, runs.seed, runs.directory, strict=True):
        path = Path(directory) / DISTANCES
        if directory and path.is_file() and (table := _measured(path)) is not None:
            tables.append(table.assign(method=str(method), seed=seed))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _measured(path: Path) -> pd.DataFrame | None:
    """A file of distances, if it is one."""
    try:
        table = pd.read_csv(path)
        numbers = table[["l2", "l2_random", "layer"]].astype(float)
    except (OSError, ValueError, KeyError):
        return None
    return table if "kind" in table and not np.isinf(numbers.to_numpy()).any() else None
