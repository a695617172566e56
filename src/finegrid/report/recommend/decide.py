"""Which method for so many labels, minutes and megabytes: a choice, or why there is none.

Nothing is extrapolated: only what was measured within the limits counts. Of a task those methods
are compared that were measured side by side, with as many labels and the same budget: the most
labels within the limit. One that takes too long there stands with fewer labels, then less time;
never with its best score, which would favour whoever was measured more often. Cells of one kind of
budget are compared: a run of six seconds does not stand against one of six thousand examples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd

from finegrid.errors import nearest, require
from finegrid.report import formatting
from finegrid.report.comparison import Comparison
from finegrid.report.load.rankings import CELL, Setting
from finegrid.report.recommend.options import options
from finegrid.storage.paths import SHIPPED

SEEDS = 3  # finished runs that a method needs on a task
METHODS = 2  # fewer are no choice
TOY = "builtin_"  # what the names of made-up tasks begin with
FAR = 2.0  # times the most labels measured: beyond is another question
UNLEARNED = (
    "no method that fits learned anything: none is better than the best constant prediction "
    "(such as the majority class), tested on rows at 5 %"
)


@dataclass(frozen=True)
class Asked:
    """The limits, and the task if one is meant."""

    labels: int | None = None  # none: all that was measured
    minutes: float | None = None
    megabytes: float | None = None
    task: str | None = None
    budget: str | None = None  # its unit

    @property
    def limits(self) -> str:
        """The limits in words; empty where there is none."""
        named = ((self.labels, "labels"), (self.minutes, "min"), (self.megabytes, "MB"))
        parts = [f"{value:g} {unit}" for value, unit in named if value is not None]
        return f" within {formatting.listed(parts)} a task" if parts else ""


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


def decide(comparison: Comparison, asked: Asked) -> Decision:
    """Decide in every setting and kind of budget, and return the decision that stands on most.

    Toy tasks count only if one is asked for or nothing else was measured.

    Raises:
        UserError: if nothing was run on the task, with the budget, or a limit is not positive.
    """
    cells = asked_of(comparison.cells, asked)
    cells = cells if asked.task else real_first(cells)
    decisions = [
        settle(comparison, rows, asked)
        for _, rows in cells.groupby(["setting", "budget_unit"], observed=True)
    ]
    require(bool(decisions), "no finished grid to decide from; run a sweep, or name its directory")
    best = max(decisions, key=_weight)
    return replace(best, notes=(*best.notes, *_beside(best, decisions)))


def bearing(runs: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """Without the toy tasks' runs where `decide` sets them aside: comparing them takes longest."""
    toy = _is_toy(runs)
    real = runs["task"].notna() & ~toy
    wanted = real if asked.task is None else real & runs["task"].eq(asked.task)
    return runs[~toy] if runs.loc[wanted, "status"].eq("ok").any() else runs


def asked_of(cells: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """The cells of the task and kind of budget that are asked for.

    Raises:
        UserError: if there are none, or a limit is not positive.
    """
    limits = (asked.labels, asked.minutes, asked.megabytes)
    above = all(limit is None or limit > 0 for limit in limits)
    require(above, "labels, minutes and megabytes must be above 0")
    for column, name, what in (
        ("task", asked.task, "no runs of task"),
        ("budget_unit", asked.budget, "no budgets in"),
    ):
        if name is not None:
            names = sorted(set(map(str, cells[column])))
            require(name in names, f"{what} {name}; {nearest(name, names)}")
            cells = cells[cells[column] == name]
    return cells


def real_first(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of real tasks; those of constructed ones if nothing else was measured."""
    real = ~_is_toy(cells)
    return cells[real] if real.any() else cells


def _is_toy(rows: pd.DataFrame) -> pd.Series:
    return rows["task"].astype(str).str.startswith(TOY, na=False)


def _beside(best: Decision, decisions: list[Decision]) -> Iterator[str]:
    """What the decision leaves aside: other kinds of budget, other settings."""
    same = [one.unit for one in decisions if one is not best and one.setting == best.setting]
    if same:
        yield (
            f"Budgets in {best.unit} are compared; those in {', '.join(same)} are not set against "
            "them (--budget chooses)."
        )
    others = [formatting.setting(one.setting) for one in decisions if one.setting != best.setting]
    if others:
        yield f"Numbers that cannot be compared with these: {'; '.join(dict.fromkeys(others))}."


def _weight(decision: Decision) -> tuple[bool, bool, bool, int, int, float, int]:
    """By what evidence is more: a real model's before that of one that comes with finegrid."""
    return (
        decision.lacking is None,
        bool(decision.setting.pretrained),
        decision.setting.model not in SHIPPED.values(),
        len(decision.tasks),
        len(decision.cells),
        float(decision.cells["label_rows"].sum()),
        len(decision.runs),
    )


def settle(comparison: Comparison, cells: pd.DataFrame, asked: Asked) -> Decision:
    """The decision in one setting and kind of budget."""
    stages = staged(cells, asked)
    compared, lacking = stages.compared, _lacking(stages, asked)
    results, measured = comparison.results, (comparison.draws, comparison.standings)
    return Decision(
        asked=asked,
        setting=results.settings[int(cells["setting"].iloc[0])],
        lacking=lacking,
        notes=tuple(_notes(stages, asked)),
        unit=str(cells["budget_unit"].iloc[0]),
        cells=compared,
        options=pd.DataFrame() if lacking else options(compared, *measured),
        runs=pd.DataFrame() if lacking else results.runs.merge(compared[CELL]),
    )


class Stages(NamedTuple):
    """Cells after one condition more each."""

    cells: pd.DataFrame
    enough: pd.DataFrame  # seeds
    near: pd.DataFrame  # to the labels asked for
    within: pd.DataFrame  # these labels
    beside: pd.DataFrame  # one another: methods of a task that share a place
    fitting: pd.DataFrame  # within the other two limits
    largest: pd.DataFrame  # a row a method and task: most labels, then seconds
    learned: pd.DataFrame  # tasks and methods of which some cell learned something
    compared: pd.DataFrame  # every method on every task


def staged(cells: pd.DataFrame, asked: Asked) -> Stages:
    """The cells within the limits, one condition after another."""
    enough = measured(cells)
    rows = enough.groupby("task", observed=True)["label_rows"]
    least, most = rows.transform("min"), rows.transform("max")
    near = within = enough
    if asked.labels is not None:
        near = enough[(least <= asked.labels) & (asked.labels <= FAR * most)]
        within = near[near["label_rows"] <= asked.labels]
    fitting = beside = side_by_side(within)
    for column, limit, unit in (
        ("seconds", asked.minutes, 60.0),
        ("delta_bytes", asked.megabytes, 1e6),
    ):
        if limit is not None:
            fitting = fitting[fitting[column] <= unit * limit]
    largest = fitting.groupby(["task", "method"], observed=True).tail(1)
    learned = largest[_learned(largest, "task") & _learned(largest, "method")]
    return Stages(cells, enough, near, within, beside, fitting, largest, learned, _table(learned))


def _learned(cells: pd.DataFrame, column: str) -> pd.Series:
    """Whether any cell of the same task, or method, learned: one that fails elsewhere counts so."""
    return cells.groupby(column, observed=True)["learned"].transform("any").astype(bool)


def side_by_side(cells: pd.DataFrame) -> pd.DataFrame:
    """Of each task the methods of one place, there and where they had less.

    A place is a number of labels and a budget. Of those with two methods or more it is the one with
    most labels, then with most methods, then with the largest budget.
    """
    kept = [cells[:0]]
    for _, rows in cells.groupby("task", observed=True):
        places = [
            ((len(there) >= METHODS, labels, len(there), budget), set(there["method"]))
            for (labels, budget), there in rows.groupby(["label_rows", "budget"])
        ]
        (_, labels, _, budget), methods = max(places, key=lambda place: place[0])
        no_more = (rows["label_rows"] <= labels) & (rows["budget"] <= budget)
        kept.append(rows[rows["method"].isin(methods) & no_more])
    return pd.concat(kept)


def measured(cells: pd.DataFrame, *, seeds: int = SEEDS) -> pd.DataFrame:
    """The cells with enough seeds, those with few labels and seconds first.

    `seconds` are those of training; a budget in seconds is what it says, though the last step ends
    after it.
    """
    by_clock = cells["budget_unit"] == "seconds"
    timed = cells.assign(seconds=cells["train_seconds"].where(~by_clock, cells["budget"]))
    sure: pd.Series = enough(timed, seeds)
    return timed[sure].sort_values(["label_rows", "seconds", "budget"])


def enough(cells: Any, seeds: int = SEEDS) -> Any:
    """Whether each cell, or one, has seeds enough to be judged by: of a race what it needed."""
    return (cells["ok"] >= seeds) | ((cells["stopped"] > 0) & (cells["ok"] > 1))


def _table(chosen: pd.DataFrame) -> pd.DataFrame:
    """The largest full table, methods x tasks: no mean is over other tasks than the next one's.

    Scores are to be divided by the task's best one, which must be above 0.
    """
    chosen = chosen[chosen.groupby("task", observed=True)["mean"].transform("max") > 0]
    methods = {str(task): set(rows["method"]) for task, rows in _by_task(chosen)}
    grown = [table for task in sorted(methods) for table in _grown(task, methods)]
    sized = [(len(tasks) * len(common), len(tasks)) for tasks, common in grown]
    tasks, common = grown[sized.index(max(sized))] if grown else ([], set())
    full = chosen["task"].isin(tasks) & chosen["method"].isin(common)
    return chosen[full].sort_values(["task", "method"]).reset_index(drop=True)


def _grown(first: str, methods: Mapping[str, set[str]]) -> Iterator[tuple[list[str], set[str]]]:
    """Tasks with the methods they have in common: one, and each time that which keeps most."""
    tasks, common = [first], methods[first]
    while len(common) >= METHODS:
        yield list(tasks), common
        rest = sorted(methods.keys() - tasks)
        if not rest:
            break
        tasks.append(max(rest, key=lambda task: len(common & methods[task])))
        common = common & methods[tasks[-1]]


def _by_task(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(task), rows) for task, rows in cells.groupby("task", observed=True)]


def _lacking(stages: Stages, asked: Asked) -> str | None:
    """Why there is no choice, if there is none."""
    if stages.enough.empty:
        most = stages.cells["ok"].max()
        return f"no method has {SEEDS} finished seeds on a task (the most: {most:g})"
    if stages.near.empty:
        spans = ", ".join(
            f"{rows['label_rows'].min():g} to {rows['label_rows'].max():g} on {task}"
            for task, rows in _by_task(stages.enough)
        )
        return (
            f"{asked.labels} labels are fewer than any measured, or more than {FAR:g} times the "
            f"most ({spans}), and nothing here extrapolates"
        )
    if stages.fitting.empty:
        least = stages.beside[["seconds", "delta_bytes"]].min()
        minutes, megabytes = least["seconds"] / 60, least["delta_bytes"] / 1e6
        return (
            f"nothing measured fits: with these labels the quickest takes "
            f"{minutes:.2g} min, the smallest {megabytes:.2g} MB"
        )
    if stages.learned.empty:
        return UNLEARNED
    if stages.compared.empty:
        good = sorted(set(map(str, stages.learned["method"])))
        rest = sorted(set(map(str, stages.fitting["method"])) - set(good))
        dull = f"; no better than a constant: {', '.join(rest)}" if rest else ""
        return (
            f"fewer than {METHODS} methods fit on one task and learned something "
            f"({', '.join(good)}{dull})"
        )
    return None


def _notes(stages: Stages, asked: Asked) -> Iterator[str]:
    """What a reader of the choice should know of what was left aside."""
    unlearned = stages.fitting[~stages.fitting["learned"]]
    places = zip(unlearned["method"], unlearned["task"], strict=True)
    learned = stages.fitting[stages.fitting["learned"]]
    aside = {
        "No better than the best constant prediction, so no choice for such a task": (
            ", ".join(sorted({f"{method} on {task}" for method, task in places}))
        ),
        f"Fewer than {SEEDS} finished seeds wherever run": (
            _lost(stages.cells, stages.enough, "method")
        ),
        "Tasks measured with more labels alone, or far fewer": (
            _lost(stages.enough, stages.near, "task")
        ),
        "With more labels wherever measured": _lost(stages.near, stages.within, "method"),
        "With fewer labels or another budget, so not side by side with these": (
            _lost(stages.within, stages.beside, "method")
        ),
        "Over a limit wherever measured": _lost(stages.beside, stages.fitting, "method"),
        "Tasks with too few methods in common, or no score above 0": (
            _lost(stages.fitting, stages.compared, "task")
        ),
        "Within the limits, but not on every task compared": (
            _lost(learned, stages.compared, "method")
        ),
    }
    yield from (f"{what}: {names}." for what, names in aside.items() if names)
    longest = stages.compared["seconds"].max()
    if asked.minutes is not None and 60 * asked.minutes > FAR * longest:
        yield f"No run took longer than {longest:.3g} s; what more time buys is not known."


def _lost(before: pd.DataFrame, after: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted(map(str, set(before[column]) - set(after[column]))))
