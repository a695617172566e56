"""Cells to figures: what a score costs, and how it grows. Every figure comes with its data."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from finegrid.report.figures import diagrams, score_plots, specs, style
from finegrid.report.figures.palette import marks
from finegrid.report.figures.score_plots import Look, Sheet
from finegrid.report.figures.specs import LIMIT, Panel
from finegrid.report.load import published as reference
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
    paint: Callable[[], Canvas] = field(repr=False, compare=False)

    def png(self, *, dpi: int = 200) -> bytes:
        """The figure as a bitmap, drawn on demand."""
        with mpl.rc_context(style.RC):
            return style.png(self.paint(), dpi=dpi)


def draw(
    results: Results,
    cells: pd.DataFrame,
    against_best: pd.DataFrame,
    *,
    references: pd.DataFrame | None = None,
    level: float = 0.95,
    limit: int = LIMIT,
) -> list[Figure]:
    """All figures of a report, setting by setting and task by task.

    Args:
        results: the runs; their directories are read for learning curves and distances.
        cells: a row per method of a ranking.
        against_best: says which methods are level with the best.
        references: published scores, as `reference.references` gives them. Those of the same model,
            task, metric and protocol become dotted lines, which have no rank.
        level: of the intervals in `cells`.
        limit: figures at most; `panels.planned` says what is left out.
    """
    look = Look(marks(ordered(set(cells.method))), level)
    full = specs.with_trainable(_with_ties(cells, against_best))
    names: Counter[str] = Counter()
    drawn = []
    for panel in specs.planned(results, cells, limit=limit).panels:
        own = specs.chosen(full[full.ok > 0], panel)
        published = _published(references, results, own)
        sheet = _sheet(panel, results, own, replace(look, published=published))
        if sheet is not None:
            several = f", setting {panel.setting + 1}" if len(results.settings) > 1 else ""
            sheet = replace(sheet, title=f"{sheet.title}{several}")
            names[panel.name] += 1
            again = f"-{names[panel.name]}" if names[panel.name] > 1 else ""
            drawn.append(_figure(f"{panel.name}{again}", sheet))
    return drawn


def _figure(name: str, sheet: Sheet) -> Figure:
    with mpl.rc_context(style.RC):
        svg = style.svg(sheet.paint(), name, sheet.title, sheet.caption)
    return Figure(name, sheet.title, sheet.caption, sheet.data, svg, sheet.paint)


def _sheet(panel: Panel, results: Results, cells: pd.DataFrame, look: Look) -> Sheet | None:
    """The figure of a panel, or none if there is too little to see."""
    if panel.kind == "ranks":
        return diagrams.ranks(results, panel, look.marks)
    if panel.kind == "curves":
        return diagrams.curves(specs.runs_of(results, panel), panel, look.marks)
    if panel.kind == "distances":
        return diagrams.distances(specs.runs_of(results, panel), panel)
    chart = score_plots.growth if panel.kind in ("fraction", "budget") else score_plots.cost
    return chart(cells, panel, look)


def _with_ties(cells: pd.DataFrame, against_best: pd.DataFrame) -> pd.DataFrame:
    ties = against_best[[*CELL, "tie"]]
    return cells.merge(ties, on=CELL, how="left").fillna({"tie": False}).astype({"tie": bool})


def _published(
    references: pd.DataFrame | None, results: Results, cells: pd.DataFrame
) -> tuple[tuple[str, float], ...]:
    """The best published scores comparable with a panel's: on all training rows, as they are."""
    full = cells[cells.fraction == 1]
    if references is None or full.empty or full.task.nunique() > 1:
        return ()
    first = full.iloc[0]
    setting = results.settings[int(first.setting)]
    found = reference.matching(
        references, model=setting.model, task=str(first.task), metric=str(first.metric),
        protocol=setting.protocol,
    )  # fmt: skip
    best = found.sort_values(["score", "label"], ascending=[False, True]).head(PUBLISHED)
    return tuple(zip(map(str, best.label), map(float, best.score), strict=True))
