"""Metrics that follow from sums over rows, and what a constant prediction scores in them.

A kind of task writes such numbers for each row into predictions.parquet, in the columns
`stat_NAME`: resampled rows have other sums, and so another score. Shapes: K numbers a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
PARTS = 3  # of `classes` and `entities`: predicted and gold, predicted, gold
ORDERS = 4  # of BLEU's n-grams


class Metric(NamedTuple):
    """The statistic that a metric is made of, and how: sums (..., K), rows -> scores (...)."""

    statistic: str
    of: Callable[[Floats, int], Floats]


def _parts(sums: Floats) -> Floats:
    """The three counts apart, by class: 3 ... C."""
    parts: Floats = np.moveaxis(sums.reshape(*sums.shape[:-1], PARTS, -1), -2, 0)
    return parts


def _share(part: Floats, of: Floats) -> Floats:
    """A quotient; 0 of nothing."""
    shares: Floats = np.divide(part, of, out=np.zeros_like(part, dtype=float), where=of > 0)
    return shares


def _micro_f1(sums: Floats, rows: int) -> Floats:
    both, predicted, gold = _parts(sums).sum(-1)
    return _share(2 * both, predicted + gold)


def _macro_f1(sums: Floats, rows: int) -> Floats:
    both, predicted, gold = _parts(sums)
    return np.asarray(_share(2 * both, predicted + gold).mean(-1))


def _precision(sums: Floats, rows: int) -> Floats:
    both, predicted, _ = _parts(sums).sum(-1)
    return _share(both, predicted)


def _recall(sums: Floats, rows: int) -> Floats:
    both, _, gold = _parts(sums).sum(-1)
    return _share(both, gold)


def _mean(sums: Floats, rows: int) -> Floats:
    return np.asarray(sums[..., 0] / rows)


def _bleu(sums: Floats, rows: int) -> Floats:
    """Corpus BLEU as sacrebleu has it: an order without a match counts 1/2, 1/4, ... of one."""
    length, reference = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    missed = np.cumsum((matches == 0) & (totals > 0), axis=-1)
    counted = np.where(matches > 0, matches, 0.5**missed)
    logs = np.log(_share(counted, totals), out=np.full_like(counted, -np.inf), where=totals > 0)
    brevity = np.minimum(0.0, 1 - reference / np.maximum(length, 1e-9))
    scores = np.exp(brevity + logs.mean(-1))
    return np.where(matches.sum(-1) > 0, scores, 0.0)


def _slot_accuracy(sums: Floats, rows: int) -> Floats:
    """1 - (missing + wrong + added) / slots, and not below 0."""
    errors, slots = sums[..., :-1].sum(-1), sums[..., -1]
    return np.where(slots > 0, np.clip(1 - _share(errors, slots), 0, 1), 0.0)


METRICS = {
    "micro_f1": Metric("classes", _micro_f1),
    "macro_f1": Metric("classes", _macro_f1),
    "entity_f1": Metric("entities", _micro_f1),
    "entity_precision": Metric("entities", _precision),
    "entity_recall": Metric("entities", _recall),
    "bleu": Metric("bleu", _bleu),
    "slot_accuracy": Metric("slot_accuracy", _slot_accuracy),
    **{name: Metric(name, _mean) for name in ("exact_match", "rouge_l", "accuracy_norm")},
}


OF_LABELS = ("accuracy_norm",)  # whether an answer is the label: a constant's follow from labels
# Statistic -> the best constant prediction in words
CONSTANTS = {"classes": "the same classes for every row", "entities": "no entity at all"}


def constants(statistic: str, numbers: Floats) -> list[Floats]:
    """The statistic N K of constant predictions of which one scores best; none if not known.

    Of classes: the most frequent one, two, ... of them in every row. Of entities: none anywhere.
    """
    if statistic == "entities":
        return [np.zeros_like(numbers)]
    if statistic != "classes":
        return []
    gold = _parts(numbers)[2]
    found = []
    for many in range(1, gold.shape[1] + 1):
        predicted = np.zeros_like(gold)
        predicted[:, np.argsort(-gold.sum(0, dtype=np.int64), kind="stable")[:many]] = 1
        found.append(np.concatenate([predicted * gold, predicted, gold], axis=1))
    return found
