"""What a reader wants first: which method wins on a task, by how much, how sure, at what cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import pandas as pd

from finegrid.report import formatting
from finegrid.report.figures import keys
from finegrid.report.load.rankings import CELL, RANKING, Results
from finegrid.report.recommend.decide import SEEDS
from finegrid.report.recommend.options import Draws, probability_best


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
class Outcome:
    """The answer of one ranking."""

    budget: str
    data: str
    methods: int  # with scores
    best: Method
    learned: bool  # whether any method is better than the best constant prediction
    chance: str  # that it is the best, from the joint draws; empty if unknown
    level: tuple[str, ...]  # the others that are level with it, best first
    behind: str  # the first that is not, with the difference and its interval
    stored: dict[str, float]  # bytes, of the best and those near it: above all that are not level
    smallest: Method | None  # of the best and those near it, if that is another
    quickest: Method | None
    doubt: str  # why not to lean on it; empty if nothing speaks against


@dataclass(frozen=True)
class Answer:
    """The answer for one task in one setting: the fullest ranking first, then the others."""

    setting: int
    task: str
    metric: str
    main: Outcome
    others: tuple[Outcome, ...]

    @property
    def top(self) -> tuple[str, ...]:
        """The best and those level with it."""
        return (self.main.best.name, *self.main.level) if self.main.learned else ()


def answers(
    results: Results, cells: pd.DataFrame, against_best: pd.DataFrame, draws: Draws
) -> list[Answer]:
    """An answer per setting and task that has a score at all."""
    behind = against_best[[*CELL, "best", "difference", "low", "high", "tie", "detectable"]]
    scored = keys.with_trainable(cells[cells.ok > 0]).astype({"method": str, "task": str})
    joined = scored.merge(behind, on=CELL, how="left", suffixes=("", "_behind"))
    return [
        _answer(rows, formatting.metric(results.runs, str(task)), draws)
        for (_, task), rows in joined.groupby(["setting", "task"])
    ]


def _answer(cells: pd.DataFrame, metric: str, draws: Draws) -> Answer:
    rankings = dict(list(cells.groupby(RANKING)))
    main = keys.main(cells)
    outcomes = {key: _outcome(rows, draws.get(key)) for key, rows in rankings.items()}
    first = cells.iloc[0]
    return Answer(int(first.setting), str(first.task), metric, outcomes.pop(main),
                  tuple(outcomes.values()))  # fmt: skip


def _outcome(cells: pd.DataFrame, draws: tuple[list[str], Any] | None) -> Outcome:
    ranked = cells.sort_values(["mean", "method"], ascending=[False, True])
    is_best, tie = ranked.method == ranked.best, ranked.tie.eq(True)
    learned = bool(is_best.any())
    first = (ranked[is_best] if learned else ranked).iloc[0]
    apart = ranked[ranked.tie.eq(False)]
    level = pd.concat([ranked[is_best], ranked[tie & ~is_best]])
    # Level after adjustment and yet nothing to offer: below what is not, or by its own test.
    near = level[~(level["mean"] <= apart["mean"].max()) & ~(level["low_behind"] > 0)]
    enough = learned and first.ok >= SEEDS
    near = near[(near.ok >= SEEDS) & near.learned & enough]
    return Outcome(
        budget=formatting.budget(str(first.budget_unit), float(first.budget)),
        data=formatting.percent(float(first.fraction)),
        methods=len(ranked),
        best=_method(first),
        learned=learned,
        chance=_chance(str(first.method), draws) if learned else "",
        level=tuple(level.method.iloc[1:]) if learned else (),
        behind=_behind(apart.iloc[0]) if learned and len(apart) else "",
        stored=dict(zip(near.method, near.delta_bytes, strict=True)),
        smallest=_cheapest(near, "delta_bytes", first),
        quickest=_cheapest(near, "train_seconds", first),
        doubt=_doubt(ranked, first),
    )


def _method(row: pd.Series) -> Method:
    return Method(
        str(row.method), formatting.score(row["mean"]), formatting.span(row["low"], row["high"]),
        formatting.number(int(row.ok), "seed"), formatting.size(row.delta_bytes),
        formatting.count(row.trainable), formatting.duration(row.train_seconds),
    )  # fmt: skip


def _behind(row: pd.Series) -> str:
    margin = formatting.span(row["low_behind"], row["high_behind"])
    ahead = f"{formatting.score(row.difference)} ahead of {row.method}"
    return f"{ahead} ({margin})" if margin else ahead


def _cheapest(near: pd.DataFrame, cost: str, first: pd.Series) -> Method | None:
    """Of those near the best, unless it is the best itself."""
    known = near[near[cost].notna()].sort_values([cost, "mean"], ascending=[True, False])
    if known.empty or known.method.iloc[0] == first.method:
        return None
    return _method(known.iloc[0])


def _chance(method: str, draws: tuple[list[str], Any] | None) -> str:
    if draws is None or method not in draws[0] or len(draws[0]) < 2:
        return ""
    return formatting.chance(float(probability_best(draws[1])[draws[0].index(method)]))


def _doubt(ranked: pd.DataFrame, first: pd.Series) -> str:
    if len(ranked) == 1:
        return "nothing to compare it with: no other method has a score here"
    if first.ok < SEEDS:
        return f"{formatting.number(int(first.ok), 'seed')} only: too few to be sure of"
    detectable = float(ranked.detectable.median(skipna=True))
    if not detectable > 0:
        return ""
    return f"differences below about {formatting.score(detectable, 3)} would often be missed"


def overall(answers: Sequence[Answer]) -> str:
    """One sentence over the tasks of a setting."""
    tasks = len(answers)
    if tasks < 2:
        return ""
    names = Counter(name for answer in answers for name in answer.top)
    if not names:
        return f"No method learned anything on any of the {tasks} tasks."
    most = max(names.values())
    often = [name for name, many in names.items() if many == most]
    if most == tasks:
        return (
            f"Best, or not told apart from the best, on all {tasks} tasks: "
            f"{formatting.listed(often)}.{_least(often, answers)}"
        )
    return (
        f"No method is best, or level with the best, on all {tasks} tasks; most often, on {most}: "
        f"{formatting.listed(often)}."
    )


def _least(names: Sequence[str], answers: Sequence[Answer]) -> str:
    """Which of several methods stores least over the tasks, if it is near the best on all."""
    stored = [answer.main.stored for answer in answers]
    means = {name: sum(one.get(name, nan) for one in stored) / len(stored) for name in names}
    known = {name: mean for name, mean in means.items() if not formatting.missing(mean)}
    if len(known) < 2:
        return ""
    least = min(known, key=lambda name: known[name])
    return f" Of these {least} stores least: {formatting.size(known[least])} a task."


def by_setting(answers: Sequence[Answer], results: Results) -> list[tuple[str, str, list[Answer]]]:
    """(setting in words, the sentence over its tasks, its answers); that of most runs first."""
    sizes = results.runs.setting.value_counts().sort_index()
    groups = []
    for number in sizes.sort_values(ascending=False, kind="stable").index:
        if of_setting := [answer for answer in answers if answer.setting == number]:
            setting = formatting.setting(results.settings[number])
            groups.append((setting, overall(of_setting), of_setting))
    return groups
