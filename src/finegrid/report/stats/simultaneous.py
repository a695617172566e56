"""All methods of a ranking compared with one another at once.

At most 1 - level of all rankings of equal methods call any of them worse, whichever leads: the
critical values are those of the range of M means (Tukey), so all the intervals hold together, also
those with the best, which the same data chose.

Three seeds say little about their own spread. A method's variance is drawn towards the mean one of
its ranking, the less the more unlike the methods' spreads may be (their estimated unlikeness, after
Smyth 2004, doi 10.2202/1544-6115.1027, and one standard error of that), and never downwards.
benchmarks/verdict_size.py measures what this gives; no other ranking has a say in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

from finegrid.report.stats import studentized
from finegrid.report.stats.significance import LEAST_P, Scores

Floats = NDArray[np.float64]
LENT = 1.5  # methods' worth of degrees of freedom that a ranking of three or more does not have


@dataclass(frozen=True)
class Spread:
    """A method's variance over seeds, as its ranking knows it."""

    variance: float  # of one run, seeds' common luck apart; nan if no method has two seeds
    df: float
    most: float  # degrees of freedom of a difference at most
    methods: int  # in the ranking


@dataclass(frozen=True)
class Part:
    """A source of chance in all differences: variances and degrees of freedom, M x M."""

    chance: str  # `seeds` or `rows`
    variance: Floats
    df: Floats


@dataclass(frozen=True)
class Pairs:
    """Each of M cells less each other one, M x M: row less column."""

    difference: Floats  # nan without common seeds
    parts: tuple[Part, ...]
    methods: NDArray[np.int64]  # compared at once
    seeds: NDArray[np.int64]  # in common

    def half(self, level: float = 0.95) -> Floats:
        """Half-widths of the simultaneous intervals; infinite where nothing is known of chance."""
        squares = np.zeros_like(self.difference)
        for part in self.parts:
            reached = studentized.criticals(1 - level, self.methods, part.df)
            squares += np.where(part.variance > 0, part.variance * reached**2, 0)
        unknown = (self.variance <= 0) & (self.difference != 0)
        return np.where(unknown, inf, np.sqrt(squares))

    def above(self, level: float = 0.95) -> NDArray[np.bool_]:
        """Whether the row is told apart from the column and better."""
        return np.asarray(self.difference > self.half(level))

    @property
    def variance(self) -> Floats:
        """Of each difference."""
        return reduce(np.add, (part.variance for part in self.parts), 0 * self.difference)

    def p(self, row: int, column: int, *, alone: bool = False) -> float:
        """Probability of so large a difference of equals, or of the only two; nan if not tested."""
        parts = [(p.variance[row, column], p.df[row, column]) for p in self.parts]
        parts = [(variance, df) for variance, df in parts if variance > 0]
        distance = abs(float(self.difference[row, column]))
        if not parts or not distance > 0:
            return 1.0 if self.parts and distance == 0 else nan
        methods = 2 if alone else int(self.methods[row, column])
        se = sqrt(sum(variance for variance, _ in parts))
        if len(parts) == 1:
            return studentized.exceeded(distance / se, methods, parts[0][1])
        return _smallest(parts, distance, methods)

    def scaled(self, by: float) -> "Pairs":
        """The differences times a factor."""
        parts = tuple(Part(p.chance, p.variance * by**2, p.df) for p in self.parts)
        return Pairs(self.difference * by, parts, self.methods, self.seeds)

    def plus(self, other: "Pairs") -> "Pairs":
        """Sums of independent differences, such as of two tasks."""
        methods, seeds = np.maximum(self.methods, other.methods), self.seeds + other.seeds
        total = self.difference + other.difference
        return Pairs(total, (*self.parts, *other.parts), methods, seeds)


def _smallest(parts: Sequence[tuple[float, float]], distance: float, methods: int) -> float:
    """The p at which the interval just reaches 0, by bisection of its logarithm."""
    low, high = LEAST_P, 1.0
    for _ in range(40):
        p = sqrt(low * high)
        half = sum(v * studentized.critical(p, methods, df) ** 2 for v, df in parts)
        low, high = (p, high) if half > distance**2 else (low, p)
    return high


def pairs(cells: Sequence[Scores], spreads: Sequence[Spread]) -> Pairs:
    """All differences over common seeds; cells of several rankings are on the same test rows."""
    values, present = _by_seed(cells)
    sums = values @ present.T
    common = present @ present.T
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = (sums - sums.T) / common
    parts = [_over_seeds(spreads, common), _over_rows(cells, common)]
    counts = np.array([spread.methods for spread in spreads], int)
    return Pairs(
        np.where(common > 0, difference, nan),
        tuple(part for part in parts if part is not None),
        np.maximum(counts[:, None], counts),
        common.astype(int),
    )


def _by_seed(cells: Sequence[Scores]) -> tuple[Floats, Floats]:
    """Values and whether they are there, M x seeds; 0 where not."""
    seeds = sorted({seed for cell in cells for seed in cell.seeds})
    values, present = np.zeros((2, len(cells), len(seeds)))
    for row, cell in enumerate(cells):
        at = np.searchsorted(seeds, cell.seeds)
        values[row, at], present[row, at] = cell.values, 1
    return values, present


def _over_seeds(spreads: Sequence[Spread], common: Floats) -> Part | None:
    """Welch and Satterthwaite's degrees of freedom, and not more than the ranking has."""
    own = np.array([spread.variance for spread in spreads])
    if np.isnan(own).all():
        return None
    df, most = np.array([(spread.df, spread.most) for spread in spreads]).T
    own = np.nan_to_num(own)
    total = own[:, None] + own
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (own[:, None] ** 2 / df[:, None] + own**2 / df) / total**2
        freedom = np.where(total > 0, 1 / shares, 1.0)
        variance = np.where(common > 0, total / common, 0.0)
    return Part("seeds", variance, np.clip(freedom, 1.0, np.minimum(most[:, None], most)))


def _over_rows(cells: Sequence[Scores], common: Floats) -> Part | None:
    """From scores on the same resampled rows; else as if the two erred on unrelated rows."""
    rows = np.array([max(cell.rows, 2) for cell in cells], float)
    means = [resampled_mean(cell) for cell in cells]
    least = min((len(mean) for mean in means if mean is not None), default=0)
    known = np.array([mean is not None for mean in means])
    drawn = np.stack([np.zeros(least) if mean is None else mean[:least] for mean in means])
    own = np.array([cell.of_rows for cell in cells])
    together = np.zeros((len(cells), len(cells)))
    if least > 1:
        together = np.atleast_2d(np.cov(drawn)) * (rows / (rows - 1))
        own = np.where(known, np.diag(together), own)
    variance = np.maximum(own[:, None] + own - 2 * together, 0.0)
    told = (own > 0) | known  # whether anything is known of its rows
    variance = np.where(told[:, None] & told & (common > 0), variance, 0.0)
    if not told.any():
        return None
    return Part("rows", variance, np.minimum(rows[:, None], rows) - 1)


def row_variance(cell: Scores) -> float:
    """Of the mean over seeds, over test rows; 0 if unknown."""
    mean = resampled_mean(cell)
    return cell.of_rows if mean is None else float(mean.var(ddof=1)) * cell.rows / (cell.rows - 1)


def resampled_mean(cell: Scores) -> Floats | None:
    """Mean over the seeds whose predictions are known, on each draw of rows."""
    if cell.resampled is None or np.isnan(cell.resampled[0]).all():
        return None
    return np.asarray(np.nanmean(cell.resampled, axis=1, dtype=float))


def spreads(cells: Sequence[Scores]) -> list[Spread]:
    """Each method's variance over seeds, drawn towards the mean one of a ranking."""
    counts = np.array([len(cell.seeds) for cell in cells])
    several = counts > 1
    methods, many = len(cells), int(several.sum())
    if not many:
        return [Spread(nan, nan, nan, methods)] * methods
    own, df = np.full(methods, nan), np.where(several, counts - 1.0, nan)
    own[several] = _residual([cell for cell, one in zip(cells, several, strict=True) if one])
    mean = float(np.average(own[several], weights=df[several]))
    prior = _prior(own[several], df[several], mean)
    usual = float(np.mean(df[several]))
    drawn = (prior * mean + np.nan_to_num(df * own)) / (prior + np.nan_to_num(df) + 1e-12)
    variances = np.where(several, np.fmax(drawn, own), mean)
    share = 1 - 1 / many if many > 1 else 0.5  # what the seeds' common luck leaves
    freedom = share * np.where(several, prior + df, max(prior, usual))
    most = usual * (many - LENT if many > 2 else 1.0)
    return [
        Spread(float(v), float(f), most, methods) for v, f in zip(variances, freedom, strict=True)
    ]


def _residual(cells: Sequence[Scores]) -> Floats:
    """Variances over seeds, less what all methods of a seed have in common.

    Mixes into each method's variance a share of the others', 1 / (M - 1): of two methods it is half
    the variance of their paired difference.
    """
    values, present = _by_seed(cells)
    sizes = present.sum(axis=1)
    rest = np.where(present > 0, values - (values.sum(axis=1) / sizes)[:, None], 0)
    beside = present.sum(axis=0)  # methods of each seed
    shared = beside > 1
    rest -= np.where(shared, rest.sum(axis=0) / beside, 0) * present
    made_up = np.where(shared, beside / np.maximum(beside - 1, 1), 1)
    return np.asarray((rest**2 * made_up).sum(axis=1) / (sizes - 1))


def _prior(own: Floats, df: Floats, mean: float) -> float:
    """How many degrees of freedom the mean variance lends to each method."""
    if len(own) < 3 or not mean > 0:
        return 0.0
    logs = np.log(np.maximum(own, 1e-3 * mean)) - special.digamma(df / 2) + np.log(df / 2)
    chance = float(special.zeta(2, df / 2).mean())  # the trigamma function
    tails = float(6 * special.zeta(4, df / 2).mean())  # its second derivative
    error = sqrt(2 * chance**2 / (len(own) - 1) + tails / len(own))
    unlike = max(float(logs.var(ddof=1)) - chance, 0.0) + error
    return 2 * _inverse_trigamma(unlike)


def _inverse_trigamma(value: float) -> float:
    low, high = 1e-6, 1e6
    for _ in range(40):
        middle = sqrt(low * high)
        too_low = float(special.zeta(2, middle)) > value
        low, high = (middle, high) if too_low else (low, middle)
    return high
