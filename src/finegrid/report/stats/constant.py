"""The baseline that a method must beat to have learned anything: the best constant prediction.

The majority class of the test labels, or whichever single class scores highest in the task's own
metric (for F1 that may be the rare one); a constant value, whose correlation is 0, in a regression.
Where it is not known, as of generated texts, 0 stands for it: no metric here gives a constant less.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from finegrid.report.stats import sums
from finegrid.report.stats.bootstrap import METRICS, Resampler, Statistics
from finegrid.report.stats.paired import Scores, variance_over_rows

LEVEL = 0.05
UNDEFINED = {"matthews", "pearson", "spearman"}  # of a constant; counted as 0


@dataclass(frozen=True)
class Baseline:
    """The score of a constant prediction, and those on resampled rows if labels are known."""

    score: float
    resampled: NDArray[np.floating] | None = None  # D
    known: bool = True  # false: the best constant may score more


def baseline(
    runs: pd.DataFrame,
    metrics: tuple[str, ...],
    resampler: Resampler | None,
    statistics: Statistics,
) -> Baseline | None:
    """Of a ranking's test set; none if nothing is known, not even what its metrics are.

    `statistics`: of any run on it.
    """
    if metrics and set(metrics) <= UNDEFINED:
        return Baseline(0.0)
    if resampler is not None and set(metrics) <= {*METRICS, *sums.OF_LABELS}:
        labels = resampler.labels
        constant = np.repeat(np.unique(labels)[:, None], len(labels), axis=1)
        right = [dict.fromkeys(sums.OF_LABELS, (one == labels)[:, None]) for one in constant]
        scores = resampler.scores(constant, right)
        best = int(scores[0].argmax())
        return Baseline(float(scores[0, best]), scores[1:, best])
    if resampler is not None and (best_row := _best(metrics, statistics, len(resampler.labels))):
        scores = resampler.scores(resampler.labels[None], [best_row])
        return Baseline(float(scores[0, 0]), scores[1:, 0])
    constants = runs.loc[runs["degenerate"].eq(True), "test"]
    if len(constants):
        return Baseline(float(constants.max()))
    return Baseline(0.0, known=False) if metrics else None


def _best(metrics: tuple[str, ...], statistics: Statistics, rows: int) -> Statistics | None:
    """The statistics of the constant prediction that scores best, if it is known."""
    names = {sums.METRICS[name].statistic for name in metrics if name in sums.METRICS}
    if len(names) != 1 or not all(name in sums.METRICS for name in metrics):
        return None
    (name,) = names
    every = sums.constants(name, statistics[name].astype(float))

    totals = [one.sum(0) for one in every]
    scores = [sum(float(sums.METRICS[x].of(one, rows)) for x in metrics) for one in totals]
    return {name: every[int(np.argmax(scores))]} if every else None


def learned(runs: pd.DataFrame, scores: Scores, constant: Baseline | None) -> bool:
    """Whether a method predicts no constant and is better than one, tested on rows at 5 %."""
    if runs["degenerate"].eq(True).all():
        return False
    if constant is None:
        return True
    above = float(scores.values.mean()) - constant.score
    variance = _variance(scores, constant)
    if above <= 0 or not variance > 0:
        return above > 0
    return float(special.stdtr(scores.rows - 1.0, -above / variance**0.5)) < LEVEL


def _variance(scores: Scores, constant: Baseline) -> float:
    """Over test rows, of the mean over seeds less the constant's score."""
    if scores.resampled is None:  # the constant's score as it is: easy rows help both
        return scores.of_rows
    means = np.nanmean(scores.resampled, axis=1, dtype=float)
    less = means if constant.resampled is None else means - constant.resampled
    return variance_over_rows(less[:, None], scores.rows)
