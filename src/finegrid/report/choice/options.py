"""Methods measured on the same tasks: which is likely the best, and which none outdoes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from finegrid.report.frame import RANKING

Draws = Mapping[tuple[object, ...], tuple[list[str], np.ndarray]]  # ranking -> methods, M x draws


def options(compared: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    """A row a method, the likeliest first.

    Args:
        compared: a row a method and task, of every method on every task.
        draws: of the true scores, in every ranking.
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
    options["low"], options["high"] = np.quantile(joint, [0.025, 0.975], axis=1)
    options["probability"] = probability_best(joint)
    options["front"] = front(options)
    options.index = options.index.astype(str)
    likeliest = options.reset_index().sort_values(
        ["probability", "score", "method"], ascending=[False, False, True]
    )
    return likeliest.reset_index(drop=True)


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
