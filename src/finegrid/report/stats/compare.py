"""Rankings to what a reader wants to know: each cell, what is not told from the best, how sure."""

from collections.abc import Mapping
from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report.load.rankings import CELL, RANKING, TABLE, Results, missing, ordered
from finegrid.report.recommend.verdict import verdict
from finegrid.report.stats import significance, simultaneous
from finegrid.report.stats.ranks import Ranks, across, ranks
from finegrid.report.stats.scores import Evidence, Key, Known, evidence
from finegrid.report.stats.significance import Scores
from finegrid.report.stats.simultaneous import Pairs, Spread

__all__ = ["Ranks", "across", "against_best", "cells", "draws", "evidence", "ranks", "standings"]

COSTS = [
    "train_rows", "train_seconds", "eval_seconds", "setup_seconds", "params_total", "params_delta",
    "params_pooler", "params_head", "delta_bytes", "delta_bits_per_trainable", "peak_memory_bytes",
    "train_flops", "mfu", "steps", "epochs",
]  # fmt: skip
LOWEST = {"accuracy": 0.0, "f1": 0.0, "matthews": -1.0, "pearson": -1.0, "spearman": -1.0}
Standings = Mapping[tuple[Any, ...], tuple[Scores, Spread]]  # cell, as frame.CELL names it


def cells(results: Results, known: Evidence | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """A row for each method at each fraction of a table: its scores over seeds, and its costs.

    Costs are means over the runs that ended well. `low` and `high` bound the mean over all seeds,
    on other test rows too where `interval` says `seeds and rows`, on these where it says `seeds`
    (the number of rows is unknown); nothing for one seed. `learned` is false for a method that
    predicts a constant or is no better than one. `failures` says how the others ended, `missing`
    counts the seeds that only others here have.
    """
    known = known or evidence(results)
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
            "iqm": scores.agg(lambda values: significance.iqm(values.to_numpy())),
            "sd": scores.std(),
            "validation": by_cell["validation"].mean(),
        }
    )
    found = _bounded(found, known, level).join(by_cell[COSTS].mean())
    lacks = missing(runs)
    every = pd.concat([runs[CELL], lacks[CELL]]).drop_duplicates()
    table = every.merge(found.reset_index(), on=CELL, how="left")
    table = table.merge(_ends(runs[~fine]), on=CELL, how="left")
    table = table.merge(lacks.groupby(CELL).size().rename("missing"), on=CELL, how="left")
    counts = ["ok", "failed", "missing"]
    table[counts] = table[counts].fillna(0).astype(int)
    text = ["metric", "failures", "interval"]
    table[text] = table[text].astype(object).fillna("")
    table["learned"] = table["learned"].ne(False)
    table["metric"] = _of_ranking(table)
    return _in_order(table, runs)


def _bounded(found: pd.DataFrame, known: Evidence, level: float) -> pd.DataFrame:
    """With the interval of each mean, after Banerjee: the half-widths' squares add up."""
    rows = [
        interval(known.rankings[key[:-1]][str(key[-1])], str(metric), level)
        for key, metric in zip(found.index, found["metric"], strict=True)
    ]
    columns = ["low", "high", "interval", "learned"]
    return found.join(pd.DataFrame(rows, columns=columns, index=found.index))


def interval(known: Known, metric: str, level: float) -> tuple[float, float, str, bool]:
    scores = known.scores
    n, mean = len(scores.seeds), float(scores.values.mean())
    if n < 2:
        return nan, nan, "", known.learned
    of_rows = simultaneous.row_variance(scores)
    squares = (
        float(scores.values.var(ddof=1))
        / n
        * float(significance.quantile(0.5 + level / 2, n - 1)) ** 2
    )
    if of_rows > 0:
        squares += of_rows * float(significance.quantile(0.5 + level / 2, scores.rows - 1)) ** 2
    if not squares > 0:
        return nan, nan, "", known.learned
    half, lowest = sqrt(squares), LOWEST.get(metric, -1.0)
    low, high = min(mean, max(mean - half, lowest)), max(mean, min(mean + half, 1.0))
    return low, high, "seeds and rows" if of_rows > 0 else "seeds", known.learned


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

    `difference` is best - this over common seeds; `low` and `high` bound it simultaneously with all
    others of the ranking, so that they hold although the best was chosen by the same data. `tie`
    says that they include 0; `p_adjusted` is the level at which they just would, `p` that of the
    two alone. `detectable` is the true difference that this would find in 80 %. `test` names the
    chance accounted for: of `seeds`, `rows`, both, or none. No method that learned nothing is the
    best; where none learned, there is none and no tie. `mcnemar` is the exact test of which rows
    are right; of several seeds twice the median p, which holds however they depend on one another.
    """
    known = known or evidence(results)
    rows = [row for key, methods in known.rankings.items() for row in _ranking(key, methods, level)]
    columns = [*CELL, "best", "difference", "low", "high", "p", "p_adjusted", "tie", "detectable",
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
    names, cells = list(methods), [cell.scores for cell in methods.values()]
    pairs = simultaneous.pairs(cells, simultaneous.spreads(cells))
    leader = _leader(methods, pairs, level)
    if leader is None:
        return [[*key, name, "", *[nan] * 5, False, nan, "", nan, 0] for name in names]
    half = pairs.half(level)[leader]
    told = "" if not pairs.parts else " and ".join(part.chance for part in pairs.parts)
    rows: list[list[Any]] = []
    for at, name in enumerate(names):
        row = [*key, name, names[leader]]
        if at == leader:
            rows.append([*row, 0.0, nan, nan, nan, nan, True, nan, "", nan, 0])
            continue
        mean, p = float(pairs.difference[leader, at]), pairs.p(leader, at)
        width = float(half[at]) if np.isfinite(half[at]) else nan
        low, high = (mean - width, mean + width)
        exact = _mcnemar(methods[names[leader]], methods[name])
        test = told if p == p else ""
        rows.append([*row, mean, low, high, pairs.p(leader, at, alone=True), p, not low > 0,
                     _detectable(pairs, leader, at, width), test, exact,
                     int(pairs.seeds[leader, at])])  # fmt: skip
    return rows


def _leader(methods: dict[str, Known], pairs: Pairs, level: float) -> int | None:
    """The best mean that learned something; with one seed only if none has more."""
    means = np.array([cell.scores.values.mean() for cell in methods.values()])
    several = np.array([len(cell.scores.seeds) > 1 for cell in methods.values()])
    learned = np.array([cell.learned for cell in methods.values()])
    first = learned & several if (learned & several).any() else learned
    return verdict(means, first, pairs.above(level)).leader


def _detectable(pairs: Pairs, row: int, column: int, half: float) -> float:
    """By the degrees of freedom of Welch and Satterthwaite."""
    parts = [(p.variance[row, column], p.df[row, column]) for p in pairs.parts]
    total = sum(variance for variance, _ in parts)
    if not (total > 0 and half > 0):
        return nan
    df = total**2 / sum(variance**2 / df for variance, df in parts)
    return significance.detectable(sqrt(total), 1, df=df, critical=half / sqrt(total))


def _mcnemar(a: Known, b: Known) -> float:
    exact = [
        significance.mcnemar(np.unpackbits(a.correct[s]) > 0, np.unpackbits(b.correct[s]) > 0)
        for s in a.correct
        if s in b.correct
    ]
    if not exact:
        return nan
    return exact[0] if len(exact) == 1 else min(1.0, 2 * float(np.median(exact)))


def standings(known: Evidence) -> Standings:
    """Each cell's scores and its spread over seeds, for comparisons beyond its ranking."""
    found = {}
    for key, methods in known.rankings.items():
        cells = [cell.scores for cell in methods.values()]
        for method, scores, spread in zip(methods, cells, simultaneous.spreads(cells), strict=True):
            found[*key, method] = scores, spread
    return found


def draws(
    results: Results, n: int = 400, *, known: Evidence | None = None
) -> dict[Key, tuple[list[str], NDArray[np.float64]]]:
    """Joint draws of the methods' true mean scores, for the probability that each is the best.

    Ranking -> methods, methods x n. Each mean strays by its standard error over seeds times a
    Student t, and with the test rows: on the same draws for all where predictions are known.
    """
    known = known or evidence(results)
    rng = np.random.default_rng(0)
    return {
        key: (list(methods), _joint([cell.scores for cell in methods.values()], n, rng))
        for key, methods in known.rankings.items()
    }


def _joint(cells: list[Scores], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    rows = []
    for scores, spread in zip(cells, simultaneous.spreads(cells), strict=True):
        strayed = _row_chance(scores, n, rng)
        if spread.variance > 0:
            df = min(2 * spread.df, spread.most)
            strayed = strayed + sqrt(spread.variance / len(scores.seeds)) * rng.standard_t(df, n)
        rows.append(scores.values.mean() + strayed)
    return np.stack(rows)


def _row_chance(scores: Scores, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How far the mean over seeds strays on other test rows."""
    strayed = simultaneous.resampled_mean(scores)
    if strayed is None:
        return rng.normal(0, sqrt(scores.of_rows), n)
    return np.resize(strayed - strayed.mean(), n)
