"""How good recommendations are: each task is left out, and decided by the runs of the others.

The regret is the mean score of the best method on the task left out, less that of the method that
the other tasks recommend. Only methods that were measured on the task left out are recommended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, nan
from statistics import fmean, stdev

import numpy as np
import pandas as pd

from finegrid.report import formatting
from finegrid.report.comparison import Comparison
from finegrid.report.recommend.decide import (
    METHODS,
    TOY,
    Asked,
    Decision,
    asked_of,
    real_first,
    settle,
    staged,
)
from finegrid.report.recommend.options import DIGITS, dropped, levels, pairs
from finegrid.runs.text import markdown_table

SIMPLE = "full"  # the method of the rule that needs no measurement
WITHOUT = "~"  # behind labels that the other tasks were not measured near
READING = (
    "Scores: means over seeds on the task left out, which is decided by the other tasks alone. "
    "Regret: their difference, in the task's own metric; means of regrets average unlike metrics "
    "as they are. Difference: told apart as in a report, or level, so that it could be chance."
)
HEAD = ("task", "model", "budget", "labels", "recommended", "score", "best", "score", "regret",
        "difference")  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What the other tasks recommend for one, and what that scores there."""

    task: str
    model: str
    budget: str
    labels: int
    best: str
    highest: float  # mean score of the best
    always: float  # regret of `full`; nan where it was not measured
    drawn: float  # of a method drawn at random
    lacking: str = ""  # why there is no answer
    named: str = ""
    score: float = nan
    apart: bool = False  # the best is told apart from it
    unlimited: bool = False  # the other tasks had no answer for so many labels

    @property
    def regret(self) -> float:
        """Of the method recommended; nan without one."""
        return round(self.highest - self.score, DIGITS)

    @property
    def real(self) -> bool:
        """Whether the task is no constructed one."""
        return not self.task.startswith(TOY)


def cross_check(comparison: Comparison, asked: Asked) -> list[Choice]:
    """A choice for each task, setting, kind of budget and number of labels measured.

    Limits hold for the methods on the task left out too; `asked.labels` bounds its labels.

    Raises:
        UserError: if nothing was run on the task, with the budget, or a limit is not positive.
    """
    wanted = set(asked_of(comparison.cells, asked)["task"].astype(str))
    cells = asked_of(comparison.cells, replace(asked, task=None)).astype({"task": str})
    by = ["setting", "budget_unit"]
    return [
        choice
        for _, rows in cells.groupby(by, observed=True)
        for task in sorted(wanted & set(rows["task"]))
        for choice in _left_out(comparison, rows, task, asked)
    ]


def _left_out(
    comparison: Comparison, cells: pd.DataFrame, task: str, asked: Asked
) -> Iterator[Choice]:
    limits = replace(asked, labels=None, task=None)
    mine, others = cells[cells["task"].eq(task)], cells[cells["task"].ne(task)]
    for _, column in mine.groupby("fraction"):
        there = staged(column, limits).largest.reset_index(drop=True)
        labels = ceil(there["label_rows"].max()) if len(there) else 0
        if len(there) < METHODS or (asked.labels is not None and labels > asked.labels):
            continue
        same = others[others["method"].isin(there["method"])]
        facts = _facts(comparison, there, labels)
        if not there["learned"].any():
            yield replace(facts, lacking="no method learned anything on the task left out")
        elif same.empty:
            yield replace(facts, lacking="no other task was measured so")
        else:
            yield _checked(comparison, there, facts, _decisions(comparison, same, limits, labels))


def _decisions(
    comparison: Comparison, cells: pd.DataFrame, limits: Asked, labels: int
) -> tuple[Decision, bool]:
    """The decision for so many labels, else that without a number; and whether it is the latter."""
    real = real_first(cells)
    decision = settle(comparison, real, replace(limits, labels=labels))
    if decision.lacking:
        without = settle(comparison, real, limits)
        return (without, True) if without.choice else (decision, False)
    return decision, False


def _facts(comparison: Comparison, there: pd.DataFrame, labels: int) -> Choice:
    """What is known of the task left out alone."""
    best, always = there.iloc[_best(comparison, there)], there[there["method"].eq(SIMPLE)]["mean"]
    return Choice(
        task=str(best["task"]),
        model=comparison.results.settings[int(best["setting"])].model,
        budget=formatting.budget(str(best["budget_unit"]), float(best["budget"])),
        labels=labels,
        best=str(best["method"]),
        highest=float(best["mean"]),
        always=float(best["mean"] - always.iloc[0]) if len(always) else nan,
        drawn=float(best["mean"] - there["mean"].mean()),
    )


def _best(comparison: Comparison, there: pd.DataFrame) -> int:
    """The highest mean, but of a method that a race stopped while others went on."""
    out = dropped(there, comparison.standings)
    return int(np.where(out & ~out.all(), -np.inf, there["mean"].to_numpy(float)).argmax())


def _checked(
    comparison: Comparison, there: pd.DataFrame, facts: Choice, by: tuple[Decision, bool]
) -> Choice:
    """What the method that the other tasks name scores on the task left out."""
    decision, unlimited = by
    if decision.lacking:
        return replace(facts, lacking=decision.lacking)
    named = str(decision.choice)
    at, best = int(there["method"].eq(named).argmax()), _best(comparison, there)
    measured = comparison.standings
    apart = pairs(there, measured).above(levels(there, measured))[best, at]
    score = float(there["mean"].iloc[at])
    found = replace(facts, named=named, score=score, apart=bool(apart), unlimited=unlimited)
    return replace(found, best=named if found.regret == 0 else facts.best)


def text(choices: Sequence[Choice]) -> str:
    """A table with a row a choice, why some have no answer, and the mean regrets, as Markdown."""
    if not choices:
        return f"Nothing to check: no task has {METHODS} methods with seeds enough."
    parts = [markdown_table(HEAD, [_row(one) for one in choices]), READING, _marked(choices)]
    parts += ["\n".join(_unanswered(choices))]
    for real, what in ((True, "real"), (False, "constructed")):
        parts += [_mean([one for one in choices if one.real == real], what)]
    return "\n\n".join(filter(None, parts)).replace(formatting.SPACE, " ")


def _row(one: Choice) -> list[str]:
    labels = f"{one.labels} {WITHOUT}" if one.unlimited else str(one.labels)
    difference = (
        "" if one.lacking or one.named == one.best else "told apart" if one.apart else "level"
    )
    regret = "" if one.lacking else formatting.score(one.regret)
    score = "" if one.lacking else formatting.score(one.score)
    named = "no answer" if one.lacking else one.named
    return [one.task, one.model, one.budget, labels, named, score, one.best,
            formatting.score(one.highest), regret, difference]  # fmt: skip


def _marked(choices: Sequence[Choice]) -> str:
    mark = (
        f"{WITHOUT}: the other tasks have no answer for so many labels; what they recommend "
        "without a number of labels."
    )
    return mark if any(one.unlimited for one in choices) else ""


def _unanswered(choices: Sequence[Choice]) -> Iterator[str]:
    """A line a reason, with the choices that it concerns."""
    places: dict[str, list[str]] = {}
    for one in choices:
        if one.lacking:
            place = f"{one.task} ({one.model}, {one.budget}, {one.labels} labels)"
            places.setdefault(one.lacking, []).append(place)
    yield from (f"- No answer for {', '.join(some)}: {why}." for why, some in places.items())


def _mean(choices: Sequence[Choice], what: str) -> str:
    """The regrets over some choices, beside those of simple rules."""
    answers = [one for one in choices if not one.lacking]
    lost = f"No answer: {len(choices) - len(answers)} of {len(choices)}."
    if not answers:
        return f"On {what} tasks: {lost}" if choices else ""
    tasks = formatting.number(len({one.task for one in answers}), f"{what} task")
    many = formatting.number(len(answers), "answer")
    told = sum(one.apart for one in answers)
    with_full = [one for one in answers if one.always == one.always]
    rules = [f"a method drawn at random {formatting.score(fmean(one.drawn for one in answers))}"]
    if with_full:
        always = formatting.score(fmean(one.always for one in with_full))
        mine = formatting.score(fmean(one.regret for one in with_full))
        beside = f" (of {len(with_full)}, recommended {mine})" * (len(with_full) < len(answers))
        rules.insert(0, f"always {SIMPLE} {always}{beside}")
    return (
        f"Mean regret of {many} on {tasks}: {_spread([one.regret for one in answers])}; "
        f"{formatting.listed(rules)}. Told apart from the best: {told}. {lost}"
    )


def _spread(values: Sequence[float]) -> str:
    """Mean, standard deviation and largest of some regrets."""
    deviation = f"standard deviation {formatting.score(stdev(values))}, " * (len(values) > 1)
    return f"{formatting.score(fmean(values))} ({deviation}largest {formatting.score(max(values))})"
