"""The scores of a ranking's cells, as the report reads them."""

from collections.abc import Mapping
from math import nan

import pandas as pd

from finegrid.report.load.rankings import UNASKED, gather
from finegrid.report.stats.scores import Known, evidence


def scored(runs: pd.DataFrame, methods: Mapping[str, str]) -> dict[str, Known]:
    """The cell of each method that has a score.

    Args:
        runs: of one ranking, as `rankings.load` gives them.
        methods: label of each run's method, by the hash of its cell.
    """
    if runs.empty:
        return {}
    # the sweep has named the methods: no override and no rate is to tell them apart once more
    runs = runs.assign(method=runs["cell"].astype(object).map(methods), overrides="", lr=nan)
    runs = runs[runs["status"].eq("ok") & runs["test"].notna() & runs["method"].notna()]
    if runs.empty:
        return {}
    rankings = evidence(gather(runs, mix=UNASKED)).rankings
    return max(rankings.values(), key=len)
