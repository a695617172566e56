"""What lies behind each number of the page: a cell's runs, how each ended, how to run it again."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from finegrid.report import formatting
from finegrid.report.figures import curves
from finegrid.report.load import variants
from finegrid.report.load.rankings import CELL
from finegrid.runs.text import rerun_command

RUNS = 5000  # listed on a page
CURVES = 1500  # of them with a learning curve: a file each to read
COLUMNS = [
    *CELL, "seed", "status", "test", "validation", "best_step", "train_seconds", "error",
    "overrides", "command", "directory", "git_commit",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run, in words."""

    seed: int
    status: str
    test: str
    validation: str
    step: str
    seconds: str
    error: str
    overrides: str
    command: str
    directory: str
    commit: str
    curve: int | None  # index into the page's curves


@dataclass(frozen=True)
class Detail:
    """A cell and those of its runs that are listed."""

    runs: tuple[Run, ...]
    of: int  # how many there are

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings that all of its runs share, seeds apart."""
        each = [set(variants.listed(run.overrides)) for run in self.runs if run.overrides]
        return tuple(sorted(set.intersection(*each) - {""})) if each else ()


Curves = list[tuple[list[float], list[float]]]  # seconds, validation


def details(runs: pd.DataFrame) -> tuple[dict[tuple[Any, ...], Detail], Curves, str]:
    """The runs behind each cell, their curves, and a note on what is not listed (or nothing)."""
    kept = listed(runs, RUNS)
    drawn = set(curves.sampled(kept[kept.status == "ok"], CURVES).index)
    found: Curves = []
    behind: dict[tuple[Any, ...], list[Run]] = {}
    columns = kept[[name for name in COLUMNS if name in kept]]
    for index, values in zip(kept.index, columns.to_dict("records"), strict=True):
        key = tuple(values[name] for name in CELL)
        behind.setdefault(key, []).append(_run(values, _curve(values, found, index in drawn)))
    sizes: Any = runs.groupby(CELL).size()
    every = {key: Detail(tuple(behind.get(key, ())), int(size)) for key, size in sizes.items()}
    note = (
        f"{len(runs):,} runs were read; the page lists {len(kept):,}: those that did not end well, "
        "the lowest of each cell, and the first seeds."
        if len(kept) < len(runs) else ""
    )  # fmt: skip
    return every, found, note


def listed(runs: pd.DataFrame, most: int) -> pd.DataFrame:
    """Of too many runs: the failed ones, the lowest of each cell, then the first seeds of each."""
    if len(runs) <= most:
        return runs
    lowest = runs.groupby(CELL)["test"].rank(method="first") == 1
    turn = runs.groupby(CELL).cumcount() + 2
    first = turn.mask(lowest, 1).mask(runs.status != "ok", 0)
    return runs.loc[first.sort_values(kind="stable").index[:most]].sort_index()


def _curve(values: dict[Any, Any], found: Curves, wanted: bool) -> int | None:
    """Where a run's curve stands among those found, once it is added to them."""
    curve = curves.read(_text(values, "directory")) if wanted else None
    if curve is None:
        return None
    seconds = [round(at, 2) for at in curve.seconds]
    found.append((seconds, [round(value, 4) for value in curve.validation]))
    return len(found) - 1


def _run(values: dict[Any, Any], curve: int | None) -> Run:
    overrides = _text(values, "overrides")
    return Run(
        seed=int(values["seed"]),
        status=_text(values, "status"),
        test=formatting.score(values.get("test")),
        validation=formatting.score(values.get("validation")),
        step=formatting.count(values.get("best_step")),
        seconds=formatting.duration(values.get("train_seconds")),
        error=_text(values, "error"),
        overrides=overrides,
        command=rerun_command(variants.listed(overrides))
        if overrides
        else _text(values, "command"),
        directory=_text(values, "directory"),
        commit=_text(values, "git_commit")[:12],
        curve=curve,
    )


def _text(values: dict[Any, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""
