"""Scores against what they cost, and against how much there is to learn from. Uses matplotlib."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from finegrid.report import formatting, pareto
from finegrid.report.figures import style
from finegrid.report.figures.keys import COSTS, FigureKey
from finegrid.report.figures.style import PAPER, RULE, SOFT, Mark

NEAR = 0.035  # of the axis' height: less between two names and they cover one another
TIMES = [
    unit * many
    for unit, steps in ((1, (1, 2, 5, 10, 20, 30)), (60, (1, 2, 5, 10, 20, 30)),
                        (3600, (1, 2, 5, 10, 20, 50, 100)))
    for many in steps
]  # fmt: skip
Render = Callable[[Axes, pd.DataFrame, "Axis", dict[str, Mark], set[str]], None]
Numbers = np.ndarray[Any, np.dtype[np.float64]]
SHOWN = ["method", "mean", "low", "high", "ok", "stopped", "race_seeds", "failed", "missing",
         "tie"]  # fmt: skip


@dataclass(frozen=True)
class Style:
    """What all figures of a task share."""

    marks: dict[str, Mark]
    level: float  # of the intervals
    published: tuple[tuple[str, float], ...] = ()  # label, score


@dataclass(frozen=True)
class FigureSpec:
    """A figure to be: what it says, its numbers, and how it is drawn."""

    title: str
    caption: str
    data: pd.DataFrame
    render: Callable[[], Canvas]


@dataclass(frozen=True)
class Axis:
    """What is on the horizontal axis."""

    column: str
    title: str  # as in "score by ..."
    label: str
    format: Callable[[float], str]


AXES = {
    "seconds": Axis(
        "train_seconds", "training time", "time of training a run", formatting.duration
    ),
    "bytes": Axis("delta_bytes", "bytes stored", "stored per task", formatting.size),
    "parameters": Axis("trainable", "parameters trained", "parameters that train, with the head's",
                       formatting.count),
    "fraction": Axis("fraction", "data fraction", "share of the training rows", formatting.percent),
    "rows": Axis("rows_asked", "training rows", "training rows", lambda value: f"{value:,.0f}"),
    "budget": Axis("budget", "budget", "budget in {unit}", lambda value: f"{value:g}"),
}  # fmt: skip


def cost(cells: pd.DataFrame, key: FigureKey, look: Style) -> FigureSpec | None:
    """Score against seconds, bytes or parameters (log): a point a method."""
    known = cells[cells[COSTS[key.kind]] > 0]
    return _spec(known, key, AXES[key.kind], look, _render_cost) if len(known) > 1 else None


def growth(cells: pd.DataFrame, key: FigureKey, look: Style) -> FigureSpec | None:
    """Score against the fraction of the data, or against the budget: a line a method."""
    by_number = key.kind == "fraction" and cells["rows_asked"].notna().all()
    axis = AXES["rows" if by_number else key.kind]
    several = cells[axis.column].nunique() > 1
    aside = " Marks stand side by side where they would cover one another."
    return _spec(cells, key, axis, look, _render_growth, more=aside) if several else None


def _spec(
    cells: pd.DataFrame,
    key: FigureKey,
    axis: Axis,
    look: Style,
    render: Render,
    *,
    more: str = "",
) -> FigureSpec:
    data = cells[[*SHOWN, axis.column]].astype({"method": str})
    weighed = np.column_stack([-data["mean"], data[axis.column]]).astype(float)
    data = data.assign(front=pareto.front(weighed))
    data = data.sort_values([axis.column, "mean"], ascending=[True, False], ignore_index=True)
    dotted = " Dotted: published scores, for orientation." if look.published else ""
    caption = (
        f"Mean of the test score over seeds with its {100 * look.level:g} % interval, cut off at "
        "the axes. Filled marks: best, or not told apart from the best. The grey line is "
        f"the Pareto front: nothing left of it and above it.{dotted}{more}"
    )
    caption = " ".join(filter(None, (caption, formatting.footnote(data))))
    metrics = sorted(set(cells.metric.dropna().astype(str)))
    labels = f"test {' / '.join(metrics)}", axis.label.format(unit=key.budget_unit)
    title = f"{key.task}: score by {axis.title}, {key.where}"
    return FigureSpec(title, caption, data, partial(_framed, render, data, axis, look, labels))


def _framed(
    render: Render, data: pd.DataFrame, axis: Axis, look: Style, labels: tuple[str, str]
) -> Canvas:
    """The axes with everything but the methods' points and lines; the legend has the best first."""
    last = data.groupby("method").tail(1).sort_values("mean", ascending=False)
    ranked, front = list(last.method), set(data[data.front].method)
    stopped = formatting.stopped_methods(data)
    axes = style.canvas(len(last), right=0.5 + style.room(ranked, stopped))
    axes.set_title(labels[0])
    axes.set_xlabel(labels[1])
    _limits(axes, data, look)
    render(axes, data, axis, look.marks, style.strong(ranked, front))
    for label, value in look.published:  # dotted lines that are nobody's rank
        axes.axhline(value, color=SOFT, lw=0.9, linestyle=":", zorder=1)
        axes.annotate(f"{label} {value:.3f}", (0, value), xycoords=("axes fraction", "data"),
                      xytext=(2, 3), textcoords="offset points", color=SOFT,
                      fontsize=style.SIZE - 1.5)  # fmt: skip
    style.legend(axes, ranked, look.marks, bold=front, stopped=stopped)
    return style.canvas_of(axes)


def _render_cost(
    axes: Axes, data: pd.DataFrame, axis: Axis, marks: dict[str, Mark], strong: set[str]
) -> None:
    axes.set_xscale("log")
    low, high = data[axis.column].min(), data[axis.column].max()
    room = (high / low) ** 0.06 if high > low else 1.5
    axes.set_xlim(low / room, high * room)
    _log_ticks(axes, axis)
    for name, rows in data.groupby("method", sort=False, observed=True):
        alpha = 1.0 if name in strong else style.FAINT
        x = rows[axis.column].to_numpy(dtype=float)
        _mark(axes, x, rows, marks[str(name)], alpha)
    best = data[data.front].sort_values(axis.column)
    axes.step([*best[axis.column], high * room], [*best["mean"], best["mean"].iloc[-1]],
              where="post", color=RULE, lw=5, zorder=0.5, solid_capstyle="round")  # fmt: skip
    bottom, top = axes.get_ylim()
    named = top
    for _, point in best[::-1].iterrows():  # nothing lies left of a point of the front and above it
        if named - point["mean"] > NEAR * (top - bottom):
            named = point["mean"]
            at = (point[axis.column], point["mean"])
            text = f"{style.short(point.method)}{formatting.stopped(point.to_dict())}"
            axes.annotate(text, at, ha="right", xytext=(-4, 4), textcoords="offset points")


def _render_growth(
    axes: Axes, data: pd.DataFrame, axis: Axis, marks: dict[str, Mark], strong: set[str]
) -> None:
    methods = [name for name in marks if name in set(data.method)]
    places = np.log10(np.array(sorted(data[axis.column].unique()), dtype=float))
    room = (0.35 if len(methods) > style.FEW else 0.15) * min(b - a for a, b in pairwise(places))
    offsets = room * ((np.arange(len(methods)) + 0.5) / len(methods) - 0.5)
    margin = 0.04 * (places[-1] - places[0]) + offsets[-1]
    axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: axis.format(10.0**at)))
    front: list[tuple[float, float]] = []
    for name, offset in zip(methods, offsets, strict=True):
        rows, mark = data[data.method == name], marks[name]
        x = np.log10(rows[axis.column].to_numpy(dtype=float)) + offset
        alpha = 1.0 if name in strong else style.FAINT
        axes.plot(x, rows["mean"], color=mark.colour, linestyle=mark.dash, lw=1.2, alpha=alpha)
        _mark(axes, x, rows, mark, alpha)
        for at, point in zip(x, rows.to_dict("records"), strict=True):
            axes.annotate(formatting.stopped(point), (at, point["mean"]), xytext=(3, 3),
                          textcoords="offset points", color=mark.colour)  # fmt: skip
        front += zip(x[rows.front], rows["mean"][rows.front], strict=True)
    axes.plot(*zip(*sorted(front), strict=True), color=RULE, lw=9, zorder=0.5,
              solid_capstyle="round", solid_joinstyle="round")  # fmt: skip


def _mark(axes: Axes, x: Numbers, rows: pd.DataFrame, mark: Mark, alpha: float) -> None:
    """A method's means and their whiskers; hollow where the best is certainly better."""
    mean, low, high = (rows[name].to_numpy(dtype=float) for name in ("mean", "low", "high"))
    known = ~np.isnan(low + high)
    ends = np.column_stack([low, high, np.full(len(low), np.nan)])[known]
    axes.plot(np.repeat(x[known], 3), ends.ravel(), color=mark.colour, lw=0.9,
              alpha=0.55 * alpha, zorder=2)  # fmt: skip
    tie = rows["tie"].to_numpy(dtype=bool)
    for chosen, fill in ((tie, mark.colour), (~tie, PAPER)):
        axes.plot(x[chosen], mean[chosen], mark.marker, color=mark.colour, mfc=fill, ms=5.2,
                  mew=1.1, alpha=1 if alpha == 1 else 0.75, zorder=3)  # fmt: skip


def _limits(axes: Axes, data: pd.DataFrame, look: Style) -> None:
    """Means decide, not the whiskers of a method with two seeds, which would flatten the rest."""
    values = [*data["mean"], *(score for _, score in look.published)]
    low, high = min(values), max(values)
    half = float(((data["high"] - data["low"]) / 2).median(skipna=True))
    pad = max(0.06 * (high - low), min(half, 0.3 * (high - low)) if half > 0 else 0.0, 0.004)
    axes.set_ylim(low - pad, high + pad)


def _log_ticks(axes: Axes, axis: Axis) -> None:
    low, high = axes.get_xlim()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis.format(value)))
    times = [time for time in TIMES if low <= time <= high]
    if axis.format is formatting.duration and len(times) > 1:
        axes.xaxis.set_major_locator(FixedLocator(times[:: 1 + len(times) // 9]))
        return
    subs = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
