"""Scores on the straight line between two solutions of one task.

    w(alpha) = (1 - alpha) w_a + alpha w_b, the encoder with the method merged in, and the head

A score that holds all the way says that both lie in one basin.
"""

import copy
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from finegrid.analysis.rows import require_same, scored
from finegrid.analysis.weights import Solution
from finegrid.data.examples import Examples
from finegrid.errors import one_of, require

SPLITS = ("validation", "test")


def table(a: Solution, b: Solution, *, points: int = 11, where: str = "validation") -> pd.DataFrame:
    """One row a point and metric, scored on the rows of the split `where`.

    Columns: alpha (0: the first run, 1: the second), split, metric, score, headline (whether it
    is the task's own metric).

    Raises:
        UserError: unless both runs did one task from the same weights, their methods merge, and
            the rows are still those of the runs.
    """
    require(points >= 2, f"--points {points} must be at least 2, the two ends")
    _check(a, b)
    rows = _rows(a, b, where)
    labels = a.run.task.collate(rows.labels)
    ends, others = _dense(a), _dense(b)
    network = copy.deepcopy(a.start.model)
    scores = []
    for alpha in torch.linspace(0, 1, points).tolist():
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.lerp(ends[name], others[name], alpha))
        outputs = replace(a.run, model=network).outputs(rows.texts, rows.attributes)
        for metric, score in a.run.task.score(outputs, labels).items():
            scores.append((alpha, where, metric, score, metric == a.run.task.headline))
    return pd.DataFrame(scores, columns=["alpha", "split", "metric", "score", "headline"])


def _check(a: Solution, b: Solution) -> None:
    for key in ("task", "model", "fingerprint", "protocol"):
        mine, other = getattr(a.run.record, key), getattr(b.run.record, key)
        require(mine == other, f"no line between runs of {key} {mine} and {other}; choose one")
    for solution in (a, b):
        for path, module in solution.unmerged().items():
            what = f"{path} ({type(module).__name__})"
            method = solution.run.record.method
            require(False, f"no line between runs of {method}: {what} does not merge into weights")


def _rows(a: Solution, b: Solution, where: str) -> Examples:
    """The rows that both runs were scored on."""
    one_of("--split", where, SPLITS)
    rows = scored(a.run, where)
    require_same(b.run, rows, where)
    return rows


def _dense(solution: Solution) -> dict[str, Tensor]:
    """Every parameter of a run as plain weights, by the name that it has without a method."""
    prefix = f"{solution.start.model.base_model_prefix}."
    head = {
        name: value.detach()
        for name, value in solution.run.model.named_parameters()
        if not name.startswith(prefix)
    }
    return head | {change.name: change.after for change in solution.changes()}
