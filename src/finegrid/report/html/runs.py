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
LEFT, RIGHT, LOW, HIGH = 46, 310, 64, 14  # of a drawn curve, in a box of 320 x 84


@dataclass(frozen=True)
class Cell:
    """A cell and those of its runs that are listed: their columns, in words."""

    runs: tuple[dict[str, Any], ...]
    of: int  # how many there are

    @property
    def overrides(self) -> list[str]:
        """The settings that all of its runs share, seeds apart."""
        each = [set(run["overrides"]) for run in self.runs if run["overrides"]]
        return sorted(set.intersection(*each) - {""}) if each else []


@dataclass(frozen=True)
class Listed:
    """The runs on a page."""

    cells: dict[tuple[Any, ...], Cell]  # by the values of CELL
    note: str  # on what is not listed, or nothing


def listed(runs: pd.DataFrame) -> Listed:
    """The runs behind each cell, with their learning curves drawn, and a note."""
    shown = first(runs, RUNS)
    with_curve = set(curves.sampled(shown[shown.status == "ok"], CURVES).index)
    behind: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    columns = shown[[name for name in COLUMNS if name in shown]]
    for index, values in zip(shown.index, columns.to_dict("records"), strict=True):
        curve = curves.read(_text(values, "directory")) if index in with_curve else None
        run = _run(values) | {"curve": curve}
        behind.setdefault(tuple(values[name] for name in CELL), []).append(run)
    sizes: Any = runs.groupby(CELL).size()
    note = (
        f"{len(runs):,} runs were read; the page lists {len(shown):,}: those that did not end "
        "well, the lowest of each cell, and the first seeds."
    )
    cells = {key: Cell(_drawn(behind.get(key, [])), int(size)) for key, size in sizes.items()}
    return Listed(cells, note if len(shown) < len(runs) else "")


def _drawn(runs: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """A cell's runs with their curves as paths; one scale for all seeds."""
    every = [run["curve"] for run in runs if run["curve"]]
    if not every:
        return tuple(runs)
    values = [value for curve in every for value in curve.validation]
    low, high = min(values), max(values)
    end = max(at for curve in every for at in curve.seconds)
    scale = {"low": low, "high": high, "end": end}
    return tuple(run | {"curve": _path(run["curve"], **scale)} for run in runs)


def _path(curve: curves.Curve | None, *, low: float, high: float, end: float) -> dict[str, Any]:
    """What the template draws of a curve; nothing without one."""
    if curve is None:
        return {}
    wide, tall = (RIGHT - LEFT) / (end or 1), (LOW - HIGH) / (high - low or 1)
    points = [
        (LEFT + wide * at, LOW - tall * (value - low))
        for at, value in zip(curve.seconds, curve.validation, strict=True)
    ]
    best = max(curve.validation)
    return {
        "path": "L".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "best": points[curve.validation.index(best)],
        "label": f"Validation from {curve.validation[0]:.4g} to {curve.validation[-1]:.4g}, "
        f"highest {best:.4g}",
        "low": f"{low:.3f}" if high > low else "",
        "high": f"{high:.3f}",
        "end": f"{end:.0f} s",
    }


def first(runs: pd.DataFrame, most: int) -> pd.DataFrame:
    """Of too many runs: the failed ones, the lowest of each cell, then the first seeds of each."""
    if len(runs) <= most:
        return runs
    lowest = runs.groupby(CELL)["test"].rank(method="first") == 1
    turn = runs.groupby(CELL).cumcount() + 2
    order = turn.mask(lowest, 1).mask(runs.status != "ok", 0)
    return runs.loc[order.sort_values(kind="stable").index[:most]].sort_index()


def _run(values: dict[Any, Any]) -> dict[str, Any]:
    overrides = variants.listed(_text(values, "overrides"))
    names, command = ("status", "error", "directory"), _text(values, "command")
    return {name: _text(values, name) for name in names} | {
        "seed": int(values["seed"]),
        "test": formatting.score(values.get("test")),
        "validation": formatting.score(values.get("validation")),
        "step": formatting.count(values.get("best_step")),
        "seconds": formatting.duration(values.get("train_seconds")),
        "overrides": overrides,
        "command": rerun_command(overrides, command=command) if any(overrides) else command,
        "commit": _text(values, "git_commit")[:12],
    }


def _text(values: dict[Any, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""
