"""Which figures a report has: what there is to draw, and not more of it than can be read."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from finegrid.report import formatting
from finegrid.report.load.rankings import RANKING, Results
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
class FigureKey:
    """What one figure shows; `None` where it spans all of them."""

    kind: str
    setting: int
    task: str | None = None
    budget_unit: str | None = None
    budget: float | None = None
    fraction: float | None = None
    amount: str = ""  # that fraction in words

    @property
    def name(self) -> str:
        """A file's name, told apart by all fields."""
        budget = "" if self.budget is None else f"{self.budget:g}"
        parts = (self.task, f"{self.budget_unit or ''}{budget}", self.kind, f"s{self.setting}")
        text = "-".join(filter(None, parts))
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)

    @property
    def where(self) -> str:
        """What is the same for all points: `8 epochs, 30 % of the data`."""
        parts = []
        if self.budget_unit and self.budget is not None:
            parts.append(formatting.budget(self.budget_unit, self.budget))
        if self.fraction is not None:
            parts.append(f"{self.amount} of the data")
        return ", ".join(parts)


def planned(
    results: Results, cells: pd.DataFrame, *, limit: int = LIMIT
) -> tuple[list[FigureKey], str]:
    """Every figure there is material for, in the page's order; beyond `limit`, kinds go last.

    Returns them and a sentence on those left out (empty if none were).
    """
    keys = list(_keys(results, cells))
    kinds = list(KINDS)
    chosen = sorted(range(len(keys)), key=lambda at: (kinds.index(keys[at].kind), at))[:limit]
    left = Counter(key.kind for at, key in enumerate(keys) if at not in set(chosen))
    return [keys[at] for at in sorted(chosen)], _note(left, limit) if left else ""


def _note(left: Counter[str], limit: int) -> str:
    each = [f"{many} of {KINDS[kind]}" for kind, many in left.items()]
    return (
        f"{formatting.number(left.total(), 'figure')} of {left.total() + limit} were not drawn (a "
        f"report draws {limit}): {formatting.listed(each)}. "
        "Report fewer directories at a time to see them."
    )


def _keys(results: Results, cells: pd.DataFrame) -> Iterator[FigureKey]:
    setting: Any  # a group's key may be of any kind, for all that pandas' types know
    for setting, of_setting in with_trainable(cells[cells.ok > 0]).groupby("setting"):
        yield FigureKey("ranks", int(setting))
        for (task, unit), rows in of_setting.groupby(["task", "budget_unit"], observed=True):
            yield from _of_unit(results, rows, (int(setting), str(task), str(unit)))


def _of_unit(
    results: Results, cells: pd.DataFrame, place: tuple[int, str, str]
) -> Iterator[FigureKey]:
    """The figures of a task's budgets in one unit."""
    if cells.budget.nunique() > 1:
        yield FigureKey("budget", *place, **_at(cells))
    budget: Any
    for budget, of_budget in cells.groupby("budget"):
        at = _at(of_budget)
        if of_budget.fraction.nunique() > 1:
            yield FigureKey("fraction", *place, budget=float(budget))
        for kind, column in COSTS.items():
            if of_budget.loc[of_budget.fraction == at["fraction"], column].notna().sum() > 1:
                yield FigureKey(kind, *place, budget=float(budget), **at)
        for kind, file in FILES.items():
            key = FigureKey(kind, *place, budget=float(budget), **at)
            firsts = runs_of(results, key).groupby("method", observed=True).directory.first()
            if any(there and (Path(there) / file).is_file() for there in firsts):
                yield key


def with_trainable(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with one more column: all parameters that train, the head's too."""
    parts = cells[["params_delta", "params_pooler", "params_head"]]
    return cells.assign(trainable=parts.sum(axis=1, min_count=1))


def fullest(cells: pd.DataFrame) -> float:
    """The largest fraction at which most of the methods have scores; some may have failed there."""
    methods = cells.groupby("fraction").method.nunique()
    return float(methods[methods >= MOST * methods.max()].index.max())


def _at(cells: pd.DataFrame) -> dict[str, Any]:
    fraction = fullest(cells)
    first = cells[cells["fraction"] == fraction].iloc[0]
    return {"fraction": fraction, "amount": formatting.amount(first)}


def main(cells: pd.DataFrame) -> tuple[Any, ...]:
    """Of a task's scored cells the ranking that speaks for it, as the values of RANKING.

    That of most methods at the fullest fraction, and of the largest budget.
    """
    full = cells[cells["fraction"] == fullest(cells)]
    sizes = {key: len(rows) for key, rows in full.groupby(RANKING, observed=True)}
    return max(sizes, key=lambda key: (sizes[key], key[3]))


def chosen(frame: pd.DataFrame, key: FigureKey) -> pd.DataFrame:
    """The rows of a frame (cells or runs) that a figure is about."""
    rows = frame.setting == key.setting
    for name in ("task", "budget_unit", "budget", "fraction"):
        if (value := getattr(key, name)) is not None:
            rows &= frame[name] == value
    return frame[rows]


def runs_of(results: Results, key: FigureKey) -> pd.DataFrame:
    """The runs of a figure that ended well."""
    runs = chosen(results.runs, key)
    return runs[runs.status == "ok"]
