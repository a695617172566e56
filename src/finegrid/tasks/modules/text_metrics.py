"""Metrics of generated texts against references, by sacrebleu and rouge-score, as sums of rows.

All are shares from 0 to 1: BLEU is sacrebleu's divided by 100.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
References = Sequence[Sequence[str]]  # of each text, one or more
ORDERS = 4  # of BLEU's n-grams


def bleu_counts(texts: Sequence[str], references: References) -> Numbers:
    """What corpus BLEU is made of, N 10: sums over the rows give that of the corpus.

    Length of the text and of the reference closest to it, matches of 1- to 4-grams, n-grams of
    the text; tokenised by 13a, case kept (sacrebleu's defaults).
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)  # which changes a sentence's score, not its counts
    found = [
        metric.sentence_score(text, list(known))
        for text, known in zip(texts, references, strict=True)
    ]
    return np.asarray([[f.sys_len, f.ref_len, *f.counts, *f.totals] for f in found], dtype=float)


def bleu(counts: Numbers) -> float:
    """Corpus BLEU of rows of counts, N 10: exponential smoothing of orders without a match."""
    from sacrebleu.metrics.bleu import BLEU

    length, reference, *rest = counts.sum(axis=0).astype(int).tolist()
    result = BLEU.compute_bleu(rest[:ORDERS], rest[ORDERS:], length, reference, smooth_method="exp")
    return float(result.score) / 100


def rouge_l(texts: Sequence[str], references: References) -> Numbers:
    """F of the longest common subsequence with the closest reference, N; no stemming."""
    scorer = rouge_scorer()
    rows = zip(texts, references, strict=True)
    return np.asarray([scorer.score_multi(known, text)["rougeL"].fmeasure for text, known in rows])


def rouge_scorer() -> Any:
    """rouge-score's scorer of ROUGE-L.

    It imports absl, whose log handler closes the stream that was stderr then, once logging is
    configured anew; the process's own it leaves open.
    """
    from absl import logging
    from rouge_score.rouge_scorer import RougeScorer

    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(["rougeL"], use_stemmer=False)


def exact(texts: Sequence[str], references: References, *, read: Callable[[str], Any]) -> Numbers:
    """Whether a text is one of its references, N of 0 or 1, both as `read` takes them."""
    rows = zip(texts, references, strict=True)
    return np.asarray([float(read(text) in map(read, known)) for text, known in rows])
