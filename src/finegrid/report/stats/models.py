"""Models compared with one another, a method at a time.

Settings are alike but for the model; seeds are common and rows the same. The intervals of a method
hold for all its models together, as those of a ranking do for its methods.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd

from finegrid.report.load.rankings import RANKING, SAME, Results, ordered
from finegrid.report.stats import simultaneous
from finegrid.report.stats.scores import Evidence, Key, Known
from finegrid.report.stats.shrunken_variance import spreads

COLUMNS = [
    *RANKING[1:], "method", "best", "best_mean", "model", "mean", "difference", "low", "high",
    "p_adjusted", "detectable", "seeds",
]  # fmt: skip


def models(results: Results, known: Evidence, *, level: float = 0.95) -> pd.DataFrame:
    """A row for each model that another one is ahead of with a method at a fraction of a table.

    `best` is the model with the highest mean of the method. `difference` is best - this over common
    `seeds`; `low` and `high` bound it, `detectable` is what would be found in 80 %. Models are
    compared where their runs had the same rows and metric and no race stopped any, and where the
    best of them learned something.
    """
    rows = [
        [*place, method, *row]
        for place, methods in _places(results, known).items()
        for method in ordered(methods)
        for row in _behind(methods[method], level)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _places(results: Results, known: Evidence) -> dict[Key, dict[str, dict[str, Known]]]:
    """Task, budget, fraction and what settings share -> method -> model -> cell."""
    fine = results.runs[results.runs["status"].eq("ok")]
    of = dict(list(fine.groupby(RANKING, observed=True)))
    alike: dict[Key, list[Key]] = defaultdict(list)
    for key in known.rankings:
        if key not in results.races:
            setting = replace(results.settings[key[0]], model="", fingerprint="")
            alike[(*key[1:], setting)].append(key)
    return {
        place[:-1]: _by_method(results, known, keys)
        for place, keys in alike.items()
        if len(keys) > 1 and _same_rows(pd.concat([of[key] for key in keys]))
    }


def _same_rows(runs: pd.DataFrame) -> bool:
    """Whether the runs of each seed had the same rows and metric."""
    return bool(runs.groupby("seed")[SAME].nunique().le(1).all(axis=None))


def _by_method(
    results: Results, known: Evidence, keys: Sequence[Key]
) -> dict[str, dict[str, Known]]:
    """Method -> model, with its weights' fingerprint where a name has several -> cell."""
    settings = [results.settings[key[0]] for key in keys]
    names = [setting.model for setting in settings]
    found: dict[str, dict[str, Known]] = defaultdict(dict)
    for key, setting in zip(keys, settings, strict=True):
        several = names.count(setting.model) > 1
        model = f"{setting.model} {setting.fingerprint}" if several else setting.model
        for method, cell in known.rankings[key].items():
            found[method][model] = cell
    return found


def _behind(models: Mapping[str, Known], level: float) -> Iterator[list[object]]:
    """Each model behind the best one, the highest first, from the column `best` on."""
    means = {name: float(cell.scores.values.mean()) for name, cell in models.items()}
    ranked = sorted(models, key=lambda name: -means[name])
    best, scores = ranked[0], [models[name].scores for name in ranked]
    pairs = simultaneous.pairs(scores, spreads(scores))
    half = pairs.half(level)[0]
    for at, name in enumerate(ranked[1:], start=1):
        if models[best].learned and pairs.seeds[0, at]:
            difference = float(pairs.difference[0, at])
            width = float(half[at]) if np.isfinite(half[at]) else nan
            yield [
                best, means[best], name, means[name], difference, difference - width,
                difference + width, pairs.p(0, at), pairs.detectable(0, at, width),
                int(pairs.seeds[0, at]),
            ]  # fmt: skip
