"""Methods over all tasks of a setting: mean ranks (Demsar), probability of improvement."""

from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report.load.races import Key
from finegrid.report.load.rankings import RANKING, Results, ordered

DRAWS = 1000
CELLS = 20_000_000  # of draws x methods x methods at most, 8 bytes each


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over blocks: 1 is the best. Blocks are all (task, budget, fraction) in common."""

    methods: tuple[str, ...]  # by mean rank
    mean_ranks: tuple[float, ...]
    critical_difference: float  # Nemenyi's: mean ranks closer than this are not told apart
    blocks: int
    friedman_p: float  # that all methods rank alike
    left_out: tuple[str, ...] = ()  # methods that lack a score in most blocks
    rankings: tuple[Key, ...] = ()  # the blocks


def probability_of_improvement(results: Results, *, level: float = 0.95) -> pd.DataFrame:
    """Probability that a run of method_a beats one of method_b on a task drawn from a setting's.

    P(a > b) + P(a = b) / 2, mean over the blocks (task, budget, fraction) in which both have scores
    (arXiv 2108.13264). Its interval resamples the seeds within each block and takes the blocks as
    they are: it is no statement on other tasks.
    """
    runs = results.runs[results.runs["status"].eq("ok") & results.runs["test"].notna()]
    tables = [
        _pairs(group, level).assign(setting=setting) for setting, group in runs.groupby("setting")
    ]
    columns = ["setting", "method_a", "method_b", "improvement", "low", "high", "blocks"]
    compared = [table for table in tables if len(table)]
    return (
        pd.concat(compared, ignore_index=True)[columns]
        if compared
        else pd.DataFrame(columns=columns)
    )


def _pairs(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    methods = ordered(set(runs["method"]))
    draws = max(100, min(DRAWS, CELLS // len(methods) ** 2))
    rng = np.random.default_rng(0)
    total = np.zeros((len(methods), len(methods)))
    drawn = np.zeros((len(methods), len(methods), draws), np.float32)
    blocks = np.zeros((len(methods), len(methods)), int)
    number = {method: place for place, method in enumerate(methods)}
    for _, group in runs.groupby(RANKING[1:], observed=True):
        present = [number[m] for m in dict.fromkeys(group["method"])]
        exact, resampled = _block(group, rng, draws)
        at = np.ix_(present, present)
        total[at] += exact
        drawn[at] += resampled
        blocks[at] += 1
    first, second = np.triu_indices(len(methods), 1)
    met = blocks[first, second] > 0
    first, second = first[met], second[met]
    n = blocks[first, second]
    means = drawn[first, second] / n[:, None]  # pairs D
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return pd.DataFrame(
        {
            "method_a": [methods[place] for place in first],
            "method_b": [methods[place] for place in second],
            "improvement": total[first, second] / n,
            "low": low,
            "high": high,
            "blocks": n,
        }
    )


def _block(
    runs: pd.DataFrame, rng: np.random.Generator, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Shares of won pairs of runs between all methods, k x k, and on resampled seeds, k x k x D."""
    by_method = runs.groupby("method", observed=True, sort=False)["test"]
    scores = [group.to_numpy(float) for _, group in by_method]
    begins = np.cumsum([0, *map(len, scores)])[:-1]
    shares = np.concatenate(
        [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws) / len(x) for x in scores],
        axis=1,
        dtype=np.float32,
    )  # D runs
    values = np.concatenate(scores)
    won = (0.5 * (np.sign(values[:, None] - values) + 1)).astype(np.float32)  # runs runs
    equal = np.concatenate([np.full(len(x), 1 / len(x)) for x in scores])
    exact = np.add.reduceat(np.add.reduceat(won * np.outer(equal, equal), begins, 0), begins, 1)
    ends = [*begins[1:], len(values)]
    drawn = [
        np.add.reduceat(shares[:, a:b] @ won[a:b] * shares, begins, axis=1).T
        for a, b in zip(begins, ends, strict=True)
    ]
    return exact, np.stack(drawn)


def mean_ranks(results: Results, setting: int, *, level: float = 0.95) -> Ranks:
    """Mean ranks of a setting's methods for a critical-difference diagram (Demsar 2006).

    Methods with a score in less than half of the blocks are left out, then blocks in which one is
    missing. Fractions and budgets of one task are blocks of their own although they are not
    independent, so the critical difference is rather too small.
    """
    runs = results.runs
    fine = runs["setting"].eq(setting) & runs["status"].eq("ok") & runs["test"].notna()
    means = runs[fine].groupby([*RANKING, "method"], observed=True)["test"].mean().unstack("method")
    common = means.loc[:, means.notna().mean() >= 0.5]
    complete = common.dropna()
    placed = complete.rank(axis=1, ascending=False)
    mean = placed.mean().sort_values(kind="stable")
    blocks, methods = placed.shape
    return Ranks(
        methods=tuple(map(str, mean.index)),
        mean_ranks=tuple(map(float, mean)),
        critical_difference=_nemenyi(methods, blocks, level),
        blocks=blocks,
        friedman_p=_friedman(complete),
        left_out=tuple(ordered(set(means.columns) - set(common.columns))),
        rankings=tuple(complete.index),
    )


def _nemenyi(methods: int, blocks: int, level: float) -> float:
    import scipy.stats

    if methods < 2 or not blocks:
        return nan
    q = float(scipy.stats.studentized_range.ppf(level, methods, np.inf)) / sqrt(2)
    return q * sqrt(methods * (methods + 1) / (6 * blocks))


def _friedman(scores: Any) -> float:
    import scipy.stats

    if scores.shape[0] < 2 or scores.shape[1] < 3:
        return nan
    with np.errstate(invalid="ignore"):
        return float(scipy.stats.friedmanchisquare(*scores.to_numpy().T).pvalue)
