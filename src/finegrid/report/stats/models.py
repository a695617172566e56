"""Models compared with one another, a method at a time.

Settings are alike but for the model, and so is what else was asked for but the rate; seeds are
common and rows the same. The intervals of a method hold for all its models together, as those of a
ranking do for its methods.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from finegrid.report.load import variants
from finegrid.report.load.rankings import (
    MIXED,
    RANKING,
    SAME,
    Results,
    Setting,
    narrowed,
    ordered,
)
from finegrid.report.stats import simultaneous
from finegrid.report.stats.compare import leading
from finegrid.report.stats.scores import Evidence, Key, Known
from finegrid.report.stats.shrunken_variance import by_seed, spreads

COLUMNS = [
    *RANKING[1:], "method", "apart", "best", "best_mean", "model", "mean", "difference", "low",
    "high", "p_adjusted", "detectable", "seeds", "best_setting", "setting",
]  # fmt: skip


class Cell(NamedTuple):
    """A method with one model."""

    model: str
    key: Key  # its ranking
    method: str
    setting: Setting  # of its own runs where the ranking's is mixed, without the model
    way: tuple[Any, ...]  # what else was asked for beyond the model
    known: Known
    runs: pd.DataFrame


def models(results: Results, known: Evidence, *, level: float = 0.95) -> pd.DataFrame:
    """A row for each model that another one leads with a method at a fraction of a table.

    `best` is the leading model: the highest mean of those that learned something, first of those
    with several seeds. `difference` is best - this over common `seeds`, as both means are; `low`
    and `high` bound it, `detectable` is what would be found in 80 %. `apart` says what the settings
    differ in where several of them have models to compare. Raced rankings are left out.
    """
    if len({(setting.model, setting.fingerprint) for setting in results.settings}) < 2:
        return pd.DataFrame(columns=COLUMNS)
    rows = [
        [*place, cells[0].method, apart, *row]
        for place, apart, cells in _compared(results, known)
        for row in _behind(cells, level)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _compared(results: Results, known: Evidence) -> Iterator[tuple[Key, str, list[Cell]]]:
    """Place, what tells its settings apart, and cells that nothing but the model does."""
    groups: dict[Key, list[Cell]] = defaultdict(list)
    shared: dict[Key, set[Setting]] = defaultdict(set)
    for cell in _cells(results, known):
        method = cell.method.partition(" ")[0]
        groups[(*cell.key[1:], cell.setting, method, cell.way)].append(cell)
    for *place, setting, _, _ in groups:
        shared[tuple(place)].add(setting)
    names = ordered({cell.method for cells in groups.values() for cell in cells})
    by_name = sorted(groups.items(), key=lambda group: names.index(group[1][0].method))
    for (*place, setting, _, _), cells in by_name:
        told = _differing(setting, shared[tuple(place)])
        for same in _on_the_same_rows(cells):
            if len(same) > 1:
                yield tuple(place), told, same


def _cells(results: Results, known: Evidence) -> Iterator[Cell]:
    """Those of all rankings that were not raced and are of one model."""
    fine = results.runs[results.runs["status"].eq("ok")]
    ways = variants.ways(fine)
    by_cell = dict(list(fine.assign(way=ways).groupby([*RANKING, "method"], observed=True)))
    fingerprints: dict[str, set[str]] = defaultdict(set)
    for setting in results.settings:
        fingerprints[setting.model].add(setting.fingerprint)
    for key, methods in known.rankings.items():
        setting = results.settings[key[0]]
        if key in results.races or setting.model == MIXED:
            continue
        several = len(fingerprints[setting.model]) > 1
        model = f"{setting.model} {setting.fingerprint}" if several else setting.model
        for method, cell in methods.items():
            runs = by_cell[*key, method]
            way = tuple(p for p in runs["way"].iloc[0] if not p[0].startswith("model."))
            own = replace(narrowed(setting, runs), model="", fingerprint="")
            yield Cell(model, key, method, own, way, cell, runs)


def _differing(setting: Setting, others: set[Setting]) -> str:
    """The fields of a setting that not all of some have, in words."""
    fields = asdict(setting)
    told = [name for name in fields if len({getattr(other, name) for other in others}) > 1]
    return " ".join(f"{name}={fields[name]}" for name in told)


def _on_the_same_rows(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in groups whose runs of each seed had the same rows, metric and class of interest."""
    groups: list[list[Cell]] = []
    for cell in cells:
        for group in groups:
            runs = pd.concat([one.runs for one in (*group, cell)])
            if runs.groupby("seed")[[*SAME, "positive"]].nunique().le(1).all(axis=None):
                group.append(cell)
                break
        else:
            groups.append([cell])
    return groups


def _behind(cells: Sequence[Cell], level: float) -> Iterator[list[object]]:
    """Each model behind the leading one, the highest first, from the column `best` on."""
    scores = [cell.known.scores for cell in cells]
    pairs = simultaneous.pairs(scores, spreads(scores))
    of_model = {str(at): cell.known for at, cell in enumerate(cells)}
    if (first := leading(of_model, pairs, level, ())) is None:
        return
    half = pairs.half(level)[first]
    values, present = by_seed(scores)
    for at in sorted(range(len(cells)), key=lambda at: -float(scores[at].values.mean())):
        seeds = int(pairs.seeds[first, at])
        if at == first or not seeds:
            continue
        both = present[first] * present[at]
        best, mean = ((values[one] * both).sum() / seeds for one in (first, at))
        width = float(half[at]) if np.isfinite(half[at]) else nan
        yield [
            cells[first].model, best, cells[at].model, mean, best - mean, best - mean - width,
            best - mean + width, pairs.p(first, at), pairs.detectable(first, at, width),
            seeds, cells[first].key[0], cells[at].key[0],
        ]  # fmt: skip
