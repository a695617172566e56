"""Each method's variance over seeds, shrunken towards the mean one of its ranking (as in limma).

Three seeds say little about their own spread. The prior weighs the less the more unlike the
methods' spreads may be (their estimated unlikeness, after Smyth 2004, doi 10.2202/1544-6115.1027,
and one standard error of that), and no variance is shrunken downwards. benchmarks/verdict_size.py
measures what this gives; no other ranking has a say in it. M methods, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from scipy import special

from finegrid.report.stats.paired import Scores
from finegrid.report.stats.significance import Floats, falling_root

LENT = 1.5  # methods' worth of degrees of freedom that a ranking of three or more does not have


@dataclass(frozen=True)
class Spread:
    """A method's variance over seeds, as its ranking knows it."""

    variance: float  # of one run, seeds' common luck apart; nan if no method has two seeds
    df: float
    most: float  # degrees of freedom of a difference at most
    methods: int  # in the ranking


def spreads(cells: Sequence[Scores]) -> list[Spread]:
    """The shrunken variance of each cell of a ranking; one seed has that of the others."""
    counts = np.array([len(cell.seeds) for cell in cells])
    several = counts > 1
    methods, many = len(cells), int(several.sum())
    if not many:
        return [Spread(nan, nan, nan, methods)] * methods
    df = np.where(several, counts - 1.0, 0.0)
    variance = np.zeros(methods)
    variance[several] = residual([cell for cell in cells if len(cell.seeds) > 1])
    mean = float(np.average(variance, weights=df))
    prior, usual = _prior_df(variance[several], df[several], mean), float(df[several].mean())
    shrunken = (prior * mean + df * variance) / (prior + df + 1e-12)
    variances = np.where(several, np.maximum(shrunken, variance), mean)
    share = 1 - 1 / many if many > 1 else 0.5  # what the seeds' common luck leaves
    freedom = share * np.where(several, prior + df, max(prior, usual))
    most = usual * (many - LENT if many > 2 else 1.0)
    pairs = zip(variances.tolist(), freedom.tolist(), strict=True)
    return [Spread(size, free, most, methods) for size, free in pairs]


def residual(cells: Sequence[Scores]) -> Floats:
    """Variances over seeds, less what all methods of a seed have in common.

    Mixes into each method's variance a share of the others', 1 / (M - 1): of two methods it is half
    the variance of their paired difference.
    """
    values, present = by_seed(cells)
    sizes = present.sum(axis=1)
    rest = np.where(present > 0, values - (values.sum(axis=1) / sizes)[:, None], 0)
    beside = present.sum(axis=0)  # methods of each seed
    shared = beside > 1
    rest -= np.where(shared, rest.sum(axis=0) / beside, 0) * present
    made_up = np.where(shared, beside / np.maximum(beside - 1, 1), 1)
    return np.asarray((rest**2 * made_up).sum(axis=1) / (sizes - 1))


def by_seed(cells: Sequence[Scores]) -> tuple[Floats, Floats]:
    """Values and whether they are there, M x S of all seeds; 0 where not."""
    seeds = sorted({seed for cell in cells for seed in cell.seeds})
    values, present = np.zeros((2, len(cells), len(seeds)))
    for row, cell in enumerate(cells):
        at = np.searchsorted(seeds, cell.seeds)
        values[row, at], present[row, at] = cell.values, 1
    return values, present


def _prior_df(variances: Floats, df: Floats, mean: float) -> float:
    """How many degrees of freedom the mean variance lends to each method."""
    if len(variances) < 3 or not mean > 0:
        return 0.0
    logs = np.log(np.maximum(variances, 1e-3 * mean)) - special.digamma(df / 2) + np.log(df / 2)
    chance = float(special.zeta(2, df / 2).mean())  # the trigamma function
    tails = float(6 * special.zeta(4, df / 2).mean())  # its second derivative
    error = sqrt(2 * chance**2 / (len(variances) - 1) + tails / len(variances))
    unlike = max(float(logs.var(ddof=1)) - chance, 0.0) + error
    return 2 * falling_root(lambda df: float(special.zeta(2, df)), unlike, 1e-6, 1e6)
