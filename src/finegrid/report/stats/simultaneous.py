"""All methods of a ranking compared with one another at once.

At most 1 - level of all rankings of equal methods call any of them worse, whichever leads: the
critical values are those of the range of M means (Tukey), so all the intervals hold together, also
those with the best, which the same data chose. Chance of seeds and of rows are put together as
Banerjee (1960) does: the squares of the half-widths add up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from finegrid.report.stats import studentized
from finegrid.report.stats.paired import Scores, variance_over_rows
from finegrid.report.stats.shrunken_variance import Spread, by_seed
from finegrid.report.stats.significance import LEAST_P, Floats, detectable, falling_root


@dataclass(frozen=True)
class ErrorSource:
    """A source of chance in all differences: variances and degrees of freedom, M x M."""

    chance: str  # `seeds` or `rows`
    variance: Floats
    df: Floats


@dataclass(frozen=True)
class Pairs:
    """Each of M cells less each other one, M x M: row less column."""

    difference: Floats  # nan without common seeds
    sources: tuple[ErrorSource, ...]
    methods: NDArray[np.int64]  # compared at once
    seeds: NDArray[np.int64]  # in common

    def half(self, level: float | Floats = 0.95) -> Floats:
        """Half-widths of the simultaneous intervals; infinite where nothing is known of chance.

        level: of all, or of each, M x M.
        """
        squares = np.zeros_like(self.difference)
        for source in self.sources:
            critical = studentized.criticals(1 - level, self.methods, source.df)
            squares += np.where(source.variance > 0, source.variance * critical**2, 0)
        unknown = (self.variance <= 0) & (self.difference != 0)
        return np.where(unknown, inf, np.sqrt(squares))

    def above(self, level: float | Floats = 0.95) -> NDArray[np.bool_]:
        """Whether the row is told apart from the column and better."""
        return np.asarray(self.difference > self.half(level))

    @property
    def variance(self) -> Floats:
        """Of each difference."""
        return sum((source.variance for source in self.sources), 0 * self.difference)

    def of(self, row: int, column: int) -> list[tuple[float, float]]:
        """Variance and degrees of freedom of one difference, a pair a source of chance."""
        each = [(one.variance[row, column], one.df[row, column]) for one in self.sources]
        return [(variance, df) for variance, df in each if variance > 0]

    def detectable(self, row: int, column: int, half: float) -> float:
        """The true difference that an interval of this half-width would tell apart in 80 %.

        By the degrees of freedom of Welch and Satterthwaite; nan without a test.
        """
        parts = self.of(row, column)
        total = sum(variance for variance, _ in parts)
        if not (total > 0 and half > 0):
            return nan
        df = total**2 / sum(variance**2 / df for variance, df in parts)
        return detectable(sqrt(total), df=df, critical=half / sqrt(total))

    def p(self, row: int, column: int, *, alone: bool = False) -> float:
        """Probability of so large a difference of equals, or of the only two; nan if not tested."""
        parts = self.of(row, column)
        distance = abs(float(self.difference[row, column]))
        if not parts or not distance > 0:
            return 1.0 if self.sources and distance == 0 else nan
        methods = 2 if alone else int(self.methods[row, column])
        se = sqrt(sum(variance for variance, _ in parts))
        if len(parts) == 1:
            return studentized.exceeded(distance / se, methods, parts[0][1])

        of_parts = [(v, studentized.criticals_of(methods, df)) for v, df in parts]

        def squared_half(p: float) -> float:
            return sum(variance * critical(p) ** 2 for variance, critical in of_parts)

        return falling_root(squared_half, distance**2, LEAST_P, 1.0)

    def scaled(self, by: float) -> "Pairs":
        """The differences times a factor."""
        sources = tuple(replace(one, variance=one.variance * by**2) for one in self.sources)
        return replace(self, difference=self.difference * by, sources=sources)

    def plus(self, other: "Pairs") -> "Pairs":
        """Sums of independent differences, such as of two tasks."""
        methods, seeds = np.maximum(self.methods, other.methods), self.seeds + other.seeds
        total = self.difference + other.difference
        return Pairs(total, (*self.sources, *other.sources), methods, seeds)


def pairs(cells: Sequence[Scores], spreads: Sequence[Spread]) -> Pairs:
    """All differences over common seeds; cells of several rankings are on the same test rows."""
    values, present = by_seed(cells)
    sums = values @ present.T
    common = present @ present.T
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = (sums - sums.T) / common
    counts = np.array([spread.methods for spread in spreads], int)
    return Pairs(
        np.where(common > 0, difference, nan),
        (*_over_seeds(spreads, common), *_over_rows(cells, common)),
        np.maximum(counts[:, None], counts),
        common.astype(int),
    )


def _over_seeds(spreads: Sequence[Spread], common: Floats) -> Iterator[ErrorSource]:
    """Welch and Satterthwaite's degrees of freedom, and not more than the ranking has."""
    variance = np.array([spread.variance for spread in spreads])
    if np.isnan(variance).all():
        return
    df, most = np.array([(spread.df, spread.most) for spread in spreads]).T
    variance = np.nan_to_num(variance)
    total = variance[:, None] + variance
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (variance[:, None] ** 2 / df[:, None] + variance**2 / df) / total**2
        freedom = np.where(total > 0, 1 / shares, 1.0)
        of_mean = np.where(common > 0, total / common, 0.0)
    most = np.minimum(most[:, None], most)
    yield ErrorSource("seeds", of_mean, np.clip(freedom, 1.0, most))


def _over_rows(cells: Sequence[Scores], common: Floats) -> Iterator[ErrorSource]:
    """From scores on the same resampled rows; else as if the two erred on unrelated rows."""
    rows = np.array([max(cell.rows, 2) for cell in cells], float)
    means = [resampled_mean(cell) for cell in cells]
    draws = min((len(mean) for mean in means if mean is not None), default=0)
    resampled = np.array([mean is not None for mean in means])
    variance = np.array([cell.of_rows for cell in cells])
    known = (variance > 0) | resampled
    if not known.any():
        return
    covariance = np.zeros((len(cells), len(cells)))
    if draws > 1:
        drawn = np.stack([np.zeros(draws) if mean is None else mean[:draws] for mean in means])
        covariance = np.atleast_2d(np.cov(drawn)) * (rows / (rows - 1))
        variance = np.where(resampled, np.diag(covariance), variance)
    of_difference = np.maximum(variance[:, None] + variance - 2 * covariance, 0.0)
    tested = known[:, None] & known & (common > 0)
    df = np.minimum(rows[:, None], rows) - 1
    yield ErrorSource("rows", np.where(tested, of_difference, 0.0), df)


def row_variance(cell: Scores) -> float:
    """Of the mean over seeds, over test rows; 0 if unknown."""
    mean = resampled_mean(cell)
    return cell.of_rows if mean is None else variance_over_rows(mean[:, None], cell.rows)


def resampled_mean(cell: Scores) -> Floats | None:
    """Mean over the seeds whose predictions are known, on each draw of rows."""
    if cell.resampled is None or np.isnan(cell.resampled[0]).all():
        return None
    return np.asarray(np.nanmean(cell.resampled, axis=1, dtype=float))
