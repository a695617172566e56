"""Methods measured on the same tasks: which leads, which are level with it, which are outdone."""

from collections.abc import Mapping
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report import pareto
from finegrid.report.load.rankings import CELL, RANKING
from finegrid.report.recommend.verdict import verdict
from finegrid.report.stats import simultaneous
from finegrid.report.stats.compare import Standing, Standings
from finegrid.report.stats.simultaneous import Pairs

Floats = NDArray[np.float64]
DIGITS = 12  # of means that are the same
Draws = Mapping[tuple[object, ...], tuple[list[str], Floats]]  # ranking -> methods, M x draws


def options(compared: pd.DataFrame, draws: Draws, standings: Standings) -> pd.DataFrame:
    """A row a method: the leader, then those level with it, then the others, by their means.

    Of several tasks the score is the mean of score / the task's best mean. Of equal scores the
    one leads that stores least, then the one that trained in the shortest time; the others are
    `equal`.

    Args:
        compared: a row a method and task, of every method on every task.
        draws: of the true scores, in every ranking.
        standings: of every cell.
    """
    cells = _cheapest_first(compared.astype({"method": str, "task": str}))
    best = cells.groupby("task")["mean"].transform("max")
    cells["scale"] = best if cells["task"].nunique() > 1 else 1.0
    cells["score"] = cells["mean"] / cells["scale"]
    table = cells.groupby("method", sort=False).agg(
        score=("score", "mean"),
        seconds=("seconds", "mean"),
        own_seconds=("own_seconds", "all"),
        matmul_rate=("matmul_rate", "mean"),
        bytes=("delta_bytes", "mean"),
        labels=("label_rows", "mean"),
        ok=("ok", "sum"),
        failed=("failed", "sum"),
    )
    of_tasks = [rows for _, rows in cells.groupby("task")]  # methods in the table's order
    table["low"], table["high"] = _bounds(of_tasks, table["score"].to_numpy(float))
    table["probability"] = probability_best(
        np.mean([drawn(rows, draws) / rows[["scale"]].to_numpy() for rows in of_tasks], axis=0)
    )
    table["front"] = pareto.front(costs(table["score"], table))
    scaled = [pairs(rows, standings).scaled(1 / rows["scale"].iloc[0]) for rows in of_tasks]
    apart = reduce(Pairs.plus, scaled).scaled(1 / len(of_tasks))  # tasks are independent
    level = reduce(np.maximum, [levels(rows, standings) for rows in of_tasks])
    goes_on = ~np.all([dropped(rows, standings) for rows in of_tasks], axis=0)
    may_lead = goes_on if goes_on.any() else ~goes_on
    scores = table["score"].to_numpy(float).round(DIGITS)
    decided = verdict(scores, may_lead, apart.above(level))
    table["level"] = np.isin(np.arange(len(table)), decided.level)
    table["leads"] = np.arange(len(table)) == decided.leader
    table["equal"] = may_lead & ~table["leads"] & (scores == scores[table["leads"]].max())
    by = ["leads", "level", "score", "method"]
    return table.reset_index().sort_values(by, ascending=[False] * 3 + [True], ignore_index=True)


def _cheapest_first(cells: pd.DataFrame) -> pd.DataFrame:
    """By tasks, and in each the methods in one order: the smallest first, then the quickest."""
    spent = cells.groupby("method")[["delta_bytes", "seconds"]].mean()
    order = list(spent.sort_values(["delta_bytes", "seconds"], kind="stable").index)
    place = cells["method"].map(order.index)
    return cells.assign(place=place).sort_values(["task", "place"]).drop(columns="place")


def pairs(cells: pd.DataFrame, standings: Standings) -> Pairs:
    """The differences of cells that were scored on the same test rows."""
    known = _known(cells, standings)
    return simultaneous.pairs([one.scores for one in known], [one.spread for one in known])


def levels(cells: pd.DataFrame, standings: Standings) -> Floats:
    """At which two cells are compared: the stricter one of their rankings, cells x cells."""
    each = np.array([one.level for one in _known(cells, standings)])
    return np.asarray(np.maximum(each[:, None], each))


def dropped(cells: pd.DataFrame, standings: Standings) -> NDArray[np.bool_]:
    """Which cells a race stopped while others went on: they lead nothing that goes on."""
    return np.array([one.dropped for one in _known(cells, standings)], bool)


def _known(cells: pd.DataFrame, standings: Standings) -> list[Standing]:
    return [standings[key] for key in cells[CELL].itertuples(index=False, name=None)]


def drawn(cells: pd.DataFrame, draws: Draws) -> Floats:
    """Each cell's draws of its true mean, cells x draws."""
    rows = []
    for *ranking, method in cells[[*RANKING, "method"]].itertuples(index=False, name=None):
        methods, values = draws[tuple(ranking)]
        rows.append(values[methods.index(method)])
    shortest = min(map(len, rows))
    return np.stack([values[:shortest] for values in rows])


def costs(score: pd.Series, table: pd.DataFrame) -> Floats:
    """What a method is weighed by, N x 4: its score with a minus sign, and what it takes."""
    return np.column_stack([-score, table[["seconds", "bytes", "labels"]]]).astype(float)


def probability_best(joint: Floats) -> Floats:
    """The share of draws in which each method's is the largest; equal ones share theirs.

    joint: methods x draws.
    """
    largest = joint == joint.max(0)
    return np.asarray((largest / largest.sum(0)).mean(1))


def _bounds(of_tasks: list[pd.DataFrame], score: Floats) -> tuple[Floats, Floats]:
    """Of each mean score over tasks: the squares of the tasks' distances to their bounds add up."""
    below, above = (
        sum(
            ((rows[side] - rows["mean"]) / rows["scale"] / len(of_tasks)).to_numpy(float) ** 2
            for rows in of_tasks
        )
        for side in ("low", "high")
    )
    return score - np.sqrt(below), score + np.sqrt(above)
