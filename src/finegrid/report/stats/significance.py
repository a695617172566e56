"""Intervals, tests and what a test could have found, from arrays of scores alone.

Notation: S seeds, T strata (tasks), N test rows, D draws. No function draws from global state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
LEAST_P = 1e-16  # below it a p is given as this


@dataclass(frozen=True)
class Scores:
    """One method's scores in one ranking; resampled where its predictions are known."""

    seeds: tuple[int, ...]
    values: Floats  # S
    resampled: NDArray[np.floating] | None = None  # D S, on the same draws of rows for all methods
    rows: int = 0  # of the test set, if known
    of_rows: float = 0.0  # variance of the mean over test rows, estimated without predictions


class Part(NamedTuple):
    """A source of chance in a mean difference."""

    chance: str  # `seeds` or `rows`
    variance: float
    df: float


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over their common seeds, its interval and test, and what chance is in it."""

    mean: float
    low: float
    high: float
    p: float  # not below LEAST_P
    df: float  # of the Student's t that has this interval: mean +- t(df) se
    se: float = nan
    seeds: int = 0  # common to both
    test: str = ""  # `seeds and rows`, `seeds`, `rows`; nothing if no test was possible
    parts: tuple[Part, ...] = ()


def iqm(values: Floats) -> float:
    """Interquartile mean: without the lowest and the highest quarter, as scipy's trim_mean."""
    ordered = np.sort(np.ravel(values))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def quantile(p: float, df: Floats | float) -> Floats:
    """Of Student's t; infinite degrees of freedom are the normal distribution's."""
    df = np.asarray(df, float)
    finite = special.stdtrit(np.where(np.isinf(df), 1, df), p)
    return np.asarray(np.where(np.isinf(df), special.ndtri(p), finite))


def two_sided(t: float, df: float) -> float:
    """Probability of a Student t at least so far from 0."""
    return float(2 * (special.ndtr(-abs(t)) if df == inf else special.stdtr(df, -abs(t))))


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Exact two-sided p that a and b, correct or not on the same rows, are as often correct."""
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    if only_a + only_b == 0:
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p: Floats) -> Floats:
    """Holm's step-down adjustment; what is not a number is no test and stays one."""
    p = np.asarray(p, float)
    adjusted = np.full(len(p), nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def improvement(a: Sequence[Floats], b: Sequence[Floats]) -> float:
    """Mean over tasks of P(a > b) + P(a = b) / 2, over all pairs of runs (arXiv 2108.13264)."""
    shares = [np.mean(wins(np.asarray(x), np.asarray(y))) for x, y in zip(a, b, strict=True)]
    return float(np.mean(shares))


def wins(a: Floats, b: Floats) -> Floats:
    """1 where a run of a beats one of b, 1/2 where they are equal: len(a) x len(b)."""
    return 0.5 * (np.sign(a[:, None] - b[None, :]) + 1)


def detectable(
    sd: float,
    n: int,
    *,
    level: float = 0.95,
    power: float = 0.8,
    df: float | None = None,
    critical: float | None = None,
) -> float:
    """The true difference that a paired t test over n seeds would find in `power` of all cases.

    Args:
        sd: standard deviation of the paired differences.
        df: degrees of freedom, if not n - 1.
        critical: the t from which the test rejects, if not Student's at `level`.
    """
    freedom = n - 1 if df is None else df
    if not freedom > 0:
        return nan
    reached = float(quantile((1 + level) / 2, freedom)) if critical is None else critical
    return _distance(float(f"{freedom:.2g}"), float(f"{reached:.3g}"), power) * sd / sqrt(n)


@cache
def _distance(df: float, critical: float, power: float) -> float:
    """The non-centrality at which |t| exceeds the critical one with that probability.

    Integrated over the standard deviation: far out scipy's non-central t is not a number.
    """
    shares = (np.arange(500) + 0.5) / 500
    spread = np.sqrt(special.chdtri(df, shares) / df) if df < 1e6 else np.ones(1)

    reached = critical * spread

    def missed(distance: float) -> float:
        found = special.ndtr(distance - reached) + special.ndtr(-distance - reached)
        return 1 - float(np.mean(found))

    return _falling(missed, 1 - power, 1e-6, 1e9)


def difference(a: Scores, b: Scores, *, level: float = 0.95) -> Difference:
    """How much a is above b, of which both the seeds and the test rows are a sample.

    Variance of the mean difference: over seeds (of the paired differences, / S) plus over test rows
    (of the mean over seeds): resampled, or without predictions estimated as if the two erred on
    unrelated rows. Chance that belongs to a seed and a row at once is in both, so the sum is too
    large rather than too small. The interval and p are Banerjee's (see `critical`), which reject a
    true null in at most 1 - level however the two compare; with degrees of freedom after Welch and
    Satterthwaite two or three seeds would do so in up to 13 or 8 % instead of 5.

    One seed: the rows alone, so a statement on these two runs and not on their methods. Where the
    chance of rows is unknown, the seeds alone, so one on this test set.
    """
    common, at_a, at_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
    n = len(common)
    paired = a.values[at_a] - b.values[at_b]
    resampled = _resampled(a, b, at_a, at_b)
    parts = []
    if n > 1:
        least = 1 / a.rows if a.rows and resampled is None else 0.0
        parts.append(Part("seeds", max(float(paired.var(ddof=1)), least**2) / n, n - 1.0))
    if resampled is not None:
        parts.append(Part("rows", _over_rows(resampled, a.rows), a.rows - 1.0))
    elif n and min(a.of_rows, b.of_rows) > 0:
        parts.append(Part("rows", a.of_rows + b.of_rows, a.rows - 1.0))
    return _tested(float(paired.mean()) if n else nan, tuple(parts), n, level)


def critical(parts: Sequence[Part], p: float) -> float:
    """The |t| that a true null exceeds with probability p at most (Banerjee 1960).

    t^2 is the mean of the squared Student quantiles of the parts, weighted by their variances: so
    the interval's half-width is the root of the sum of the squares of each part's own half-width.
    """
    squares = sum(part.variance * special.stdtrit(part.df, p / 2) ** 2 for part in parts)
    return sqrt(squares / sum(part.variance for part in parts))


def _resampled(
    a: Scores, b: Scores, at_a: NDArray[np.intp], at_b: NDArray[np.intp]
) -> NDArray[np.floating] | None:
    """The differences on resampled rows, D x those seeds whose predictions are known of both."""
    if a.resampled is None or b.resampled is None:
        return None
    found = a.resampled[:, at_a] - b.resampled[:, at_b]
    found = found[:, np.isfinite(found[0])]
    return found if found.size else None


def _over_rows(differences: NDArray[np.floating], rows: int) -> float:
    """Variance over test rows of the mean over seeds; the bootstrap's is short by (N - 1) / N."""
    return float(differences.mean(axis=1, dtype=float).var(ddof=1)) * rows / (rows - 1)


def _tested(mean: float, parts: tuple[Part, ...], seeds: int, level: float) -> Difference:
    test = " and ".join(part.chance for part in parts)
    parts = tuple(part for part in parts if part.variance > 0)
    if not parts:  # nothing to go by, or scores that are all the same
        if test and mean == 0:
            return Difference(mean, mean, mean, 1.0, inf, 0.0, seeds, test)
        return Difference(mean, nan, nan, nan, nan, nan, seeds)
    se = sqrt(sum(part.variance for part in parts))
    reached = critical(parts, 1 - level)
    half = reached * se
    if len(parts) == 1:
        df, p = parts[0].df, max(two_sided(mean / se, parts[0].df), LEAST_P)
    else:
        df = _falling(lambda df: special.stdtrit(df, (1 + level) / 2), reached, 1, 1e9)
        p = _falling(lambda p: critical(parts, p), abs(mean) / se, LEAST_P, 1.0)
    return Difference(mean, mean - half, mean + half, p, df, se, seeds, test, parts)


def _falling(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a falling function of a positive number has a value, by bisection of the logarithm."""
    for _ in range(50):
        middle = sqrt(low * high)
        low, high = (middle, high) if function(middle) > value else (low, middle)
    return high
