"""Which method for so many labels, minutes and megabytes: a choice, or why there is none.

Nothing is extrapolated: only what was measured within the three limits counts. A method measured
several times within them stands with its most labels, then its most seconds; never with its best
score, which would favour whoever was measured more often. Cells of one kind of budget are compared:
a run of six seconds does not stand against one of six thousand examples.
"""

from dataclasses import dataclass, field, replace

import pandas as pd

from finegrid.errors import UserError, nearest
from finegrid.report import formatting
from finegrid.report.load.rankings import CELL, Results, Setting
from finegrid.report.recommend.options import Draws, Standings, options

SEEDS = 3  # finished runs that a method needs on a task
METHODS = 2  # fewer are no choice
FAR = 2.0  # times the most labels measured: beyond is another question


@dataclass(frozen=True)
class Asked:
    """The limits, and the task if one is meant."""

    labels: int
    minutes: float
    megabytes: float
    task: str | None = None
    budget: str | None = None  # its unit


@dataclass(frozen=True)
class Decision:
    """What to use, by which evidence."""

    asked: Asked
    setting: Setting
    lacking: str | None  # why there is no choice
    notes: tuple[str, ...]
    unit: str  # of the budgets compared
    cells: pd.DataFrame  # what was compared: a row a method and task
    options: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row a method, the leader first
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)  # behind `cells`

    @property
    def choice(self) -> str | None:
        """The method that leads those compared; the best of them if `clear`."""
        return None if self.lacking else str(self.options["method"].iloc[0])

    @property
    def clear(self) -> bool:
        """Whether the choice is told apart from every other method compared."""
        return self.choice is not None and not self.options["level"].any()

    @property
    def tasks(self) -> list[str]:
        """The tasks compared on."""
        return sorted(self.cells["task"].unique())


def decide(
    results: Results,
    cells: pd.DataFrame,
    draws: Draws,
    standings: Standings,
    *,
    labels: int,
    minutes: float,
    megabytes: float,
    task: str | None = None,
    budget: str | None = None,
) -> Decision:
    """Decide in every setting and kind of budget, and return the decision that stands on most.

    Raises:
        UserError: if nothing was run on the task, with the budget, or a limit is not positive.
    """
    asked = Asked(labels, minutes, megabytes, task, budget)
    if min(labels, minutes, megabytes) <= 0:
        raise UserError("labels, minutes and megabytes must be above 0")
    if task is not None and task not in set(cells["task"]):
        raise UserError(f"no runs of task {task}; {nearest(task, map(str, set(cells['task'])))}")
    of_task = cells if task is None else cells[cells["task"] == task]
    units = sorted(map(str, set(of_task["budget_unit"])))
    if budget is not None and budget not in units:
        raise UserError(f"no budgets in {budget}; {nearest(budget, units)}")
    of_unit = of_task if budget is None else of_task[of_task["budget_unit"] == budget]
    decisions = [
        _decide(results, own, (draws, standings), asked)
        for _, own in of_unit.groupby(["setting", "budget_unit"], observed=True)
    ]
    if not decisions:
        raise UserError("no finished grid to decide from; run a sweep, or name its directory")
    found = max(decisions, key=_weight)
    same = [one.unit for one in decisions if one is not found and one.setting == found.setting]
    if same:
        aside = (
            f"Budgets in {found.unit} are compared; those in {', '.join(same)} are not set against "
            "them (--budget chooses)."
        )
        found = replace(found, notes=(*found.notes, aside))
    apart = dict.fromkeys(
        formatting.setting(o.setting) for o in decisions if o.setting != found.setting
    )
    if others := list(apart):
        aside = f"Numbers that cannot be compared with these: {'; '.join(others)}."
        found = replace(found, notes=(*found.notes, aside))
    return found


def _weight(decision: Decision) -> tuple[bool, bool, int, int]:
    return (
        decision.lacking is None,
        bool(decision.setting.pretrained),
        len(decision.tasks),
        len(decision.cells),
    )


def _decide(
    results: Results, cells: pd.DataFrame, measured: tuple[Draws, Standings], asked: Asked
) -> Decision:
    """The decision in one setting and kind of budget."""
    setting = results.settings[int(cells["setting"].iloc[0])]
    unit = str(cells["budget_unit"].iloc[0])
    cells = cells.assign(seconds=seconds(cells))
    enough = cells[cells["ok"] >= SEEDS]
    near = enough[_near(enough, asked.labels)]
    feasible = near[
        (near["train_rows"] <= asked.labels)
        & (near["seconds"] <= 60 * asked.minutes)
        & (near["delta_bytes"] <= 1e6 * asked.megabytes)
    ]
    largest = _largest(feasible)
    compared = _table(largest[largest["learned"]])
    lacking = (
        _few_seeds(cells, enough)
        or _few_labels(enough, near, asked.labels)
        or _too_dear(near, feasible, asked.labels)
        or _nothing_learned(largest)
        or _few_methods(feasible, compared)
    )
    notes = _notes((cells, enough, near, feasible, compared), asked)
    if lacking:
        return Decision(asked, setting, lacking, notes, unit, compared)
    runs = results.runs.merge(compared[CELL])
    return Decision(asked, setting, None, notes, unit, compared, options(compared, *measured), runs)


def seconds(cells: pd.DataFrame) -> pd.Series:
    """Of training; a budget in seconds is what it says, though the last step ends after it."""
    return cells["train_seconds"].where(cells["budget_unit"] != "seconds", cells["budget"])


def _near(enough: pd.DataFrame, labels: int) -> pd.Series:
    """Whether the labels asked for are among, or not far above, those measured on the task."""
    rows = enough.groupby("task", observed=True)["train_rows"]
    return (rows.transform("min") <= labels) & (labels <= FAR * rows.transform("max"))


def _largest(feasible: pd.DataFrame) -> pd.DataFrame:
    """A row a method and task."""
    ranked = feasible.sort_values(["train_rows", "seconds", "budget_unit", "budget"])
    return ranked.groupby(["task", "method"], observed=True).tail(1)


def _table(chosen: pd.DataFrame) -> pd.DataFrame:
    """The largest full table, methods x tasks: no mean is over other tasks than the next one's.

    Scores are to be divided by the task's best one, which must be above 0.
    """
    chosen = chosen[chosen.groupby("task", observed=True)["mean"].transform("max") > 0]
    methods = {str(task): set(rows["method"]) for task, rows in _by_task(chosen)}
    tasks = sorted(methods, key=lambda task: (-len(methods[task]), task))
    best: tuple[int, list[str], set[str]] = (0, [], set())
    for count in range(1, len(tasks) + 1):
        common = set.intersection(*(methods[task] for task in tasks[:count]))
        if len(common) >= METHODS and len(common) * count > best[0]:
            best = (len(common) * count, tasks[:count], common)
    kept = chosen["task"].isin(best[1]) & chosen["method"].isin(best[2])
    return chosen[kept].sort_values(["task", "method"]).reset_index(drop=True)


def _by_task(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(task), rows) for task, rows in cells.groupby("task", observed=True)]


def _few_seeds(cells: pd.DataFrame, enough: pd.DataFrame) -> str | None:
    if len(enough):
        return None
    return f"no method has {SEEDS} finished seeds on a task (the most: {cells['ok'].max():g})"


def _few_labels(enough: pd.DataFrame, near: pd.DataFrame, labels: int) -> str | None:
    if len(near):
        return None
    spans = ", ".join(
        f"{rows['train_rows'].min():g} to {rows['train_rows'].max():g} on {task}"
        for task, rows in _by_task(enough)
    )
    return (
        f"{labels} labels are fewer than any measured, or more than {FAR:g} times the most "
        f"({spans}), and nothing here extrapolates"
    )


def _too_dear(near: pd.DataFrame, feasible: pd.DataFrame, labels: int) -> str | None:
    if len(feasible):
        return None
    few = near[near["train_rows"] <= labels]
    return (
        f"nothing measured fits: at up to {labels} labels the quickest takes "
        f"{few['seconds'].min() / 60:.2g} min, the smallest {few['delta_bytes'].min() / 1e6:.2g} MB"
    )


def _nothing_learned(largest: pd.DataFrame) -> str | None:
    if largest["learned"].any():
        return None
    return (
        "no method that fits learned anything: none is better than the best constant prediction "
        "(such as the majority class), tested on rows at 5 %"
    )


def _few_methods(feasible: pd.DataFrame, compared: pd.DataFrame) -> str | None:
    if len(compared):
        return None
    names = ", ".join(sorted(map(str, feasible["method"].unique())))
    return (
        f"fewer than {METHODS} methods fit on one task, with a score above 0 "
        f"(what fits anywhere: {names})"
    )


def _notes(stages: tuple[pd.DataFrame, ...], asked: Asked) -> tuple[str, ...]:
    """What a reader of the choice should know of what was left aside."""
    cells, enough, near, feasible, compared = stages
    dull = feasible[~feasible["learned"]]
    learned = feasible[feasible["learned"]]
    found = {
        "No better than the best constant prediction, so out of the question where measured": (
            ", ".join(
                sorted({f"{m} on {t}" for m, t in zip(dull["method"], dull["task"], strict=True)})
            )
        ),
        f"Fewer than {SEEDS} finished seeds wherever run": _lost(cells, enough, "method"),
        "Tasks measured with more labels alone, or far fewer": _lost(enough, near, "task"),
        "Over a limit wherever measured": _lost(near, feasible, "method"),
        "Tasks with too few methods in common, or no score above 0": _lost(
            feasible, compared, "task"
        ),
        "Within the limits, but not on every task compared": _lost(learned, compared, "method"),
    }
    notes = [f"{what}: {names}." for what, names in found.items() if names]
    if len(compared) and 60 * asked.minutes > FAR * compared["seconds"].max():
        longest = compared["seconds"].max()
        notes.append(f"No run took longer than {longest:.3g} s; what more time buys is not known.")
    return tuple(notes)


def _lost(before: pd.DataFrame, after: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted(map(str, set(before[column]) - set(after[column]))))
