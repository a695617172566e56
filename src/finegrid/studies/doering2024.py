"""The claims of Doering, Gorlla, Tuttle & Vijay 2024 (arXiv 2401.04051) as tests.

Their text beyond the abstract, and so every number and their adapters' kind, is not known to us.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd

from finegrid.runs import text
from finegrid.studies.contrasts import (
    Cell,
    Cells,
    Contrast,
    Where,
    constant,
    contrast,
    detail,
    differences,
    finding,
    grain,
)
from finegrid.studies.study import Given, Study
from finegrid.studies.verdict import Claim, Finding, Verdict, judge_all, of_paper, of_values

TITLE = "An empirical analysis of efficient fine-tuning methods (arXiv 2401.04051)"
SOME = 0.3  # the share of the data that the abstract names
ADAPTERS, OTHERS = ("houlsby", "pfeiffer"), ("bitfit", "full")
BLOCKS, SEEDS = 3, 3  # the fewest places whose spreads are compared, and seeds that have one

FRACTIONS = Claim(
    "equal at every fraction",
    "BitFit does as well as full fine-tuning whatever the amount of training data.",
    "bitfit - full, mean over tasks, within the margin either way at every fraction measured",
    measure="bitfit - full",
    untested="needs bitfit and full, two seeds or more, at two fractions or more of one budget",
)
BUDGETS = Claim(
    "equal at every time budget",
    "BitFit does as well as full fine-tuning whatever the time for training.",
    "bitfit - full, mean over tasks, within the margin either way at every budget in seconds",
    measure="bitfit - full",
    untested="needs bitfit and full, two seeds or more, at two budgets or more in seconds "
    "(budget=seconds): other units are no constraint on time",
)
STABLE = Claim(
    "stable at 30 %",
    "BitFit holds its level with 30 % of the training data.",
    "bitfit at 30 % - bitfit at all rows, mean over tasks, above minus the margin",
    measure="bitfit at 30 % - at all rows",
    untested="needs bitfit at fractions 0.3 and 1 of one budget, two seeds or more",
)
STEADIER = Claim(
    "steadier than full at 30 %",
    "BitFit loses less than full fine-tuning does when 30 % of the training data are left.",
    "bitfit's change from all rows to 30 % - full's, mean over tasks, above 0",
    measure="bitfit's change - full's",
    untested="needs bitfit and full at fractions 0.3 and 1 of one budget, two seeds or more",
)
BETWEEN = Claim(
    "above full in between",
    "BitFit is better than full fine-tuning at intermediate amounts of training data.",
    "bitfit - full, mean over tasks and over the fractions between the smallest and the largest "
    "measured, above 0",
    measure="bitfit - full",
    untested="needs bitfit and full, two seeds or more, at three fractions or more of a budget",
)
VARY = Claim(
    "adapters vary more",
    "Adapters vary much between runs, more than the other two.",
    "standard deviation over seeds, adapters' over the others' (geometric means), above 1: t test "
    "on the log ratios of all tasks, fractions and budgets",
    untested="needs houlsby or pfeiffer, and bitfit or full, with three seeds in common or "
    f"more, in {BLOCKS} places or more (task, fraction, budget)",
    ratio=True,
)
GAINS = Claim(
    "adapters gain inconsistently",
    "Adapters' gain over the default is not consistent; which default is meant is not known to "
    "us, and full fine-tuning is taken for it.",
    "adapter - full below 0 somewhere: on one task at one fraction and budget at least",
    measure="adapter - full",
    untested="needs houlsby or pfeiffer, and full, two seeds or more",
    everywhere=False,
)
STREAMS = Claim(
    "streams",
    "BitFit is recommended where resources are scarce or data arrive as a stream.",
    "none: a recommendation",
    untested="nothing here trains on a stream; for scarce resources see finegrid recommend",
)


def verdicts(given: Given) -> dict[int, list[Verdict]]:
    """The claims on every setting."""
    return judge_all({n: findings(given.cells(n), margin=given.margin) for n in given.settings})


def findings(cells: Cells, *, margin: float) -> list[Finding]:
    """What the cells of one setting say on each claim; `margin` in units of the score."""
    against = differences(cells, "bitfit", "full")
    timed = [one for one in against if one.where.unit == "seconds"]
    fractions = _among(against, lambda w: (w.unit, w.budget), lambda w: w.fraction)
    budgets = _among(timed, lambda w: w.fraction, lambda w: w.budget)
    budget = _budgets(cells)
    at_all_rows = sorted({w for method, w in cells if method == "bitfit" and w.fraction == 1.0})
    less, more = ("bitfit", SOME), ("bitfit", 1.0)
    lost = [contrast(cells, where, [less], [more]) for where in at_all_rows]
    steadier = [
        contrast(cells, where, [less, ("full", 1.0)], [more, ("full", SOME)])
        for where in at_all_rows
    ]
    return [
        finding(FRACTIONS, fractions, (-margin, margin), shown=against,
                label=lambda w: f"{text.percent(w.fraction)} of the rows, {budget(w)}"),
        finding(BUDGETS, budgets, (-margin, margin), shown=timed,
                label=lambda w: f"{w.budget:g} s, {text.percent(w.fraction)} of the rows"),
        finding(STABLE, lost, (-margin, inf), label=budget),
        finding(STEADIER, steadier, (0.0, inf), label=budget),
        finding(BETWEEN, _between(against), (0.0, inf), label=lambda _: "fractions in between"),
        _vary(cells),
        _gains(cells),
        Finding(STREAMS),
    ]  # fmt: skip


def _budgets(cells: Cells) -> Callable[[Where], str]:
    """How a budget is called: tasks with one each of a unit are pooled, however large it is."""
    budgets: dict[tuple[str, str], set[float]] = defaultdict(set)
    for _, where in cells:
        budgets[where.task, where.unit].add(where.budget)
    several = {unit for (_, unit), amounts in budgets.items() if len(amounts) > 1}
    return lambda where: (
        where.budget_text() if where.unit in several else f"{where.unit} of each task"
    )


def _among(
    contrasts: Sequence[Contrast],
    same: Callable[[Where], object],
    axis: Callable[[Where], float],
) -> list[Contrast]:
    """The contrasts that were made at two values or more of an axis, the rest being the same."""
    values: dict[object, set[float]] = defaultdict(set)
    for one in contrasts:
        if one.estimate:
            values[same(one.where)].add(axis(one.where))
    return [one for one in contrasts if len(values[same(one.where)]) >= 2]


def _between(against: Sequence[Contrast]) -> list[Contrast]:
    """Those at neither the smallest nor the largest fraction of their budget."""
    ends: dict[tuple[str, float], list[float]] = defaultdict(list)
    for one in against:
        if one.estimate:
            ends[one.where.unit, one.where.budget].append(one.where.fraction)
    return [
        one
        for one in against
        if (measured := ends.get((one.where.unit, one.where.budget)))
        and min(measured) < one.where.fraction < max(measured)
    ]


def _vary(cells: Cells) -> Finding:
    """Blocks are the sample: the ratio in each, whatever its task's noise, counts alike."""
    run = {method for method, _ in cells}
    adapters = [name for name in ADAPTERS if name in run]
    others = [name for name in OTHERS if name in run]
    rows = [_spreads(cells, where, [*adapters, *others]) for where in sorted({w for _, w in cells})]
    table = pd.DataFrame([row for row in rows if row])
    measure = f"spread of {' and '.join(adapters)} / spread of {' and '.join(others)}"
    claim = replace(VARY, measure=measure)
    if not (adapters and others) or len(table) < BLOCKS:
        return Finding(claim, detail=table)
    logs = np.log(table[[*adapters, *others]])
    table["ratio"] = np.exp(logs[adapters].mean(axis=1) - logs[others].mean(axis=1))
    places = of_values(np.log(table["ratio"].to_numpy()))
    return Finding(claim, {"all places": places}, (0.0, inf), table)


def _spreads(cells: Cells, where: Where, methods: list[str]) -> dict[str, object]:
    """Each method's standard deviation over the seeds that all have; nothing if that says nothing.

    A method whose every run predicts a constant does not vary for a reason that is no merit.
    """
    here = [cells[method, where] for method in methods if (method, where) in cells]
    if len(here) < len(methods) or not methods:
        return {}
    seeds = sorted(set.intersection(*(set(cell.scores.seeds) for cell in here)))
    if len(seeds) < SEEDS or any(constant(cell.runs.loc[seeds]) for cell in here):
        return {}
    place: dict[str, object] = {"task": where.task, "fraction": text.percent(where.fraction)}
    place |= {"budget": where.budget_text(), "n": float(len(seeds))}
    return place | {name: _sd(cell, seeds) for name, cell in zip(methods, here, strict=True)}


def _sd(cell: Cell, seeds: list[int]) -> float:
    return max(float(cell.runs["test"].loc[seeds].std()), grain(cell))


def _gains(cells: Cells) -> Finding:
    every = [(name, one) for name in ADAPTERS for one in differences(cells, name, "full")]
    parts = {f"{name} on {one.where}": one.estimate for name, one in every if one.estimate}
    return Finding(GAINS, parts, (-inf, 0.0), detail([one for _, one in every]))


STUDY = Study(TITLE, of_paper, verdicts)
