"""Draws all figures of a report. Every figure comes with its data."""

from collections import Counter
from dataclasses import dataclass, field

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from finegrid.report.figures import diagrams, keys, score_plots, style
from finegrid.report.figures.keys import LIMIT, FigureKey
from finegrid.report.figures.score_plots import FigureSpec, Style
from finegrid.report.load import published
from finegrid.report.load.rankings import CELL, Results, ordered

PUBLISHED = 5  # lines of published scores in a figure


@dataclass(frozen=True)
class Figure:
    """A drawn figure; `data` holds every number in it."""

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    svg: str
    canvas: Canvas = field(repr=False, compare=False)

    def saved(self, kind: str, *, dpi: int = 200) -> bytes:
        """The figure as `png` or `pdf`."""
        return style.saved(self.canvas, kind, dpi=dpi)


def draw(
    results: Results,
    cells: pd.DataFrame,
    against_best: pd.DataFrame,
    *,
    references: pd.DataFrame | None = None,
    level: float = 0.95,
    limit: int = LIMIT,
) -> tuple[list[Figure], str]:
    """All figures of a report, setting by setting and task by task; and a note on those left out.

    Args:
        results: the runs; their directories are read for learning curves and distances.
        cells: a row per method of a ranking.
        against_best: says which methods are level with the best.
        references: published scores, as `published.references` gives them. Those of the same
            model, task, metric and protocol become dotted lines, which have no rank.
        level: of the intervals in `cells`.
        limit: figures at most.
    """
    marks = style.marks(ordered(set(cells.method)))
    ties = against_best[[*CELL, "tie"]]
    scored = keys.with_trainable(cells[cells.ok > 0]).merge(ties, on=CELL, how="left")
    scored["tie"] = scored["tie"].eq(True)
    planned, note = keys.planned(results, cells, limit=limit)
    names: Counter[str] = Counter()
    figures = []
    for key in planned:
        rows = keys.chosen(scored, key)
        look = Style(marks, level, _published(references, results, rows))
        if (spec := _spec(key, results, rows, look)) is None:
            continue
        several = f", setting {key.setting + 1}" if len(results.settings) > 1 else ""
        names[key.name] += 1
        again = f"-{names[key.name]}" if names[key.name] > 1 else ""
        figures.append(_figure(f"{key.name}{again}", f"{spec.title}{several}", spec))
    return figures, note


def _figure(name: str, title: str, spec: FigureSpec) -> Figure:
    with mpl.rc_context(style.RC):
        canvas = spec.render()
    return Figure(name, title, spec.caption, spec.data, style.svg(canvas, name, title), canvas)


def _spec(key: FigureKey, results: Results, cells: pd.DataFrame, look: Style) -> FigureSpec | None:
    """What a figure shows, or none if there is too little to see."""
    if key.kind == "ranks":
        return diagrams.ranks(results, cells, key, look.marks)
    if key.kind == "curves":
        return diagrams.curves(keys.runs_of(results, key), cells, key, look.marks)
    if key.kind == "distances":
        return diagrams.distances(keys.runs_of(results, key), cells, key)
    chart = score_plots.growth if key.kind in ("fraction", "budget") else score_plots.cost
    return chart(cells, key, look)


def _published(
    references: pd.DataFrame | None, results: Results, cells: pd.DataFrame
) -> tuple[tuple[str, float], ...]:
    """The best published scores comparable with a figure's: on all training rows, as they are."""
    full = cells[cells.fraction == 1]
    if references is None or full.empty or full.task.nunique() > 1:
        return ()
    first = full.iloc[0]
    setting = results.settings[int(first.setting)]
    like = published.matching(
        references, model=setting.model, task=str(first.task), metric=str(first.metric),
        protocol=setting.protocol,
    )  # fmt: skip
    best = like.sort_values(["score", "label"], ascending=[False, True]).head(PUBLISHED)
    return tuple(zip(map(str, best.label), map(float, best.score), strict=True))
