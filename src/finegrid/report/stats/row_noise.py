"""Standard error of a score over test rows, from the score and the number of rows alone.

For runs whose predictions are not at hand. Delta-method variances; where they depend on what is not
recorded (how frequent the classes are) a value on the large side is taken.
"""

from collections.abc import Callable
from math import sqrt

import pandas as pd

RARE = 0.25  # share of rows that are of F1's class, or are called so, if nothing tells
UNEVEN = 0.16  # share of a class times that of the rest, if nothing tells: 80 to 20 rows


def variance(runs: pd.DataFrame, metrics: tuple[str, ...], rows: int) -> float:
    """Of the mean score of a cell's runs over test rows; 0 if nothing can be said.

    A mean of several metrics is taken as if they strayed together, and so are the runs.
    """
    if not metrics or rows < 2:
        return 0.0
    means = {name: _mean(runs, name, len(metrics) == 1) for name in {*metrics, "accuracy"}}
    if any(means[name] is None for name in metrics):
        return 0.0
    errors = [
        sqrt(VARIANCES[name](means[name] or 0.0, means["accuracy"], rows)) for name in metrics
    ]
    return (sum(errors) / len(errors)) ** 2


def _mean(runs: pd.DataFrame, metric: str, alone: bool) -> float | None:
    column = f"test/{metric}"
    if column in runs and runs[column].notna().any():
        return float(runs[column].mean())
    headline = alone and str(runs["metric"].iloc[0]) == metric
    return float(runs["test"].mean()) if headline else None


def _accuracy(score: float, _: float | None, rows: int) -> float:
    share = _inside(score, rows)
    return share * (1 - share) / rows


def _f1(score: float, accuracy: float | None, rows: int) -> float:
    """Of n rows that are of the class or called so a share J = F / (2 - F) is both."""
    f = _inside(score, rows)
    wrong = rows * (1 - _inside(accuracy, rows)) if accuracy is not None else None
    either = RARE * rows if wrong is None else wrong * (2 - f) / (2 * (1 - f))
    return (2 - f) ** 2 * f * (1 - f) / (2 * min(max(either, 4.0), float(rows)))


def _of_sums(score: float, _: float | None, rows: int) -> float:
    """Of what is made of counts in rows: as F1 where nothing else is known."""
    return _f1(score, None, rows)


def _matthews(score: float, accuracy: float | None, rows: int) -> float:
    """Of a phi coefficient, classes as frequent among predictions as among labels."""
    phi = min(max(score, 0.0), 0.999)
    even = UNEVEN if accuracy is None else (1 - accuracy) / (2 * (1 - phi))
    skew = 1 / min(max(even, 0.03), 0.25) - 4
    return (1 - phi**2 + skew * phi * (1 - phi) * (1 - phi / 2)) / rows


def _correlation(score: float, _: float | None, rows: int) -> float:
    """Bonett and Wright's for ranks, a little above Fisher's for values."""
    r = min(abs(score), 0.9999)
    return (1 + r**2 / 2) * (1 - r**2) ** 2 / max(rows - 3, 1)


def _inside(share: float, rows: int) -> float:
    """Two rows right and two wrong more: never quite 0 or 1."""
    return (min(max(share, 0.0), 1.0) * rows + 2) / (rows + 4)


VARIANCES: dict[str, Callable[[float, float | None, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _correlation,
    "spearman": _correlation,
    "accuracy_norm": _accuracy,
    "exact_match": _accuracy,
    **dict.fromkeys(
        ("micro_f1", "macro_f1", "entity_f1", "entity_precision", "entity_recall"), _of_sums
    ),
    **dict.fromkeys(("bleu", "rouge_l", "slot_accuracy"), _of_sums),
}
