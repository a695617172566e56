"""Which figures a report has: what there is to draw, and not more of it than can be read."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from finegrid.report import formatting
from finegrid.report.load.rankings import Results
from finegrid.runs import layout

LIMIT = 60  # figures: some ten seconds to draw, some megabytes of page
# kind of a figure -> how its omission is named; the first ones are drawn first
KINDS = {
    "ranks": "critical-difference diagrams",
    "fraction": "score by data fraction",
    "seconds": "score by training time",
    "bytes": "score by bytes stored",
    "parameters": "score by trainable parameters",
    "budget": "score by budget",
    "curves": "learning curves",
    "distances": "distances by layer",
}
MOST = 0.6  # of the methods: then a fraction can stand for all
COSTS = {"seconds": "train_seconds", "bytes": "delta_bytes", "parameters": "trainable"}
FILES = {"curves": layout.CURVE, "distances": layout.DISTANCES}


@dataclass(frozen=True)
class Panel:
    """What one figure shows; `None` where it spans all of them."""

    kind: str
    setting: int
    task: str | None = None
    budget_unit: str | None = None
    budget: float | None = None
    fraction: float | None = None

    @property
    def name(self) -> str:
        """A file's name and the prefix of ids; told apart by all fields."""
        budget = f"{self.budget:g}" if self.budget is not None else ""
        parts = [
            self.task or "",
            f"{self.budget_unit or ''}{budget}",
            self.kind,
            f"s{self.setting}",
        ]
        text = "-".join(part for part in parts if part)
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


@dataclass(frozen=True)
class Plan:
    """The figures to draw, and a sentence on those left out (empty if none were)."""

    panels: tuple[Panel, ...]
    note: str = ""


def planned(results: Results, cells: pd.DataFrame, *, limit: int = LIMIT) -> Plan:
    """Every figure there is material for, in the page's order; beyond `limit`, kinds go last."""
    found = list(_all(results, cells))
    order = list(KINDS)
    kept = sorted(range(len(found)), key=lambda at: (order.index(found[at].kind), at))[:limit]
    left = [found[at] for at in sorted(set(range(len(found))) - set(kept))]
    return Plan(tuple(found[at] for at in sorted(kept)), _note(left, limit))


def _note(left: list[Panel], limit: int) -> str:
    if not left:
        return ""
    kinds = Counter(panel.kind for panel in left)
    each = [f"{many} of {KINDS[kind]}" for kind, many in kinds.items()]
    return (
        f"{formatting.number(len(left), 'figure')} of {len(left) + limit} were not drawn (a report "
        f"draws {limit}): {formatting.listed(each)}. "
        "Report fewer directories at a time to see them."
    )


def _all(results: Results, cells: pd.DataFrame) -> Iterator[Panel]:
    setting: Any  # a group's key may be of any kind, for all that pandas' types know
    for setting, of_setting in with_trainable(cells[cells.ok > 0]).groupby("setting"):
        yield Panel("ranks", int(setting))
        for task, of_task in of_setting.groupby("task", observed=True):
            for unit, of_unit in of_task.groupby("budget_unit", observed=True):
                place = (int(setting), str(task), str(unit))
                yield from _of_unit(results, of_unit, place)


def _of_unit(results: Results, cells: pd.DataFrame, place: tuple[int, str, str]) -> Iterator[Panel]:
    """The figures of a task's budgets in one unit."""
    if cells.budget.nunique() > 1:
        yield Panel("budget", *place, fraction=fullest(cells))
    budget: Any
    for budget, of_budget in cells.groupby("budget"):
        at = fullest(of_budget)
        fullest_ones = of_budget[of_budget.fraction == at]
        if of_budget.fraction.nunique() > 1:
            yield Panel("fraction", *place, budget=float(budget))
        for kind, column in COSTS.items():
            if fullest_ones[column].notna().sum() > 1:
                yield Panel(kind, *place, budget=float(budget), fraction=at)
        for kind, file in FILES.items():
            panel = Panel(kind, *place, budget=float(budget), fraction=at)
            firsts = runs_of(results, panel).groupby("method", observed=True).directory.first()
            if any(there and (Path(there) / file).is_file() for there in firsts):
                yield panel


def with_trainable(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with one more column: all parameters that train, the head's too."""
    parts = cells[["params_delta", "params_pooler", "params_head"]]
    return cells.assign(trainable=parts.sum(axis=1, min_count=1))


def fullest(cells: pd.DataFrame) -> float:
    """The largest fraction at which most of the methods have scores; some may have failed there."""
    methods = cells.groupby("fraction").method.nunique()
    return float(methods[methods >= MOST * methods.max()].index.max())


def chosen(cells: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The rows of a frame (cells or runs) that a panel is about."""
    keep = cells.setting == panel.setting
    for name in ("task", "budget_unit", "budget", "fraction"):
        if (value := getattr(panel, name)) is not None:
            keep &= cells[name] == value
    return cells[keep]


def runs_of(results: Results, panel: Panel) -> pd.DataFrame:
    """The runs of a panel that ended well."""
    runs = chosen(results.runs, panel)
    return runs[runs.status == "ok"]
