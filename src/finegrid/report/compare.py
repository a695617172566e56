"""Rankings to what a reader wants to know: each cell, what is not told from the best, how sure."""

from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report import stats
from finegrid.report.across import Ranks, across, ranks
from finegrid.report.evidence import Evidence, Key, Known, evidence
from finegrid.report.frame import CELL, RANKING, TABLE, Results, missing, ordered
from finegrid.report.stats import Difference, Scores

__all__ = ["Ranks", "across", "against_best", "cells", "draws", "evidence", "ranks"]

COSTS = [
    "train_rows", "train_seconds", "eval_seconds", "setup_seconds", "params_total", "params_delta",
    "params_pooler", "params_head", "delta_bytes", "delta_bits_per_trainable", "peak_memory_bytes",
    "train_flops", "mfu", "steps", "epochs",
]  # fmt: skip
BOOTSTRAP = 10  # seeds from which on an interval is the bootstrap's and not Student's


def cells(results: Results, *, level: float = 0.95) -> pd.DataFrame:
    """A row for each method at each fraction of a table: its scores over seeds, and its costs.

    Costs are means over the runs that ended well. `low` and `high` bound the mean over seeds, by
    what `interval` names: Student's `t`, the `bootstrap` from 10 seeds on, nothing for one.
    `failures` says how the others ended, `missing` counts the seeds that only others here have.
    """
    runs = results.runs
    fine = runs["status"].eq("ok") & runs["test"].notna()
    constant = runs["degenerate"].astype("boolean").to_numpy(float, na_value=nan)
    by_cell = runs.assign(degenerate=constant)[fine].groupby(CELL, observed=True)
    scores = by_cell["test"]
    found = pd.DataFrame(
        {
            "metric": by_cell["metric"].first(),
            "ok": scores.size(),
            "degenerate": by_cell["degenerate"].mean(),
            "mean": scores.mean(),
            "median": scores.median(),
            "iqm": scores.agg(lambda values: stats.iqm(values.to_numpy())),
            "sd": scores.std(),
            "validation": by_cell["validation"].mean(),
        }
    )
    found = _bounded(found, scores, level).join(by_cell[COSTS].mean())
    lacks = missing(runs)
    every = pd.concat([runs[CELL], lacks[CELL]]).drop_duplicates()
    table = every.merge(found.reset_index(), on=CELL, how="left")
    table = table.merge(_ends(runs[~fine]), on=CELL, how="left")
    table = table.merge(lacks.groupby(CELL).size().rename("missing"), on=CELL, how="left")
    counts = ["ok", "failed", "missing"]
    table[counts] = table[counts].fillna(0).astype(int)
    text = ["metric", "failures", "interval"]
    table[text] = table[text].astype(object).fillna("")
    table["metric"] = _of_ranking(table)
    return _in_order(table, runs)


def _bounded(found: pd.DataFrame, scores: Any, level: float) -> pd.DataFrame:
    """With the interval of each mean."""
    columns = [found[name].to_numpy(float) for name in ("mean", "sd", "ok")]
    low, high = stats.t_interval(*columns, level=level)
    interval = np.where(found["ok"] > 1, "t", "").astype(object)
    many = found["ok"].to_numpy() >= BOOTSTRAP
    if many.any():
        values = [own.to_numpy() for (_, own), large in zip(scores, many, strict=True) if large]
        low[many], high[many] = stats.mean_intervals(values, level=level)
        interval[many] = "bootstrap"
    return found.assign(low=low, high=high, interval=interval)


def _ends(runs: pd.DataFrame) -> pd.DataFrame:
    """How many runs of a cell have no score, and how they ended."""
    status = runs["status"].astype(str).where(runs["status"].ne("ok"), "without a score")
    counts = runs[CELL].assign(status=status).value_counts().reset_index()
    counts["failures"] = counts["count"].astype(str) + " " + counts["status"]
    grouped = counts.sort_values("status").groupby(CELL)
    return grouped.agg(failed=("count", "sum"), failures=("failures", ", ".join)).reset_index()


def _of_ranking(table: pd.DataFrame) -> pd.Series:
    """The metric of a ranking, also for its cells without a score."""
    known = table.loc[table["metric"].ne(""), [*TABLE, "metric"]].drop_duplicates(TABLE)
    return table[TABLE].merge(known, how="left")["metric"].fillna("").set_axis(table.index)


def _in_order(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rankings as the runs have them, methods in their order."""
    place = {method: number for number, method in enumerate(ordered(set(runs["method"])))}
    table = table.assign(_place=table["method"].map(place))
    by = [*RANKING, "_place"]
    return table.sort_values(by).drop(columns="_place").reset_index(drop=True)


def against_best(
    results: Results, known: Evidence | None = None, *, level: float = 0.95
) -> pd.DataFrame:
    """A row a cell: how far it is below the best mean of its ranking, and whether that is chance.

    `difference` is best - this over common seeds, with the interval of that one comparison.
    `p_holm` is adjusted for the pairs of a ranking (`stats.holm_with_best`); `tie` says that it is
    not below 1 - level. `detectable` is the true difference that the comparison, so adjusted, would
    find in 80 %. `test` names the chance accounted for: of `seeds`, `rows`, both, or none.
    `mcnemar` is the exact test of which rows are right; of several seeds twice the median p, which
    holds however they depend on one another.
    """
    known = known or evidence(results)
    rows = [row for key, methods in known.rankings.items() for row in _ranking(key, methods, level)]
    columns = [*CELL, "best", "difference", "low", "high", "p", "p_holm", "tie", "detectable",
               "test", "mcnemar", "seeds"]  # fmt: skip
    told = pd.DataFrame(rows, columns=columns)
    every = pd.concat([results.runs[CELL], missing(results.runs)[CELL]]).drop_duplicates()
    table = every.merge(told, on=CELL, how="left")
    table["tie"] = table["tie"].eq(True)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    best = told[[*RANKING, "best"]].drop_duplicates()
    table["best"] = table[RANKING].merge(best, on=RANKING, how="left")["best"].fillna("").to_numpy()
    table["test"] = table["test"].fillna("")
    return _in_order(table, results.runs)


def _ranking(key: Key, methods: dict[str, Known], level: float) -> list[list[Any]]:
    best = _best(methods)
    others = [method for method in methods if method != best]
    found = _differences(methods[best].scores, [methods[m].scores for m in others], level)
    adjusted = stats.holm_with_best(np.array([one.p for one in found]))
    tested = sum(one.p == one.p for one in found)
    rows: list[list[Any]] = [[*key, best, best, 0.0, nan, nan, nan, nan, True, nan, "", nan, 0]]
    for method, one, p in zip(others, found, adjusted, strict=True):
        tie = not p < 1 - level
        least = _detectable(one, level, tested)
        exact = _mcnemar(methods[best], methods[method])
        told = [one.mean, one.low, one.high, one.p, p, tie, least, one.test, exact, one.seeds]
        rows.append([*key, method, best, *told])
    return rows


def _best(methods: dict[str, Known]) -> str:
    """The best mean; of methods with one seed only if none has more."""
    several = {m: c for m, c in methods.items() if len(c.scores.seeds) > 1} or methods
    return max(several, key=lambda method: several[method].scores.values.mean())


def _differences(best: Scores, others: list[Scores], level: float) -> list[Difference]:
    """The best less each, the spread over seeds drawn towards what is usual among them."""
    alone = [stats.difference(best, scores, level=level) for scores in others]
    seeds = [part for one in alone for part in one.parts if part.chance == "seeds"]
    counts = [one.seeds for one in alone if any(part.chance == "seeds" for part in one.parts)]
    variances = [part.variance * n for part, n in zip(seeds, counts, strict=True)]
    usual = stats.usual_spread(variances, [part.df for part in seeds])
    if usual is None:
        return alone
    return [stats.difference(best, scores, level=level, usual=usual) for scores in others]


def _detectable(one: Difference, level: float, tests: int) -> float:
    if not one.parts:
        return nan
    reached = stats.critical(one.parts, (1 - level) / (tests * (tests + 1) / 2))
    return stats.detectable(one.se, 1, df=one.df, critical=reached)


def _mcnemar(a: Known, b: Known) -> float:
    exact = [
        stats.mcnemar(np.unpackbits(a.correct[s]) > 0, np.unpackbits(b.correct[s]) > 0)
        for s in a.correct
        if s in b.correct
    ]
    if not exact:
        return nan
    return exact[0] if len(exact) == 1 else min(1.0, 2 * float(np.median(exact)))


def draws(
    results: Results, n: int = 400, *, known: Evidence | None = None
) -> dict[Key, tuple[list[str], NDArray[np.float64]]]:
    """Joint draws of the methods' true mean scores, for the probability that each is the best.

    Ranking -> methods, methods x n. Seeds are resampled, the same for all methods of a ranking;
    where predictions are known the test rows are too. A bootstrap of S seeds spreads too little by
    (S - 1) / S, which is made up for; a single seed spreads as the others of its ranking do.
    """
    known = known or evidence(results)
    rng = np.random.default_rng(0)
    return {
        key: (list(methods), _joint([cell.scores for cell in methods.values()], n, rng))
        for key, methods in known.rankings.items()
    }


def _joint(cells: list[Scores], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    seeds = sorted({seed for scores in cells for seed in scores.seeds})
    shares = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=n)  # n U
    pooled = [scores.values.var(ddof=1) for scores in cells if len(scores.seeds) > 1]
    spread = float(np.sqrt(np.mean(pooled))) if pooled else 0.0
    rows = []
    for scores in cells:
        size = len(scores.seeds)
        centred = scores.values - scores.values.mean()
        own = shares[:, np.searchsorted(seeds, scores.seeds)].astype(float)
        total = own.sum(axis=1, keepdims=True)
        own = np.where(total > 0, own / np.maximum(total, 1), 1 / size)
        single = size == 1
        chance = rng.normal(0, spread, n) if single else own @ centred * sqrt(size / (size - 1))
        rows.append(scores.values.mean() + chance + _row_chance(scores, n))
    return np.stack(rows)


def _row_chance(scores: Scores, n: int) -> NDArray[np.float64]:
    """How far the mean over seeds strays on other test rows: on the same draws for all methods."""
    if scores.resampled is None or np.isnan(scores.resampled[0]).all():
        return np.zeros(n)
    strayed = np.nanmean(scores.resampled, axis=1, dtype=float)
    return np.resize(strayed - strayed.mean(), n)
