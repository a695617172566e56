"""Methods measured on the same tasks: which leads, which may be as good, which none outdoes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from finegrid.report.load.rankings import CELL, RANKING
from finegrid.report.recommend.verdict import verdict
from finegrid.report.stats import simultaneous
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.shrunken_variance import Spread
from finegrid.report.stats.simultaneous import Pairs

Draws = Mapping[tuple[object, ...], tuple[list[str], np.ndarray]]  # ranking -> methods, M x draws
Standings = Mapping[tuple[Any, ...], tuple[Scores, Spread]]  # cell, as frame.CELL names it


def options(compared: pd.DataFrame, draws: Draws, standings: Standings) -> pd.DataFrame:
    """A row a method, the leader first, then those that may be as good (`level`) by their means.

    Args:
        compared: a row a method and task, of every method on every task.
        draws: of the true scores, in every ranking.
        standings: of every cell.
    """
    tasks = compared["task"].nunique()
    best = compared.groupby("task", observed=True)["mean"].transform("max")
    scale = best if tasks > 1 else best / best
    scaled = compared.assign(score=compared["mean"] / scale)
    options = scaled.groupby("method", observed=True).agg(
        score=("score", "mean"),
        seconds=("seconds", "mean"),
        bytes=("delta_bytes", "mean"),
        labels=("train_rows", "mean"),
        ok=("ok", "sum"),
        failed=("failed", "sum"),
    )
    drawn = _drawn(compared, draws) / scale.to_numpy()[:, None]  # cells x draws
    of_method = [
        drawn[(compared["method"] == method).to_numpy()].mean(0) for method in options.index
    ]
    joint = np.stack(of_method)  # methods x draws
    options["low"], options["high"] = _bounds(scaled.assign(scale=scale), options["score"])
    options["probability"] = probability_best(joint)
    options["front"] = front(options)
    told = _pairs(scaled.assign(scale=scale), list(options.index), standings)
    scores = options["score"].to_numpy(float)
    found = verdict(scores, np.ones(len(scores), bool), told.above())
    options["level"] = [at in found.level for at in range(len(options))]
    options["leads"] = [at == found.leader for at in range(len(options))]
    options.index = options.index.astype(str)
    first = options.reset_index().sort_values(
        ["leads", "level", "score", "method"], ascending=[False, False, False, True]
    )
    return first.reset_index(drop=True)


def _pairs(cells: pd.DataFrame, methods: list[Any], standings: Standings) -> Pairs:
    """The methods' differences in the mean over tasks of score / scale: tasks are independent."""
    total: Pairs | None = None
    tasks = cells["task"].nunique()
    for _, own in cells.groupby("task", observed=True):
        rows = own.set_index("method").loc[methods].reset_index().to_dict("records")
        found = [standings[tuple(row[name] for name in CELL)] for row in rows]
        one = simultaneous.pairs(*map(list, zip(*found, strict=True)))
        one = one.scaled(1 / (float(own["scale"].iloc[0]) * tasks))
        total = one if total is None else total.plus(one)
    assert total is not None
    return total


def _bounds(cells: pd.DataFrame, score: pd.Series) -> list[np.ndarray]:
    """Of each mean score over tasks: the squares of the tasks' own distances add up."""
    tasks = cells["task"].nunique()
    below = ((cells["mean"] - cells["low"]) / cells["scale"] / tasks) ** 2
    above = ((cells["high"] - cells["mean"]) / cells["scale"] / tasks) ** 2
    far = [
        side.groupby(cells["method"], observed=True).sum(skipna=False).loc[score.index].to_numpy()
        ** 0.5
        for side in (below, above)
    ]
    return [score.to_numpy() - far[0], score.to_numpy() + far[1]]


def _drawn(compared: pd.DataFrame, draws: Draws) -> np.ndarray:
    """Each cell's draws of its true mean, cells x draws."""
    found = []
    for row in compared.to_dict("records"):
        methods, values = draws[tuple(row[name] for name in RANKING)]
        found.append(values[methods.index(row["method"])])
    shortest = min(map(len, found))
    return np.stack([values[:shortest] for values in found])


def probability_best(joint: np.ndarray) -> np.ndarray:
    """The share of draws in which each method's is the largest; equal ones share theirs.

    joint: methods x draws.
    """
    largest = joint == joint.max(0)
    return np.asarray((largest / largest.sum(0)).mean(1))


def front(options: pd.DataFrame) -> np.ndarray:
    """Whether no other option is as good in score, seconds, bytes and labels, and better in one."""
    costs = options[["seconds", "bytes", "labels"]].to_numpy(float)
    values = np.column_stack([-options["score"].to_numpy(float), costs])  # methods x 4
    as_good = (values[:, None] <= values[None]).all(-1)  # row against column
    better = (values[:, None] < values[None]).any(-1)
    return np.asarray(~(as_good & better).any(0))
