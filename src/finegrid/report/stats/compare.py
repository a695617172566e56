"""Summary statistics per method, and paired tests of each method against the best."""

from collections.abc import Collection, Mapping
from math import nan, sqrt
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from finegrid.report.load import timing
from finegrid.report.load.races import Raced
from finegrid.report.load.rankings import CELL, RANKING, TABLE, Results, missing, ordered
from finegrid.report.recommend.verdict import verdict
from finegrid.report.stats import significance, simultaneous, sums
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Evidence, Key, Known, evidence
from finegrid.report.stats.shrunken_variance import Spread, spreads
from finegrid.report.stats.simultaneous import Pairs

COSTS = [
    "label_rows", "train_seconds", "eval_seconds", "setup_seconds", "params_total", "params_delta",
    "params_pooler", "params_head", "delta_bytes", "delta_bits_per_trainable", "peak_memory_bytes",
    "train_flops", "mfu", "matmul_rate", "steps", "epochs", "forgetting",
    "leakage", "test_off", "leakage_off",
]  # fmt: skip
LOWEST = dict.fromkeys(("accuracy", "f1", *sums.METRICS), 0.0)  # of a metric; -1 of the others


class Standing(NamedTuple):
    """One cell, for comparisons beyond its ranking."""

    scores: Scores
    spread: Spread
    level: float = 0.95  # at which its ranking is tested
    dropped: bool = False  # by a race while others went on


Standings = Mapping[tuple[Any, ...], Standing]  # cell, as rankings.CELL names it


def cells(results: Results, known: Evidence | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """A row for each method at each fraction of a table: its scores over seeds, and its costs.

    Costs are means over the runs that ended well. `low` and `high` bound the mean over all seeds,
    on other test rows too where `interval` says `seeds and rows`, on these where it says `seeds`
    (the number of rows is unknown); nothing for one seed. `learned` is false for a method that
    predicts a constant or is no better than one, whose score is `constant`. `failures` says how the
    others ended, `own_seconds` says whether none of its runs shared passes or cores with others,
    `missing` counts the seeds that only others here have. `rows_asked` are those that
    all of a ranking were given by number (`data.rows`). `race_level` and
    `race_seeds` are those of a raced ranking, `stopped` the seeds at which a race stopped a method.
    """
    known = known or evidence(results)
    runs = results.runs
    fine = runs["status"].eq("ok") & runs["test"].notna()
    lacks = missing(runs, results.races)
    every = pd.concat([runs[CELL], lacks[CELL]]).drop_duplicates()
    table = every.merge(_summaries(runs[fine], known, level), on=CELL, how="left")
    table = table.merge(_ends(runs[~fine]), on=CELL, how="left")
    table = table.merge(lacks.groupby(CELL).size().rename("missing"), on=CELL, how="left")
    table = table.merge(_asked(runs), on=RANKING, how="left")
    counts = ["ok", "failed", "missing"]
    table[counts] = table[counts].fillna(0).astype(int)
    text = ["metric", "failures", "interval"]
    table[text] = table[text].astype(object).fillna("")
    table["learned"] = table["learned"].ne(False)
    of_table = table[table["metric"].ne("")].drop_duplicates(TABLE)[[*TABLE, "metric"]]
    metric = table[TABLE].merge(of_table, how="left")["metric"]  # also of cells without a score
    table["metric"] = metric.fillna("").to_numpy()
    return _in_order(table.assign(**_raced(table, results.races)), runs)


def _asked(runs: pd.DataFrame) -> pd.Series:
    rows = runs.groupby(RANKING, observed=True)["rows_asked"]
    return rows.first().where(rows.nunique(dropna=False).eq(1)).astype(float).rename("rows_asked")


def _raced(table: pd.DataFrame, races: Mapping[Key, Raced]) -> dict[str, list[float]]:
    """What races say of each cell of a table."""
    columns: dict[str, list[float]] = {"race_level": [], "race_seeds": [], "stopped": []}
    for *ranking, method in table[CELL].itertuples(index=False, name=None):
        one = races.get(tuple(ranking))
        values = (one.level, one.seeds, one.stopped.get(method, nan)) if one else (nan, nan, nan)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return columns


def _summaries(runs: pd.DataFrame, known: Evidence, level: float) -> pd.DataFrame:
    runs = runs.assign(label_rows=label_rows(runs), own_seconds=timing.own_seconds(runs))
    constant = runs["degenerate"].astype("boolean").to_numpy(float, na_value=nan)
    by_cell = runs.assign(degenerate=constant).groupby(CELL, observed=True)
    scores = by_cell["test"]
    table = pd.DataFrame(
        {
            "metric": by_cell["metric"].first(),
            "ok": scores.size(),
            "degenerate": by_cell["degenerate"].mean(),
            "mean": scores.mean(),
            "median": scores.median(),
            "iqm": scores.agg(lambda values: significance.iqm(values.to_numpy())),
            "sd": scores.std(),
            "validation": by_cell["validation"].mean(),
            "own_seconds": by_cell["own_seconds"].all(),
        }
    )
    each = [known.rankings[key[:-1]][str(key[-1])] for key in table.index]
    rows = [
        (*interval(one, str(metric), level), one.constant)
        for one, metric in zip(each, table["metric"], strict=True)
    ]
    columns = ["low", "high", "interval", "learned", "constant"]
    table = table.join(pd.DataFrame(rows, columns=columns, index=table.index))
    return table.join(by_cell[COSTS].mean()).reset_index()


def label_rows(runs: pd.DataFrame) -> pd.Series:
    """Labelled rows that each run was given: to train on and to select on.

    With protocol `dev` the latter are the test rows, which are not counted.
    """
    validation = runs["validation_rows"].fillna(0).where(runs["protocol"].ne("dev"), 0)
    return runs["train_rows"] + validation


def interval(known: Known, metric: str, level: float) -> tuple[float, float, str, bool]:
    """Of a cell's mean, after Banerjee: low, high, over what chance, and whether it learned."""
    scores = known.scores
    n, mean, nothing = len(scores.seeds), float(scores.values.mean()), (nan, nan, "", known.learned)
    if n < 2:
        return nothing
    over_rows, upper = simultaneous.row_variance(scores), 0.5 + level / 2
    square = float(scores.values.var(ddof=1)) / n * float(special.stdtrit(n - 1, upper)) ** 2
    if over_rows > 0:
        square += over_rows * float(special.stdtrit(scores.rows - 1, upper)) ** 2
    if not square > 0:
        return nothing
    low = min(mean, max(mean - sqrt(square), LOWEST.get(metric, -1.0)))
    high = max(mean, min(mean + sqrt(square), 1.0))
    return low, high, "seeds and rows" if over_rows > 0 else "seeds", known.learned


def _ends(runs: pd.DataFrame) -> pd.DataFrame:
    """How many runs of a cell have no score, and how they ended."""
    status = runs["status"].astype(str).where(runs["status"].ne("ok"), "without a score")
    counts = runs[CELL].assign(status=status).value_counts().reset_index()
    counts["failures"] = counts["count"].astype(str) + " " + counts["status"]
    grouped = counts.sort_values("status").groupby(CELL)
    return grouped.agg(failed=("count", "sum"), failures=("failures", ", ".join)).reset_index()


def _in_order(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rankings as the runs have them, methods in their order."""
    place = {method: number for number, method in enumerate(ordered(set(runs["method"])))}
    table = table.assign(_place=table["method"].map(place)).sort_values([*RANKING, "_place"])
    return table.drop(columns="_place").reset_index(drop=True)


def against_best(
    results: Results, known: Evidence | None = None, *, level: float = 0.95
) -> pd.DataFrame:
    """A row a cell: how far it is below the best mean of its ranking, and whether that is chance.

    `difference` is best - this over common seeds; `low` and `high` bound it simultaneously with all
    others of the ranking, so that they hold although the best was chosen by the same data. `tie`
    says that they include 0; `p_adjusted` is the level at which they just would, `p` that of the
    two alone. `detectable` is the true difference that this would find in 80 %. `test` names the
    chance accounted for: of `seeds`, `rows`, both, or none. No method that learned nothing is the
    best; where none learned, there is none and no tie. A raced ranking is tested at the level of
    its race's last look, and no method that was stopped while others went on is its best.
    `mcnemar` is the exact test of which rows are right; of several seeds twice the median p, which
    holds however they depend on one another.
    """
    known = known or evidence(results)
    rows = [
        row
        for key, methods in known.rankings.items()
        for row in _ranking(key, methods, level, results.races.get(key))
    ]
    columns = [*CELL, "best", "difference", "low", "high", "p", "p_adjusted", "tie", "detectable",
               "test", "mcnemar", "seeds"]  # fmt: skip
    compared = pd.DataFrame(rows, columns=columns)
    lacks = missing(results.runs, results.races)
    every = pd.concat([results.runs[CELL], lacks[CELL]]).drop_duplicates()
    table = every.merge(compared, on=CELL, how="left")
    table["tie"] = table["tie"].eq(True)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    best = compared[[*RANKING, "best"]].drop_duplicates()
    table["best"] = table[RANKING].merge(best, on=RANKING, how="left")["best"].fillna("").to_numpy()
    table["test"] = table["test"].fillna("")
    return _in_order(table, results.runs)


def _ranking(
    key: Key, methods: dict[str, Known], level: float, race: Raced | None
) -> list[list[Any]]:
    """The rows of one ranking, in the order of `against_best`'s columns."""
    names, scores = list(methods), [cell.scores for cell in methods.values()]
    pairs = simultaneous.pairs(scores, spreads(scores))
    dropped, level = _of_race(race, names, level)
    leader = leading(methods, pairs, level, dropped)
    if leader is None:
        return [[*key, name, "", *[nan] * 5, False, nan, "", nan, 0] for name in names]
    half = pairs.half(level)[leader]
    sources = " and ".join(source.chance for source in pairs.sources)
    rows: list[list[Any]] = []
    for at, name in enumerate(names):
        row = [*key, name, names[leader]]
        if at == leader:
            rows.append([*row, 0.0, nan, nan, nan, nan, True, nan, "", nan, 0])
            continue
        mean, p = float(pairs.difference[leader, at]), pairs.p(leader, at)
        width = float(half[at]) if np.isfinite(half[at]) else nan
        low, high, alone = mean - width, mean + width, pairs.p(leader, at, alone=True)
        exact = _mcnemar(methods[names[leader]], methods[name])
        rows.append([*row, mean, low, high, alone, p, not low > 0,
                     pairs.detectable(leader, at, width), sources if p == p else "", exact,
                     int(pairs.seeds[leader, at])])  # fmt: skip
    return rows


def _of_race(race: Raced | None, methods: list[str], level: float) -> tuple[set[str], float]:
    """Which methods a race stopped while others went on, and the level at which to test."""
    return (race.dropped(methods), 1 - race.level) if race else (set(), level)


def leading(
    methods: dict[str, Known], pairs: Pairs, level: float, dropped: Collection[str]
) -> int | None:
    """The best mean that learned something; with one seed only if none has more."""
    means = np.array([cell.scores.values.mean() for cell in methods.values()])
    several = np.array([len(cell.scores.seeds) > 1 for cell in methods.values()])
    goes_on = np.array([name not in dropped for name in methods])
    learned = goes_on & np.array([cell.learned for cell in methods.values()])
    first = learned & several if (learned & several).any() else learned
    return verdict(means, first, pairs.above(level)).leader


def _mcnemar(a: Known, b: Known) -> float:
    exact = [
        significance.mcnemar(np.unpackbits(a.correct[s]) > 0, np.unpackbits(b.correct[s]) > 0)
        for s in a.correct
        if s in b.correct
    ]
    if len(exact) < 2:
        return exact[0] if exact else nan
    return min(1.0, 2 * float(np.median(exact)))


def standings(
    known: Evidence, races: Mapping[Key, Raced] | None = None, *, level: float = 0.95
) -> Standings:
    """Each cell's scores and its spread over seeds, for comparisons beyond its ranking."""
    table = {}
    for key, methods in known.rankings.items():
        dropped, of_ranking = _of_race((races or {}).get(key), list(methods), level)
        for method, standing in zip(methods, _standings(methods), strict=True):
            table[*key, method] = Standing(*standing, of_ranking, method in dropped)
    return table


def _standings(methods: dict[str, Known]) -> list[tuple[Scores, Spread]]:
    scores = [cell.scores for cell in methods.values()]
    return list(zip(scores, spreads(scores), strict=True))


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
        key: (list(methods), np.stack([_drawn(*one, n, rng) for one in _standings(methods)]))
        for key, methods in known.rankings.items()
    }


def _drawn(scores: Scores, spread: Spread, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws of one method's true mean."""
    resampled = simultaneous.resampled_mean(scores)
    if resampled is None:
        strayed = rng.normal(0, sqrt(scores.of_rows), n)
    else:
        strayed = np.resize(resampled - resampled.mean(), n)
    if spread.variance > 0:
        df = min(2 * spread.df, spread.most)
        strayed = strayed + sqrt(spread.variance / len(scores.seeds)) * rng.standard_t(df, n)
    return np.asarray(scores.values.mean() + strayed)
