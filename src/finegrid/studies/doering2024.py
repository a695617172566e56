"""The claims of Doering, Gorlla, Tuttle & Vijay 2024 (arXiv 2401.04051) as tests.

Their text beyond the abstract, and so every number and their adapters' kind, is not known to us.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import inf

import numpy as np
import pandas as pd

from finegrid.studies.contrasts import (
    Cell,
    Cells,
    Contrast,
    Where,
    constant,
    contrast,
    detail,
    differences,
    grain,
    parts,
)
from finegrid.studies.verdict import Claim, Estimate, Finding, of_values

TITLE = "An empirical analysis of efficient fine-tuning methods (arXiv 2401.04051)"
SOME = 0.3  # the share of the data that the abstract names
ADAPTERS, OTHERS = ("houlsby", "pfeiffer"), ("bitfit", "full")
BLOCKS, SEEDS = 3, 3  # the fewest places whose spreads are compared, and seeds that have one

FRACTIONS = Claim(
    "equal at every fraction",
    "BitFit does as well as full fine-tuning whatever the amount of training data.",
    "bitfit - full, mean over tasks, within the margin either way at every fraction measured",
)
BUDGETS = Claim(
    "equal at every time budget",
    "BitFit does as well as full fine-tuning whatever the time for training.",
    "bitfit - full, mean over tasks, within the margin either way at every budget in seconds",
)
STABLE = Claim(
    "stable at 30 %",
    "BitFit holds its level with 30 % of the training data.",
    "bitfit at 30 % - bitfit at all rows, mean over tasks, above minus the margin",
)
STEADIER = Claim(
    "steadier than full at 30 %",
    "BitFit loses less than full fine-tuning does when 30 % of the training data are left.",
    "bitfit's change from all rows to 30 % - full's, mean over tasks, above 0",
)
BETWEEN = Claim(
    "above full in between",
    "BitFit is better than full fine-tuning at intermediate amounts of training data.",
    "bitfit - full, mean over tasks and over the fractions between the smallest and the largest "
    "measured, above 0",
)
VARY = Claim(
    "adapters vary more",
    "Adapters vary much between runs, more than the other two.",
    "standard deviation over seeds, adapters' over the others' (geometric means), above 1: t test "
    "on the log ratios of all tasks, fractions and budgets",
)
GAINS = Claim(
    "adapters gain inconsistently",
    "Adapters' gain over the default is not consistent; which default is meant is not known to "
    "us, and full fine-tuning is taken for it.",
    "adapter - full below 0 somewhere: on one task at one fraction and budget at least",
)
STREAMS = Claim(
    "streams",
    "BitFit is recommended where resources are scarce or data arrive as a stream.",
    "none: a recommendation",
)


def findings(cells: Cells, *, margin: float) -> list[Finding]:
    """What the cells of one setting say on each claim; `margin` in units of the score."""
    against = differences(cells, "bitfit", "full")
    return [
        _fractions(against, margin),
        _budgets(against, margin),
        _stable(cells, margin),
        _steadier(cells),
        _between(against),
        _vary(cells),
        _gains(cells),
        Finding(STREAMS, untested="nothing here trains on a stream; for scarce resources see "
                "scripts/recommend.py"),
    ]  # fmt: skip


def _fractions(against: Sequence[Contrast], margin: float) -> Finding:
    several = _among(against, lambda w: (w.unit, w.budget), lambda w: w.fraction, least=2)
    return Finding(
        FRACTIONS,
        "bitfit - full",
        parts(several, lambda w: f"fraction {w.fraction:g}, {w.budget:g} {w.unit}"),
        (-margin, margin),
        untested="needs bitfit and full, two seeds or more, at two fractions or more of one budget",
        detail=detail(against),
    )


def _budgets(against: Sequence[Contrast], margin: float) -> Finding:
    timed = [one for one in against if one.where.unit == "seconds"]
    several = _among(timed, lambda w: w.fraction, lambda w: w.budget, least=2)
    return Finding(
        BUDGETS,
        "bitfit - full",
        parts(several, lambda w: f"{w.budget:g} s, fraction {w.fraction:g}"),
        (-margin, margin),
        untested="needs bitfit and full, two seeds or more, at two budgets or more in seconds "
        "(budget=seconds): other units are no constraint on time",
        detail=detail(timed),
    )


def _stable(cells: Cells, margin: float) -> Finding:
    left = [
        contrast(cells, where, [("bitfit", SOME)], [("bitfit", 1.0)]) for where in _whole(cells)
    ]
    return Finding(
        STABLE,
        "bitfit at 30 % - at all rows",
        parts(left, lambda w: f"{w.budget:g} {w.unit}"),
        (-margin, inf),
        untested="needs bitfit at fractions 0.3 and 1 of one budget, two seeds or more",
        detail=detail(left),
    )


def _steadier(cells: Cells) -> Finding:
    left = [
        contrast(cells, where, [("bitfit", SOME), ("full", 1.0)], [("bitfit", 1.0), ("full", SOME)])
        for where in _whole(cells)
    ]
    return Finding(
        STEADIER,
        "bitfit's change - full's",
        parts(left, lambda w: f"{w.budget:g} {w.unit}"),
        (0.0, inf),
        untested="needs bitfit and full at fractions 0.3 and 1 of one budget, two seeds or more",
        detail=detail(left),
    )


def _whole(cells: Cells) -> list[Where]:
    """Where BitFit was run on all rows."""
    return sorted({w for method, w in cells if method == "bitfit" and w.fraction == 1.0})


def _between(against: Sequence[Contrast]) -> Finding:
    ends: dict[tuple[str, float], list[float]] = defaultdict(list)
    for one in against:
        if one.estimate:
            ends[one.where.unit, one.where.budget].append(one.where.fraction)
    inner = [
        one
        for one in against
        if (found := ends.get((one.where.unit, one.where.budget)))
        and min(found) < one.where.fraction < max(found)
    ]
    return Finding(
        BETWEEN,
        "bitfit - full",
        parts(inner, lambda _: "fractions in between"),
        (0.0, inf),
        untested="needs bitfit and full, two seeds or more, at three fractions or more of a budget",
        detail=detail(inner),
    )


def _vary(cells: Cells) -> Finding:
    """Blocks are the sample: the ratio in each, whatever its task's noise, counts alike."""
    adapters = [name for name in ADAPTERS if any(name == method for method, _ in cells)]
    others = [name for name in OTHERS if any(name == method for method, _ in cells)]
    rows = [_spreads(cells, where, [*adapters, *others]) for where in sorted({w for _, w in cells})]
    table = pd.DataFrame([row for row in rows if row])
    enough = bool(adapters and others) and len(table) >= BLOCKS
    if enough:
        logs = np.log(table[[*adapters, *others]])
        table["ratio"] = np.exp(logs[adapters].mean(axis=1) - logs[others].mean(axis=1))
    return Finding(
        VARY,
        f"spread of {' and '.join(adapters)} / spread of {' and '.join(others)}",
        {"all places": of_values(np.log(table["ratio"].to_numpy()))} if enough else {},
        (0.0, inf),
        ratio=True,
        untested=f"needs houlsby or pfeiffer, and bitfit or full, with three seeds in common or "
        f"more, in {BLOCKS} places or more (task, fraction, budget)",
        detail=table,
    )


def _spreads(cells: Cells, where: Where, methods: list[str]) -> dict[str, object]:
    """Each method's standard deviation over the seeds that all have; nothing if that says nothing.

    A method whose every run predicts a constant does not vary for a reason that is no merit.
    """
    found = [cells[method, where] for method in methods if (method, where) in cells]
    if len(found) < len(methods) or not methods:
        return {}
    seeds = sorted(set.intersection(*(set(cell.scores.seeds) for cell in found)))
    if len(seeds) < SEEDS or any(constant(cell.runs.loc[seeds]) for cell in found):
        return {}
    spreads = [_spread(cell, seeds) for cell in found]
    place: dict[str, object] = {"task": where.task, "fraction": where.fraction}
    place |= {"budget": f"{where.budget:g} {where.unit}", "n": float(len(seeds))}
    return place | dict(zip(methods, spreads, strict=True))


def _spread(cell: Cell, seeds: list[int]) -> float:
    return max(float(cell.runs["test"].loc[seeds].std()), grain(cell))


def _gains(cells: Cells) -> Finding:
    found: dict[str, Estimate] = {}
    every = []
    for adapter in ADAPTERS:
        against = differences(cells, adapter, "full")
        every += against
        for one in against:
            if one.estimate:
                where = one.where
                place = f"{adapter} on {where.task}, fraction {where.fraction:g}"
                found[f"{place}, {where.budget:g} {where.unit}"] = one.estimate
    return Finding(
        GAINS,
        "adapter - full",
        found,
        (-inf, 0.0),
        everywhere=False,
        untested="needs houlsby or pfeiffer, and full, two seeds or more",
        detail=detail(every),
    )


def _among(
    contrasts: Sequence[Contrast],
    same: Callable[[Where], object],
    axis: Callable[[Where], float],
    *,
    least: int,
) -> list[Contrast]:
    """The contrasts that were made at `least` values of an axis, the rest being the same."""
    values: dict[object, set[float]] = defaultdict(set)
    for one in contrasts:
        if one.estimate:
            values[same(one.where)].add(axis(one.where))
    return [one for one in contrasts if len(values[same(one.where)]) >= least]
