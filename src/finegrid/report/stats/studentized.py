"""Tukey's studentized range: of M equal normal means, over their estimated standard error.

In units of a difference's standard error (the range over sqrt 2), so that two means have Student's
t. Read from tables, accurate to about 1e-3 of p: one critical value of `scipy.stats` takes 0.13 s,
and a report of 5,000 runs needs some thousands.
"""

from collections.abc import Callable
from functools import cache
from math import inf, isinf

import numpy as np
from numpy.typing import NDArray
from scipy import special

from finegrid.report.stats.significance import LEAST_P, Floats

POINTS = np.geomspace(1e-2, 1e3, 500)  # of t; from the last to 1e9 the tail is a power


def exceeded(t: float, methods: int, df: float) -> float:
    """Probability that some two of M equal means differ by at least t standard errors."""
    if methods <= 2:
        return max(2 * float(special.stdtr(df, -abs(t))), LEAST_P)
    log_t, log_p = _table(methods, float(_rounded(np.array(df))))
    return max(float(np.exp(np.interp(np.log(max(abs(t), 1e-9)), log_t, log_p))), LEAST_P)


@cache
def critical(p: float, methods: int, df: float) -> float:
    """The t that the largest difference exceeds with probability p."""
    return criticals_of(methods, df)(p)


def criticals_of(methods: int, df: float) -> Callable[[float], float]:
    """`critical` as a function of p, for many of them."""
    if methods <= 2:
        return lambda p: -float(special.stdtrit(df, p / 2))
    log_t, log_p = _table(methods, float(_rounded(np.array(df))))
    rising = -log_p
    return lambda p: float(np.exp(np.interp(-np.log(p), rising, log_t)))


def criticals(p: float | Floats, methods: NDArray[np.int64], df: Floats) -> Floats:
    """`critical` of each p, number of methods and degrees of freedom, which often repeat."""
    each = (np.broadcast_to(p, df.shape), methods, np.where(methods > 2, _rounded(df), df))
    values = [
        critical(alpha, many, one) if one > 0 else inf
        for alpha, many, one in zip(*(array.ravel().tolist() for array in each), strict=True)
    ]
    return np.array(values).reshape(df.shape)


def _rounded(df: Floats) -> Floats:
    """Down to two digits, so that few tables are made; at least 0.1."""
    within = np.clip(df, 0.1, 1e4)
    step = 10.0 ** (np.floor(np.log10(within)) - 1)
    coarse = np.maximum(np.round(np.floor(within / step + 1e-6) * step, 6), 0.1)
    return np.where(df >= 1e4, inf, np.where(df > 0, coarse, df))


@cache
def _table(methods: int, df: float) -> tuple[Floats, Floats]:
    """Logarithms of t, rising, and of p, falling."""
    log_t, log_p = _normal(methods)
    if not isinf(df):
        spreads, shares = _spreads(df)
        at = np.log(POINTS)[:, None] + np.log(spreads)  # of t s, for each t and s
        log_p = np.log(np.exp(np.interp(at, log_t, log_p)) @ shares)
        log_t = np.log(POINTS)
        slope = min((log_p[-1] - log_p[-2]) / (log_t[-1] - log_t[-2]), -1e-3)
        far = log_t[-1] + np.log(1e6)
        log_t, log_p = np.append(log_t, far), np.append(log_p, log_p[-1] + slope * np.log(1e6))
    return log_t, np.minimum.accumulate(log_p - np.arange(len(log_p)) * 1e-12)


@cache
def _normal(methods: int) -> tuple[Floats, Floats]:
    """With the standard error known: M times the integral over where the highest mean lies."""
    t = np.geomspace(1e-6, 30, 500)
    z = np.linspace(-9, 9, 721)
    below = special.ndtr(z)
    inside = np.clip(special.ndtr(z - t[:, None] * np.sqrt(2)) / below, 0, 1 - 1e-16)
    density = methods * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * below ** (methods - 1)
    beyond = -special.expm1((methods - 1) * special.log1p(-inside))
    p = np.clip((beyond * density).sum(axis=1) * (z[1] - z[0]), 1e-300, 1.0)
    return np.log(t), np.log(p)


def _spreads(df: float) -> tuple[Floats, Floats]:
    """Values of an estimated standard error over the true one, and their probabilities."""
    lowest = np.sqrt(2 * special.gammaincinv(df / 2, 1e-20) / df)
    highest = np.sqrt(2 * special.gammainccinv(df / 2, 1e-20) / df)
    edges = np.geomspace(max(lowest, 1e-12), highest, 600)
    shares = np.diff(special.gammainc(df / 2, df * edges**2 / 2))
    return np.sqrt(edges[1:] * edges[:-1]), shares / shares.sum()
