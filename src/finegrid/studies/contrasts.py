"""Effects on scores: sums and differences of cells, such as `bitfit - full`, paired by seed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from finegrid.report.load.rankings import CELL, Results
from finegrid.report.stats.paired import Scores, difference
from finegrid.report.stats.scores import Evidence
from finegrid.runs import text
from finegrid.studies.verdict import Claim, Estimate, Finding, over_tasks, within_task

PAIRS = 2  # seeds in common, the fewest that have a spread


class Where(NamedTuple):
    """What methods must share to be paired."""

    task: str
    unit: str
    budget: float
    fraction: float

    def __str__(self) -> str:
        return f"{self.task}, {text.percent(self.fraction)} of the rows, {self.budget_text()}"

    def budget_text(self) -> str:
        """The budget with its unit."""
        return text.budget(self.unit, self.budget)


@dataclass(frozen=True)
class Cell:
    """The finished runs of a method in one place."""

    scores: Scores
    runs: pd.DataFrame  # by seed


@dataclass(frozen=True)
class Contrast:
    """An effect in one place; none where too little was run, or nothing learned."""

    where: Where
    estimate: Estimate | None
    means: Mapping[str, float] = field(default_factory=dict)  # of what was compared, all its seeds
    note: str = ""


Cells = Mapping[tuple[str, Where], Cell]
Terms = Sequence[tuple[str, float]]  # methods, each at a fraction


def cells_of(results: Results, known: Evidence, setting: int) -> Cells:
    """The cells of one setting that have a score."""
    runs = results.runs[results.runs["setting"].eq(setting) & results.runs["status"].eq("ok")]
    cells = {}
    for key, of_cell in runs[runs["test"].notna()].groupby(CELL, observed=True):
        *ranking, method = cast(tuple[Any, ...], key)
        _, task, unit, budget, fraction = ranking
        where = Where(str(task), str(unit), float(budget), float(fraction))
        scores = known.rankings[tuple(ranking)][method].scores
        cells[str(method), where] = Cell(scores, of_cell.set_index("seed"))
    return cells


def contrast(cells: Cells, where: Where, plus: Terms, minus: Terms) -> Contrast:
    """The sum of the scores of `plus` less that of `minus`, over the seeds that all have."""
    terms = [*plus, *minus]
    places = [(method, where._replace(fraction=fraction)) for method, fraction in terms]
    if lacks := sorted({method for method, place in places if (method, place) not in cells}):
        return Contrast(where, None, note=f"no finished run of {' and '.join(lacks)}")
    several = len({fraction for _, fraction in terms}) > 1
    scores, means = [cells[place].scores for place in places], {}
    for (method, fraction), one in zip(terms, scores, strict=True):
        name = f"{method} at {text.percent(fraction)}" if several else method
        means[name] = float(one.values.mean())
    if all(constant(cells[place].runs) for place in places):
        return Contrast(where, None, means, "every run predicts a constant")
    total = difference(reduce(_plus, scores[: len(plus)]), reduce(_plus, scores[len(plus) :]))
    if total.seeds < PAIRS:
        return Contrast(where, None, means, f"seeds in common: {total.seeds}")
    if not total.test:
        return Contrast(where, None, means, "the same at every seed: no spread to test it by")
    return Contrast(where, Estimate(total.mean, total.se, total.df, total.seeds), means)


def _plus(a: Scores, b: Scores) -> Scores:
    """The sum at each seed that both have."""
    seeds, at_a, at_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
    resampled = None
    if a.resampled is not None and b.resampled is not None:
        resampled = a.resampled[:, at_a] + b.resampled[:, at_b]
    of_rows = a.of_rows + b.of_rows if min(a.of_rows, b.of_rows) > 0 else 0.0
    values = a.values[at_a] + b.values[at_b]
    return Scores(tuple(seeds.tolist()), values, resampled, a.rows, of_rows)


def differences(cells: Cells, method: str, other: str) -> list[Contrast]:
    """`method - other`, wherever one of them was run."""
    places = sorted({where for name, where in cells if name in (method, other)})
    return [
        contrast(cells, where, [(method, where.fraction)], [(other, where.fraction)])
        for where in places
    ]


def parts(contrasts: Iterable[Contrast], label: Callable[[Where], str]) -> dict[str, Estimate]:
    """The effect of each label: the mean over its tasks of the mean over each task's places."""
    labelled: dict[str, dict[str, list[Estimate]]] = defaultdict(lambda: defaultdict(list))
    for one in contrasts:
        if one.estimate:
            labelled[label(one.where)][one.where.task].append(one.estimate)
    return {
        name: over_tasks([within_task(places) for places in tasks.values()])
        for name, tasks in labelled.items()
    }


def finding(
    claim: Claim,
    contrasts: Sequence[Contrast],
    region: tuple[float, float],
    *,
    label: Callable[[Where], str],
    shown: Sequence[Contrast] | None = None,
) -> Finding:
    """What contrasts say on a claim, a part a label; the page lists those that are `shown`."""
    listed = detail(contrasts if shown is None else shown)
    return Finding(claim, parts(contrasts, label), region, listed)


def detail(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """A row a place: what was compared, the effect, or why there is none."""
    table = pd.DataFrame([_row(one) for one in contrasts])
    return table[[*table.columns.drop("note"), "note"]] if len(table) else table


def _row(one: Contrast) -> dict[str, object]:
    row: dict[str, object] = {
        "task": one.where.task,
        "fraction": text.percent(one.where.fraction),
        "budget": one.where.budget_text(),
        "means": ", ".join(f"{name} {mean:.4f}" for name, mean in one.means.items()),
    }
    if one.estimate is not None:
        row["effect"] = one.estimate.mean
        row["low"], row["high"] = one.estimate.interval()
        row["n"] = float(one.estimate.n)
    return row | {"note": one.note}


def constant(runs: pd.DataFrame) -> bool:
    """Whether every run predicts a constant."""
    return bool(runs["degenerate"].eq(True).all())


def grain(cell: Cell) -> float:
    """One test row as a share of them: scores cannot be seen to spread less."""
    rows = cell.runs["test_rows"].min()
    return 1 / rows if rows > 0 else 0.0
