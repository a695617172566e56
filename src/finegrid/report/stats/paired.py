"""The difference of two methods, paired by seed and by test row, with both kinds of chance in it.

A mean difference strays with the seeds and with the test rows. Its variance is the sum: over seeds
(of the paired differences, / S) plus over test rows (of the mean over seeds). Chance that belongs
to a seed and a row at once is in both, so the sum is too large rather than too small. The critical
value is Banerjee's (1960), which rejects a true null in at most 1 - level however the two compare;
with degrees of freedom after Welch and Satterthwaite two or three seeds would do so in up to 13 or
8 % instead of 5.

Notation: S seeds, N test rows, D draws of rows.
"""

from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

from finegrid.report.stats.significance import Floats, falling_root


@dataclass(frozen=True)
class Scores:
    """One method's scores in one ranking; resampled where its predictions are known."""

    seeds: tuple[int, ...]
    values: Floats  # S
    resampled: NDArray[np.floating] | None = None  # D S, on the same draws of rows for all methods
    rows: int = 0  # of the test set, if known
    of_rows: float = 0.0  # variance of the mean over test rows, estimated without predictions


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over their common seeds; its interval is mean +- t(df) se."""

    mean: float  # nan without common seeds
    se: float = nan
    df: float = nan
    seeds: int = 0  # common to both
    test: str = ""  # `seeds and rows`, `seeds`, `rows`; nothing if no test was possible


def difference(a: Scores, b: Scores, *, level: float = 0.95) -> Difference:
    """How much a is above b, of which both the seeds and the test rows are a sample.

    One seed: the rows alone, so a statement on these two runs and not on their methods. Where the
    chance of rows is unknown, the seeds alone, so one on this test set. Rows without predictions:
    as if the two erred on unrelated rows.

    Args:
        level: of the interval for which `df` is chosen.
    """
    common, at_a, at_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
    n = len(common)
    if not n:
        return Difference(nan)
    paired = a.values[at_a] - b.values[at_b]
    resampled = _resampled(a, b, at_a, at_b)
    chance: dict[str, tuple[float, float]] = {}  # source -> variance, degrees of freedom
    if n > 1:
        least = 1 / a.rows if a.rows and resampled is None else 0.0
        chance["seeds"] = max(float(paired.var(ddof=1)), least**2) / n, n - 1.0
    if resampled is not None:
        chance["rows"] = variance_over_rows(resampled, a.rows), a.rows - 1.0
    elif min(a.of_rows, b.of_rows) > 0:
        chance["rows"] = a.of_rows + b.of_rows, a.rows - 1.0
    parts = [(variance, df) for variance, df in chance.values() if variance > 0]
    mean, test = float(paired.mean()), " and ".join(chance)
    if parts:
        se = sqrt(sum(variance for variance, _ in parts))
        return Difference(mean, se, _freedom(parts, level), n, test)
    if test and mean == 0:  # all scores are the same
        return Difference(mean, 0.0, inf, n, test)
    return Difference(mean, seeds=n)


def _resampled(
    a: Scores, b: Scores, at_a: NDArray[np.intp], at_b: NDArray[np.intp]
) -> NDArray[np.floating] | None:
    """The differences on resampled rows, D x those seeds whose predictions are known of both."""
    if a.resampled is None or b.resampled is None:
        return None
    differences = a.resampled[:, at_a] - b.resampled[:, at_b]
    differences = differences[:, np.isfinite(differences[0])]
    return differences if differences.size else None


def variance_over_rows(resampled: NDArray[np.floating], rows: int) -> float:
    """Of the mean over seeds of scores D x S; the bootstrap's is short by (N - 1) / N."""
    return float(resampled.mean(axis=1, dtype=float).var(ddof=1)) * rows / (rows - 1)


def _freedom(parts: list[tuple[float, float]], level: float) -> float:
    """Degrees of freedom of the Student's t that has Banerjee's interval.

    Its t^2 is the mean of the squared Student quantiles of the parts, weighted by their variances:
    so the half-width is the root of the sum of the squares of each part's own half-width.
    """
    if len(parts) == 1:
        return parts[0][1]
    upper = (1 + level) / 2
    squares = sum(variance * special.stdtrit(df, upper) ** 2 for variance, df in parts)
    critical = sqrt(squares / sum(variance for variance, _ in parts))
    return falling_root(lambda df: special.stdtrit(df, upper), critical, 1, 1e9)
