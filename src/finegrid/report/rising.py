"""Whether validation still rose when the budget ended, so that a larger one may change the answer.

Of each seed the gain is its last validation score less the best one in the first two thirds of the
budget. A cell still rises if the mean gain is at least `LEAST` and above 0 by a one-sided paired t
test over the seeds at 5 %. A flat curve seldom passes: its last point stands against the highest of
several. Where curves are not at hand (runs of a table) the record must say that every seed's best
score was its last one, which of a flat curve's three seeds happens once in 27 times or less.
"""

from math import nan, sqrt

import numpy as np
import pandas as pd
from scipy import special

from finegrid.report.figures import curves
from finegrid.report.recommend.decide import SEEDS

LEAST = 0.005  # half a point: what nobody would pay for is no reason
LEVEL = 0.05


def gain(runs: pd.DataFrame) -> float | None:
    """By how much one cell's validation rose in the last third of its budget; None if it did not.

    nan: the record tells that it rose, and no curve by how much.

    Args:
        runs: one cell's, a row a seed.
    """
    runs = runs[runs["status"].eq("ok")]
    if len(runs) < SEEDS:
        return None
    read = [curves.read(str(directory)) for directory in runs["directory"]]
    known = [curve.validation for curve in read if curve is not None]
    if len(known) == len(runs) and min(map(len, known)) >= 3:
        return _tested(np.array([line[-1] - max(line[: 2 * len(line) // 3]) for line in known]))
    last = runs["best_step"].eq(runs["steps"]).all()
    return nan if last else None


def _tested(gains: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    mean, se = float(gains.mean()), float(gains.std(ddof=1)) / sqrt(len(gains))
    critical = float(special.stdtrit(len(gains) - 1, 1 - LEVEL))
    return mean if mean >= LEAST and mean > critical * se else None
