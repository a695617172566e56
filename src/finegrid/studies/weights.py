"""What finegrid analyse measures of weights, as estimates: distances by layer, masks' overlap."""

from collections.abc import Mapping
from math import exp, log, sqrt

import numpy as np
import pandas as pd

from finegrid.studies.verdict import Estimate, of_values, over_tasks

OUTSIDE = "embeddings and pooler"


def by_layer(distances: pd.DataFrame | None, names: Mapping[str, str]) -> pd.DataFrame:
    """log(moved / random) of full's runs: a row a run (task, cell), a column a layer.

    Args:
        distances: rows of distances.csv; none: not measured.
        names: cell -> method, of the runs that count.
    """
    if distances is None:
        return pd.DataFrame()
    full = distances[distances["cell"].map(names) == "full"]
    squares = full[["task", "cell"]].assign(
        place=[f"layer {at:.0f}" if pd.notna(at) else OUTSIDE for at in full["layer"]],
        moved=full["l2"] ** 2,
        random=full["l2_random"] ** 2,
    )
    if squares.empty:
        return pd.DataFrame()
    sums = squares.groupby(["task", "cell", "place"])[["moved", "random"]].sum()
    logs = (sums["moved"] / sums["random"]).map(log) / 2
    table = logs.unstack("place")
    order: list[str] = sorted(map(str, table), key=_depth)
    return table[order]


def _depth(place: str) -> int:
    return -1 if place == OUTSIDE else int(place.removeprefix("layer "))


def over_runs(values: pd.Series) -> Estimate:
    """The mean over runs. Tasks weigh alike where each has runs enough; else every run does."""
    tasks = [of_task.to_numpy() for _, of_task in values.groupby(level="task")]
    if all(len(of_task) > 1 for of_task in tasks):
        return over_tasks([of_values(of_task) for of_task in tasks])
    return of_values(values.to_numpy())


def ratios(layers: pd.DataFrame) -> pd.DataFrame:
    """A row a task and layer: the ratio's geometric mean over runs, and its range."""
    rows = [
        {"task": task, "place": place, "ratio": exp(logs.mean()), "least": exp(logs.min()),
         "most": exp(logs.max())}
        for task, of_task in layers.groupby(level="task") for place, logs in of_task.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def trend(layers: pd.DataFrame) -> str:
    """Whether the ratio rises or falls with depth, by rank correlation in each run."""
    numbered = layers[[place for place in layers if place != OUTSIDE]]
    if numbered.shape[1] < 3:
        return "too few layers for a trend with depth"
    ranks = numbered.rank(axis=1)
    rho = ranks.apply(lambda row: float(np.corrcoef(row, range(len(row)))[0, 1]), axis=1)
    steps = np.diff(numbered.mean(axis=0))
    monotone = "monotone" if (steps > 0).all() or (steps < 0).all() else "not monotone"
    return (
        f"the ratio's rank correlation with depth is {rho.mean():.2f} in the mean of the runs "
        f"({rho.min():.2f} to {rho.max():.2f}); the mean ratio is {monotone} in depth"
    )


def shared(overlap: pd.DataFrame | None, names: Mapping[str, str], mask: str) -> pd.DataFrame:
    """A row a pair of a method's runs: what their zeros share, 0 for chance, 1 for the same.

    Of the layers' tensors together: a mask lies nowhere else, and a pooler changes everywhere.
    """
    if overlap is None:
        return pd.DataFrame()
    method = overlap["cell_a"].map(names)
    ours = method.map(lambda name: isinstance(name, str) and name.partition(" ")[0] == mask)
    inner = overlap["layer"].notna()
    known = overlap[ours & inner & (overlap["cell_b"].map(names) == method)]
    pairs = known.assign(method=method, task=known["task_a"], chance=_chance(known))
    if pairs.empty:
        return pd.DataFrame()
    by = ["method", "relation", "task", "cell_a", "cell_b"]
    sums = pairs.groupby(by)[["both", "either", "changed_a", "changed_b", "chance"]].sum()
    jaccard = sums["both"] / sums["either"]
    expected = sums["chance"] / (sums["changed_a"] + sums["changed_b"] - sums["chance"])
    return ((jaccard - expected) / (1 - expected)).rename("shared").reset_index()


def _chance(rows: pd.DataFrame) -> pd.Series:
    """How many of a tensor's entries independent masks of these sizes would both remove."""
    return rows["changed_a"] * rows["changed_b"] / rows["numel"]


def jackknife(pairs: pd.DataFrame) -> Estimate | None:
    """The mean over pairs; a run is left out with all its pairs, for these are not independent."""
    runs = sorted({*pairs["cell_a"], *pairs["cell_b"]})
    if len(runs) < 3:
        return None
    left = [
        pairs.loc[(pairs["cell_a"] != run) & (pairs["cell_b"] != run), "shared"].mean()
        for run in runs
    ]
    count = len(runs)
    se = sqrt((count - 1) / count * float(np.sum((np.array(left) - np.mean(left)) ** 2)))
    return Estimate(float(pairs["shared"].mean()), se, count - 1, count)
