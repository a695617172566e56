"""What a reader wants first: which method leads on a task, by how much, how sure, at what cost."""

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from finegrid.report import effort, formatting
from finegrid.report.comparison import Comparison
from finegrid.report.figures import keys
from finegrid.report.load import timing
from finegrid.report.load.rankings import CELL, RANKING
from finegrid.report.recommend.decide import enough
from finegrid.report.recommend.options import probability_best

ROUNDING = 1e-12  # of means that are the same


@dataclass(frozen=True)
class Method:
    """A method in one ranking, in words."""

    name: str
    score: str
    interval: str
    seeds: str
    stored: str
    trained: str
    seconds: str


@dataclass(frozen=True)
class Lead:
    """Which of some methods leads, and what is level with it: what a verdict says."""

    best: Method
    methods: int  # with scores
    learned: bool = True  # whether any method is better than the best constant prediction
    unlearned: tuple[str, ...] = ()  # those that are not
    constant: float = nan  # the score of that prediction, where known
    level: tuple[str, ...] = ()  # the others that are level with it, best first
    same: tuple[str, ...] = ()  # of these with the same mean, if that chose between them
    smallest: Method | None = None  # of the best and those near it, if that is another
    quickest: Method | None = None
    few: str = ""  # that its seeds are too few to be sure of
    equal: bool = False  # several methods, all with the same mean
    race: str = ""  # at which level it was decided after a race of how many seeds


@dataclass(frozen=True)
class Outcome(Lead):
    """The lead in one ranking, and how it stands."""

    budget: str = ""
    data: str = ""
    seeds: int = 0  # of the best
    chance: str = ""  # that it is the best, from the joint draws; empty if unknown
    behind: str = ""  # the first that is not level, with the difference and its interval
    stored: tuple[tuple[str, float], ...] = ()  # bytes, of the best and those near it
    detectable: float = nan  # differences below it would often be missed
    doubt: str = ""  # why not to lean on it; empty if nothing speaks against
    declared: int = 0  # seeds of the race; 0: it was not raced
    going_on: bool = False  # the race had not decided

    @property
    def leads(self) -> str:
        """The name of the best, or why none is."""
        none = "none, all have one mean" if self.equal else self.best.name
        return none if self.learned else "none learned anything"


@dataclass(frozen=True)
class Headline:
    """What stands first for one task in one setting: the fullest ranking, then the others."""

    setting: int
    task: str
    metric: str
    main: Outcome
    key: tuple[Any, ...]  # of the main ranking, as rankings.RANKING names it
    others: tuple[Outcome, ...]
    tuning: str = ""  # what the scores include of it

    @property
    def top(self) -> tuple[str, ...]:
        """The best and those level with it."""
        return (self.main.best.name, *self.main.level) if self.main.learned else ()


def headlines(comparison: Comparison) -> list[Headline]:
    """One per setting and task that has a score at all."""
    cells, against = comparison.cells, comparison.best
    behind = against[[*CELL, "best", "difference", "low", "high", "tie", "detectable"]]
    scored = keys.with_trainable(cells[cells.ok > 0]).astype({"method": str, "task": str})
    joined = scored.merge(behind, on=CELL, how="left", suffixes=("", "_behind"))
    return [_headline(rows, comparison) for _, rows in joined.groupby(["setting", "task"])]


def _headline(cells: pd.DataFrame, comparison: Comparison) -> Headline:
    first, runs = cells.iloc[0], comparison.results.runs
    metric = formatting.metric(runs, str(first.task))
    mine = runs[runs["setting"].eq(first.setting) & runs["task"].eq(first.task)]
    main, draws = keys.main(cells), comparison.draws
    outcomes = {key: _outcome(rows, draws.get(key)) for key, rows in cells.groupby(RANKING)}
    return Headline(int(first.setting), str(first.task), metric, outcomes.pop(main), main,
                    tuple(outcomes.values()), effort.tuning(mine))  # fmt: skip


def _outcome(cells: pd.DataFrame, draws: tuple[list[str], Any] | None) -> Outcome:
    ranked = cells.sort_values(["mean", "method"], ascending=[False, True])
    is_best, tie = ranked.method == ranked.best, ranked.tie.eq(True)
    learned = bool(is_best.any())
    first = (ranked[is_best] if learned else ranked).iloc[0]
    apart = ranked[ranked.tie.eq(False)]
    level = pd.concat([ranked[is_best], ranked[tie & ~is_best]])
    sure = enough(level) & learned & enough(first)
    # Level after adjustment and yet nothing to offer: below by its own test, or learned nothing.
    near = level[~(level["low_behind"] > 0) & sure & level.learned]
    near = near_best(near, apart)
    detectable = float(ranked.detectable.median(skipna=True))
    return Outcome(
        budget=formatting.budget(str(first.budget_unit), float(first.budget)),
        data=formatting.amount(first),
        methods=len(ranked),
        best=method(first),
        seeds=int(first.ok),
        learned=learned,
        unlearned=tuple(ranked.method[~ranked.learned.astype(bool)]),
        constant=float(first.constant),
        chance=_chance(str(first.method), draws) if learned else "",
        level=tuple(level.method.iloc[1:]) if learned else (),
        behind=_behind(apart.iloc[0]) if learned and len(apart) else "",
        stored=tuple(zip(near.method, near.delta_bytes, strict=True)),
        smallest=cheapest(near, "delta_bytes", first),
        quickest=quickest(near, first),
        few=_few(first),
        detectable=detectable,
        doubt=_doubt(ranked, first, detectable),
        equal=len(ranked) > 1 and float(np.ptp(ranked["mean"])) < ROUNDING,
        race=formatting.race(ranked),
        declared=int(ranked["race_seeds"].fillna(0).iloc[0]),
        going_on=bool((ranked["stopped"].isna() & (ranked.ok < ranked["race_seeds"])).any()),
    )


def method(row: pd.Series) -> Method:
    """A row of cells, in words."""
    return Method(
        str(row.method), formatting.score(row["mean"]), formatting.span(row["low"], row["high"]),
        formatting.number(int(row.ok), "seed"), formatting.size(row.delta_bytes),
        formatting.count(row.trainable), formatting.duration(row.train_seconds),
    )  # fmt: skip


def _behind(row: pd.Series) -> str:
    margin = formatting.span(row["low_behind"], row["high_behind"])
    ahead = f"{formatting.score(row.difference)} ahead of {row.method}"
    return f"{ahead} ({margin})" if margin else ahead


def near_best(level: pd.DataFrame, apart: pd.DataFrame) -> pd.DataFrame:
    """Of the methods level with the best those above all that are not."""
    return level[~level["mean"].le(apart["mean"].max())]


def cheapest(near: pd.DataFrame, cost: str, first: pd.Series) -> Method | None:
    """Of those near the best, unless it is the best itself."""
    known = near[near[cost].notna()].sort_values([cost, "mean"], ascending=[True, False])
    if known.empty or known.method.iloc[0] == first.method:
        return None
    return method(known.iloc[0])


def quickest(near: pd.DataFrame, first: pd.Series) -> Method | None:
    """Of those near the best whose seconds may be held against its, unless it is the best."""
    return cheapest(near[timing.alike(near, first)], "train_seconds", first)


def _chance(name: str, draws: tuple[list[str], Any] | None) -> str:
    if draws is None or name not in draws[0] or len(draws[0]) < 2:
        return ""
    return formatting.chance(float(probability_best(draws[1])[draws[0].index(name)]))


def _few(first: pd.Series) -> str:
    few = not enough(first)
    return f"{formatting.number(int(first.ok), 'seed')} only: too few to be sure of" if few else ""


def _doubt(ranked: pd.DataFrame, first: pd.Series, detectable: float) -> str:
    if len(ranked) == 1:
        return "nothing to compare it with: no other method has a score here"
    if few := _few(first):
        return few
    if not detectable > 0:
        return ""
    return f"differences below about {formatting.score(detectable, 3)} would often be missed"
