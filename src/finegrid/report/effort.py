"""What the search for learning rates took, which belongs to the scores: one sentence a table."""

import pandas as pd

from finegrid.report import formatting
from finegrid.report.load.rankings import RANKING, ordered

COSTS = ["tuning_runs", "tuning_examples"]  # of a record


def tuning(runs: pd.DataFrame) -> str:
    """What the search for rates took, by method where that differs; nothing if there was none.

    runs: of `rankings.gather`.
    """
    runs = runs.reindex(columns=[*RANKING, "method", *COSTS])
    costs = runs.dropna(subset=COSTS)
    if costs.empty:
        return ""
    untuned = ordered(set(runs["method"]) - set(costs["method"]))
    rest = f" Not searched: {formatting.listed(untuned)}." if untuned else ""
    if costs.groupby(RANKING, observed=True)[COSTS].nunique().le(1).all(axis=None):
        return f"Rates were searched: {_cost(costs)} a method.{rest}"
    of_methods = {str(name): rows for name, rows in costs.groupby("method", observed=True)}
    each = "; ".join(f"{name} {_cost(of_methods[name])}" for name in ordered(of_methods))
    return f"Rates were searched, not at the same cost: {each}.{rest}"


def _cost(costs: pd.DataFrame) -> str:
    runs, examples = (formatting.between(costs[name], "{:,.0f}".format) for name in COSTS)
    return f"{runs} run{'s' * (runs != '1')}, {examples} examples"
