"""What a reader wants first: which method wins on a task, by how much, how sure, at what cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from finegrid.report import formatting
from finegrid.report.figures import keys
from finegrid.report.load.rankings import CELL, RANKING, Results
from finegrid.report.recommend.options import Draws, probability_best

SEEDS = 3  # fewer say little about chance


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

    @property
    def cost(self) -> str:
        """For the end of a sentence."""
        return (
            f"{self.seconds} of training, {self.trained} parameters trained, {self.stored} stored"
        )


@dataclass(frozen=True)
class Outcome:
    """The answer of one ranking."""

    budget: str
    data: str
    methods: int  # with scores
    best: Method
    learned: bool  # whether any method is better than the best constant prediction
    chance: str | None  # that it is the best, from the joint draws
    level: tuple[str, ...]  # not told apart from it, best first; near: above all that are
    behind: str  # the first that is told apart, with the difference and its interval
    stored: dict[str, float]  # bytes, of the best and those near it
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


def answers(
    results: Results, cells: pd.DataFrame, against_best: pd.DataFrame, draws: Draws
) -> list[Answer]:
    """An answer per setting and task that has a score at all."""
    joined = keys.with_trainable(cells).merge(
        against_best[[*CELL, "best", "difference", "low", "high", "tie", "detectable"]],
        on=CELL, how="left", suffixes=("", "_behind"),
    )  # fmt: skip
    scored = joined[joined.ok > 0].astype({"method": str, "task": str})
    return [
        _answer(of_task, _metric(results.runs, str(task)), draws)
        for (_, task), of_task in scored.groupby(["setting", "task"])
    ]


def _metric(runs: pd.DataFrame, task: str) -> str:
    """The headline metric, with the class that F1 is of; of a mean what it is the mean of."""
    own = runs[runs.task == task]
    of = formatting.of_class(own)
    names = sorted(set(own.metric.dropna().astype(str)))
    if names != ["mean"]:
        return " / ".join(f"{name}{of}" if name == "f1" else name for name in names)
    columns = [name for name in map(str, own) if name.startswith("test/") and own[name].count()]
    parts = [name.removeprefix("test/") for name in columns if name != "test/mean"]
    parts = [f"{name}{of}" if name == "f1" else name for name in parts]
    return f"mean of {formatting.listed(parts)}" if parts else "mean"


def _answer(cells: pd.DataFrame, metric: str, draws: Draws) -> Answer:
    rankings = dict(list(cells.groupby(RANKING)))
    fraction = keys.fullest(cells)
    full = [key for key in rankings if key[4] == fraction]
    main = max(full, key=lambda key: (len(rankings[key]), key[3]))
    return Answer(
        setting=int(cells.setting.iloc[0]),
        task=str(cells.task.iloc[0]),
        metric=metric,
        main=_outcome(main, rankings[main], draws),
        others=tuple(_outcome(key, rankings[key], draws) for key in rankings if key != main),
    )


def _outcome(key: tuple[object, ...], cells: pd.DataFrame, draws: Draws) -> Outcome:
    ranked = cells.sort_values(["mean", "method"], ascending=[False, True])
    is_best = ranked.method == ranked.best
    learned = bool(is_best.any())
    first = (ranked[is_best] if learned else ranked).iloc[0]
    apart = ranked[ranked["tie"].eq(False)]
    level = pd.concat([ranked[is_best], ranked[ranked["tie"].eq(True) & ~is_best]])
    # Level after adjustment and yet nothing to offer: below what is told apart, or by its own test.
    near = level[~(level["mean"] <= apart["mean"].max()) & ~(level["low_behind"] > 0)]
    near = near[near.ok >= SEEDS] if learned and first.ok >= SEEDS else near.head(0)
    near = near[near.learned]
    return Outcome(
        budget=formatting.budget(str(first.budget_unit), float(first.budget)),
        data=formatting.percent(float(first.fraction)),
        methods=len(ranked),
        best=_method(first),
        learned=learned,
        chance=_chance(key, str(first.method), draws) if learned else None,
        level=tuple(level.method.iloc[1:]) if learned else (),
        behind=_behind(apart) if learned else "",
        stored=dict(zip(near.method, near.delta_bytes, strict=True)),
        smallest=_other(near, "delta_bytes", first),
        quickest=_other(near, "train_seconds", first),
        doubt=_doubt(ranked, first),
    )


def _method(row: pd.Series) -> Method:
    return Method(
        str(row.method), formatting.score(row["mean"]), formatting.span(row["low"], row["high"]),
        formatting.number(int(row.ok), "seed"), formatting.size(row.delta_bytes),
        formatting.count(row.trainable), formatting.duration(row.train_seconds),
    )  # fmt: skip


def _behind(apart: pd.DataFrame) -> str:
    if apart.empty:
        return ""
    row = apart.iloc[0]
    margin = formatting.span(row["low_behind"], row["high_behind"])
    ahead = f"{formatting.score(row.difference)} ahead of {row.method}"
    return f"{ahead} ({margin})" if margin else ahead


def _other(near: pd.DataFrame, cost: str, first: pd.Series) -> Method | None:
    """The cheapest of those near the best, unless it is the best itself."""
    known = near[near[cost].notna()]
    if known.empty:
        return None
    row = known.sort_values([cost, "mean"], ascending=[True, False]).iloc[0]
    return None if row.method == first.method else _method(row)


def _chance(key: tuple[object, ...], method: str, draws: Draws) -> str | None:
    names, values = draws.get(key, ([], np.empty((0, 0))))
    if method not in names or len(names) < 2:
        return None
    return formatting.chance(float(probability_best(values)[names.index(method)]))


def _doubt(ranked: pd.DataFrame, first: pd.Series) -> str:
    if len(ranked) == 1:
        return "nothing to compare it with: no other method has a score here"
    if first.ok < SEEDS:
        return f"{formatting.number(int(first.ok), 'seed')} only: too few to be sure of"
    if not (seen := float(ranked.detectable.median(skipna=True))) > 0:
        return ""
    return f"differences below about {formatting.score(seen, 3)} would often be missed"


def overall(found: Sequence[Answer]) -> str:
    """One sentence over the tasks of a setting."""
    if len(found) < 2:
        return ""
    names = Counter(name for answer in found for name in _top(answer))
    every = [name for name, many in names.items() if many == len(found)]
    if every:
        return (
            f"Best, or not told apart from the best, on all {len(found)} tasks: "
            f"{formatting.listed(every)}.{_least(every, found)}"
        )
    if not names:
        return f"No method learned anything on any of the {len(found)} tasks."
    most = max(names.values())
    often = [name for name, many in names.items() if many == most]
    return (
        f"No method is best, or level with the best, on all {len(found)} tasks; most often, on "
        f"{most}: {formatting.listed(often)}."
    )


def _top(answer: Answer) -> tuple[str, ...]:
    return (answer.main.best.name, *answer.main.level) if answer.main.learned else ()


def _least(names: Sequence[str], found: Sequence[Answer]) -> str:
    """Which of several methods stores least over the tasks, if it is near the best on all."""
    known = {
        name: sum(answer.main.stored.get(name, nan) for answer in found) / len(found)
        for name in names
    }
    known = {name: mean for name, mean in known.items() if not formatting.missing(mean)}
    if len(known) < 2:
        return ""
    least = min(known, key=lambda name: known[name])
    return f" Of these {least} stores least: {formatting.size(known[least])} a task."


def by_setting(found: Sequence[Answer], results: Results) -> list[tuple[str, str, list[Answer]]]:
    """(setting in words, the sentence over its tasks, its answers)."""
    groups = []
    sizes = results.runs.setting.value_counts()  # the setting of most runs comes first
    for number in sizes.sort_index().sort_values(ascending=False, kind="stable").index:
        setting = results.settings[number]
        own = [answer for answer in found if answer.setting == number]
        if own:
            groups.append((formatting.setting(setting), overall(own), own))
    return groups
