"""Bootstrap over test rows: the metrics of predictions on many resampled test sets at once.

N rows, D draws, S runs. A draw is N rows with replacement, kept as how often each row is in it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from finegrid.errors import UserError
from finegrid.report.stats import sums

MEAN = "mean"  # the headline metric of a task with several: their mean
CELLS = 24_000_000  # of draws x rows at most, 4 bytes each; large test sets get fewer draws
LEAST = 200  # draws, whatever the rows: a standard error known to 5 %
Floats = NDArray[np.floating]
Statistics = Mapping[str, NDArray[np.generic]]  # of one run: name -> N K, see `sums`


class Resampler:
    """One test set's draws of rows; they are the same for every method scored on it."""

    def __init__(
        self,
        labels: NDArray[np.generic],
        metrics: Sequence[str],
        *,
        positive: int | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> None:
        """Draw the rows.

        Args:
            labels: of the N rows: classes, or values for a regression.
            metrics: names of tasks.METRICS; a run's score is their mean.
            positive: the class that F1 is of; else 1 of two, or the mean over all.

        Raises:
            UserError: if a metric is unknown.
        """
        known = (*METRICS, *sums.METRICS)
        unknown = [name for name in metrics if name not in known]
        if unknown:
            raise UserError(f"metric {unknown[0]} cannot be resampled; known: {', '.join(known)}")
        self.labels, self.metrics, self.positive = labels, tuple(metrics), positive
        rows = len(labels)
        draws = max(LEAST, min(draws, CELLS // rows))
        rng = np.random.default_rng(seed)
        self.weights = np.ones((rows, 1 + draws), np.float32)  # N 1+D, the first draw: each once
        for draw in range(1, 1 + draws):
            drawn = rng.integers(rows, size=rows)
            self.weights[:, draw] = np.bincount(drawn, minlength=rows)

    def __call__(
        self, predictions: NDArray[np.generic], statistics: Sequence[Statistics] = ()
    ) -> Floats:
        """Scores on every draw, D x S, of predictions S x N or the S runs' statistics."""
        return self.scores(predictions, statistics)[1:]

    def scores(
        self, predictions: NDArray[np.generic], statistics: Sequence[Statistics] = ()
    ) -> Floats:
        """Scores on the rows as they are, then on every draw: 1 + D x S."""
        scores = [
            self._of_sums(sums.METRICS[name], statistics)
            if name in sums.METRICS
            else METRICS[name](self, predictions)
            for name in self.metrics
        ]
        return np.asarray(sum(scores[1:], scores[0]) / len(scores))

    def _of_sums(self, metric: sums.Metric, statistics: Sequence[Statistics]) -> Floats:
        """A metric that follows from sums over rows: 1 + D x S."""
        rows = len(self.labels)
        each = [self.weights.T @ one[metric.statistic].astype(np.float32) for one in statistics]
        return np.stack([metric.of(one.astype(np.float64), rows) for one in each], axis=1)

    def counts(self, of: NDArray[np.bool_]) -> Floats:
        """How many rows of each draw are among some of the rows: 1+D x S from S x N."""
        return (of.astype(np.float32) @ self.weights).T.astype(np.float64)

    @cached_property
    def classes(self) -> list[int]:
        """The label's classes."""
        return sorted(set(self.labels.tolist()))

    @cached_property
    def of_class(self) -> dict[int, Floats]:
        """Class -> how many rows of each draw are of it: 1+D x 1."""
        return {name: self.counts((self.labels == name)[None]) for name in self.classes}

    @cached_property
    def weighted_ranks(self) -> Floats:
        """Mid-ranks of the labels within each draw, less their mean, times the weights: N x 1+D."""
        order, first, group = _ties(self.labels)
        sums = _grouped(self.weights[order], first, group)
        half = sums / 2
        ranks = np.empty_like(self.weights)
        ranks[order] = (_accumulated(sums) - half)[group]
        return ranks * self.weights

    @cached_property
    def spread(self) -> Floats:
        """Sum of the squares of the centred mid-ranks of values without ties, by draw."""
        return _spread(self.weights)

    @cached_property
    def label_spread(self) -> Floats:
        """Sum of the squares of the labels' centred mid-ranks, by draw."""
        order, first, group = _ties(self.labels)
        return _spread(_grouped(self.weights[order], first, group))


def _ties(values: NDArray[np.generic]) -> tuple[NDArray[np.intp], ...]:
    """Order of values, where each group of equal ones begins in it, and each place's group."""
    order = np.argsort(values, kind="stable")
    begins = np.r_[True, np.diff(values[order]) != 0]
    return order, np.flatnonzero(begins), np.cumsum(begins) - 1


def _accumulated(sums: Floats) -> Floats:
    """Cumulative sums of groups less N / 2, in place; less half of a group: its centred mid-rank.

    Row by row, which is five times as fast as numpy's cumsum along this axis.
    """
    sums[0] -= sums.sum(axis=0) / 2
    for above, row in itertools.pairwise(sums):
        np.add(above, row, out=row)
    return sums


def _spread(sums: Floats) -> Floats:
    """Sum of squared centred mid-ranks: (N^3 - N) / 12 less (g^3 - g) / 12 for each group."""
    rows = sums.sum(axis=0, dtype=np.float64)
    return np.asarray((rows**3 - np.einsum("gd,gd,gd->d", sums, sums, sums)) / 12)


def _accuracy(draws: Resampler, predictions: NDArray[np.generic]) -> Floats:
    return np.asarray(draws.counts(predictions == draws.labels) / len(draws.labels))


def _f1(draws: Resampler, predictions: NDArray[np.generic]) -> Floats:
    """Of the positive class or, of two, class 1; else the mean over the classes that occur."""
    if draws.positive is not None:
        return _f1_of(draws, predictions, draws.positive)
    classes = sorted({*draws.classes, *np.unique(predictions).tolist()})
    if set(classes) <= {0, 1}:
        return _f1_of(draws, predictions, 1)
    each = np.stack([_f1_of(draws, predictions, name, absent=np.nan) for name in classes])
    return np.asarray(np.nanmean(each, axis=0))


def _f1_of(
    draws: Resampler, predictions: NDArray[np.generic], name: int, *, absent: float = 0.0
) -> Floats:
    """2 TP / (rows predicted so + rows labelled so); `absent` where there are none of either."""
    predicted = predictions == name
    both = draws.counts(predicted & (draws.labels == name))
    either = draws.counts(predicted) + draws.of_class.get(name, 0.0)
    scores = np.full_like(both, absent)
    np.divide(2 * both, either, out=scores, where=either > 0)
    return scores


def _matthews(draws: Resampler, predictions: NDArray[np.generic]) -> Floats:
    """Gorodkin's R_K from each draw's confusion counts; 0 where it is undefined."""
    rows = float(len(draws.labels))
    correct = draws.counts(predictions == draws.labels)
    cross, of_predicted, of_labels = np.zeros((3, *correct.shape))
    for name in sorted({*draws.classes, *np.unique(predictions).tolist()}):
        predicted = draws.counts(predictions == name)
        labelled = draws.of_class.get(name, np.zeros(1))
        cross += predicted * labelled
        of_predicted += predicted**2
        of_labels += labelled**2
    scale = np.sqrt((rows**2 - of_predicted) * (rows**2 - of_labels))
    scores = np.zeros_like(correct)
    np.divide(correct * rows - cross, scale, out=scores, where=scale > 0)
    return scores


def _pearson(draws: Resampler, predictions: NDArray[np.generic]) -> Floats:
    """From weighted sums of what is centred first, for the sake of precision."""
    y = draws.labels.astype(float)
    y = ((y - y.mean()) / (y.std() or 1.0))[None]
    x = predictions.astype(float)
    spread = x.std(axis=1, keepdims=True)
    x = (x - x.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    sums = [_sum(draws, values) for values in (x, y, x * y, x * x, y * y)]
    x1, y1, xy, xx, yy = (total / len(draws.labels) for total in sums)
    return _ratio(xy - x1 * y1, (xx - x1 * x1) * (yy - y1 * y1))


def _sum(draws: Resampler, values: Floats) -> Floats:
    return (values.astype(np.float32) @ draws.weights).T.astype(np.float64)


def _spearman(draws: Resampler, predictions: NDArray[np.generic]) -> Floats:
    """Pearson's of the mid-ranks, which are taken anew in each draw."""
    scores = np.empty((draws.weights.shape[1], len(predictions)))
    for run, one in enumerate(predictions):
        order, first, group = _ties(one)
        sums = _grouped(draws.weights[order], first, group)
        opposite = _grouped(draws.weighted_ranks[order], first, group)
        spread = draws.spread if len(first) == len(one) else _spread(sums)
        half = np.einsum("gd,gd->d", sums, opposite) / 2
        product = np.einsum("gd,gd->d", _accumulated(sums), opposite) - half
        scores[:, run] = _ratio(product, spread * draws.label_spread)
    return scores


def _grouped(rows: Floats, first: NDArray[np.intp], group: NDArray[np.intp]) -> Floats:
    """Sums of the rows of each group, as `_ties` tells them; a tenth of the time of `reduceat`."""
    sums = rows[first]
    for row in np.flatnonzero(np.diff(group) == 0) + 1:
        sums[group[row]] += rows[row]
    return sums


def _ratio(product: Floats, squares: Floats) -> Floats:
    """A correlation; 0 where one side is constant, as GLUE counts it."""
    constant = squares <= 1e-9
    return np.where(constant, 0.0, product / np.sqrt(np.where(constant, 1.0, squares)))


METRICS: dict[str, Callable[[Resampler, NDArray[np.generic]], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
