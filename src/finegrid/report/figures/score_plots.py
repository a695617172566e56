"""Scores against what they cost, and against how much there is to learn from. Uses matplotlib."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from finegrid.report import formatting
from finegrid.report.figures import labels, style
from finegrid.report.figures.labels import Label
from finegrid.report.figures.palette import PAPER, RULE, SOFT, Mark
from finegrid.report.figures.specs import COSTS, Panel

FEW = 9  # series that can be told apart at full strength
FAINT = 0.35
Published = Sequence[tuple[str, float]]
TIMES = [unit * many for unit, steps in ((1, (1, 2, 5, 10, 20, 30)), (60, (1, 2, 5, 10, 20, 30)),
         (3600, (1, 2, 5, 10, 20, 50, 100))) for many in steps]  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What all figures of a task share."""

    marks: dict[str, Mark]
    level: float  # of the intervals
    published: tuple[tuple[str, float], ...] = ()  # label, score


@dataclass(frozen=True)
class Sheet:
    """A figure to be: what it says, its numbers, and how it is drawn."""

    title: str
    caption: str
    data: pd.DataFrame
    paint: Callable[[], Canvas]


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
    "budget": Axis("budget", "budget", "budget", lambda value: f"{value:g}"),
}  # fmt: skip
SHOWN = ["method", "mean", "low", "high", "ok", "failed", "missing", "tie"]


def front(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Whether nothing else is as cheap and better, or cheaper and as good."""
    order = sorted(range(len(costs)), key=lambda at: (costs[at], -scores[at]))
    best, found = -np.inf, [False] * len(costs)
    for at in order:
        if scores[at] > best:
            best, found[at] = scores[at], True
    return found


def cost(cells: pd.DataFrame, panel: Panel, look: Look) -> Sheet | None:
    """Score against seconds, bytes or parameters (log): a point a method."""
    axis = AXES[panel.kind]
    there = cells[cells[COSTS[panel.kind]] > 0]
    if len(there) < 2:
        return None
    data = _data(there, axis)
    title = f"{panel.task}: score by {axis.title}, {_where(panel)}"
    return Sheet(
        title, _reading(look), data, partial(_paint_cost, data, axis, _metric(cells), look)
    )


def growth(cells: pd.DataFrame, panel: Panel, look: Look) -> Sheet | None:
    """Score against the fraction of the data, or against the budget: a line a method."""
    axis = AXES[panel.kind]
    if cells[axis.column].nunique() < 2:
        return None
    if panel.kind == "budget":
        axis = Axis("budget", "budget", f"budget in {panel.budget_unit}", axis.format)
    data = _data(cells, axis)
    title = f"{panel.task}: score by {axis.title}, {_where(panel)}"
    caption = f"{_reading(look)} Marks stand side by side where they would cover one another."
    return Sheet(title, caption, data, partial(_paint_growth, data, axis, _metric(cells), look))


def _reading(look: Look) -> str:
    """How to read a figure of scores."""
    dotted = " Dotted: published scores, for orientation." if look.published else ""
    return (
        f"Mean of the test score over seeds with its {100 * look.level:g} % interval, cut off at "
        "the axes. Filled marks: best, or not told apart from the best. The grey line is "
        f"the Pareto front: nothing left of it and above it.{dotted}"
    )


def _data(cells: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """The numbers of a figure, best first."""
    data = cells[[*SHOWN, axis.column]].astype({"method": str})
    data = data.assign(front=front(list(data[axis.column]), list(data["mean"])))
    return data.sort_values([axis.column, "mean"], ascending=[True, False], ignore_index=True)


def _metric(cells: pd.DataFrame) -> str:
    names = sorted(set(cells.metric.dropna().astype(str)))
    return f"test {' / '.join(names)}"


def _where(panel: Panel) -> str:
    """What is the same for all points: `8 epochs, 30 % of the data`."""
    parts = []
    if panel.budget_unit and panel.budget is not None:
        parts.append(formatting.budget(panel.budget_unit, panel.budget))
    if panel.fraction is not None:
        parts.append(f"{formatting.percent(panel.fraction)} of the data")
    return ", ".join(parts)


def _paint_cost(data: pd.DataFrame, axis: Axis, metric: str, look: Look) -> Canvas:
    axes = style.canvas(labels.height(len(data)), right=1.15)
    axes.set_xscale("log")
    axes.set_title(metric)
    axes.set_xlabel(axis.label)
    _limits(axes, data, look.published)
    low, high = data[axis.column].min(), data[axis.column].max()
    room = (high / low) ** 0.06 if high > low else 1.5
    axes.set_xlim(low / room, high * room)
    _log_ticks(axes, axis)
    _front(axes, data, axis)
    strong = {*data[data.front].method, "full", "head"} if len(data) > FEW else {*data.method}
    for row in data.itertuples():
        alpha = 1.0 if row.method in strong else FAINT
        _mark(axes, getattr(row, axis.column), row, look.marks[str(row.method)], alpha)
    first = data.sort_values(["front", "mean"], ascending=False)
    named = [
        Label(x, y, name, "bold" if on_front else "normal")
        for x, y, name, on_front in zip(
            first[axis.column], first["mean"], first.method, first.front, strict=True
        )
    ]
    labels.at_points(axes, named)
    _published(axes, look.published)
    return style.canvas_of(axes)


def _paint_growth(data: pd.DataFrame, axis: Axis, metric: str, look: Look) -> Canvas:
    methods = [name for name in look.marks if name in set(data.method)]
    axes = style.canvas(labels.height(len(methods)), right=labels.room(methods))
    axes.set_title(metric)
    axes.set_xlabel(axis.label)
    places = np.log10(np.array(sorted(data[axis.column].unique()), dtype=float))
    _limits(axes, data, look.published)
    offsets = labels.dodge(list(places), len(methods), share=0.35 if len(methods) > FEW else 0.15)
    margin = 0.04 * (places[-1] - places[0]) + offsets[-1]
    axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: axis.format(10.0**at)))
    ends = []
    strong = _strong(data, methods, axis)
    envelope = []
    for name, offset in zip(methods, offsets, strict=True):
        own = data[data.method == name]
        x = np.log10(own[axis.column].to_numpy(dtype=float)) + offset
        alpha = 1.0 if name in strong else FAINT
        mark = look.marks[name]
        axes.plot(x, own["mean"], color=mark.colour, linestyle=mark.dash, lw=1.2, alpha=alpha)
        for at, row in zip(x, own.itertuples(), strict=True):
            _mark(axes, at, row, mark, alpha)
        weight = "bold" if name in strong and len(methods) > FEW else "normal"
        ends.append(Label(float(x[-1]), float(own["mean"].iloc[-1]), name, weight, mark))
        envelope += [*zip(x[own.front], own["mean"][own.front], strict=True)]
    axes.plot(*zip(*sorted(envelope), strict=True), color=RULE, lw=9, zorder=0.5,
              solid_capstyle="round", solid_joinstyle="round")  # fmt: skip
    labels.at_end(axes, ends)
    _published(axes, look.published)
    return style.canvas_of(axes)


def _strong(data: pd.DataFrame, methods: Sequence[str], axis: Axis) -> set[str]:
    """The series drawn at full strength: all of a few; of many the front, the last's best."""
    if len(methods) <= FEW:
        return set(methods)
    last = data[data[axis.column] == data[axis.column].max()]
    best = last.sort_values("mean", ascending=False).method.head(FEW - 3)
    return {*best, *data[data.front].method, "full", "head"}


def _mark(axes: Axes, x: float, row: object, mark: Mark, alpha: float) -> None:
    """A method's mean and its whisker; hollow if the best is certainly better."""
    mean, low, high = (float(getattr(row, name)) for name in ("mean", "low", "high"))
    if not (np.isnan(low) or np.isnan(high)):
        axes.plot([x, x], [low, high], color=mark.colour, lw=0.9, alpha=0.55 * alpha, zorder=2)
    fill = mark.colour if getattr(row, "tie", False) else PAPER
    axes.plot([x], [mean], mark.marker, color=mark.colour, mfc=fill, ms=5.2, mew=1.1,
              alpha=1 if alpha == 1 else 0.75, zorder=3)  # fmt: skip


def _front(axes: Axes, data: pd.DataFrame, axis: Axis) -> None:
    best = data[data.front].sort_values(axis.column)
    x = [*best[axis.column], axes.get_xlim()[1]]
    y = [*best["mean"], best["mean"].iloc[-1]]
    axes.step(x, y, where="post", color=RULE, lw=5, zorder=0.5, solid_capstyle="round")


def _limits(axes: Axes, data: pd.DataFrame, published: Published) -> None:
    """Means decide, not the whiskers of a method with two seeds, which would flatten the rest."""
    values = [*data["mean"], *(score for _, score in published)]
    low, high = min(values), max(values)
    half = float(((data["high"] - data["low"]) / 2).median(skipna=True))
    pad = max(0.06 * (high - low), min(half, 0.3 * (high - low)) if half > 0 else 0.0, 0.004)
    axes.set_ylim(low - pad, high + pad)


def _log_ticks(axes: Axes, axis: Axis) -> None:
    low, high = axes.get_xlim()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis.format(value)))
    if axis.format is formatting.duration:
        times = [time for time in TIMES if low <= time <= high]
        if len(times) > 1:
            axes.xaxis.set_major_locator(FixedLocator(times[:: 1 + len(times) // 9]))
            return
    subs = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))


def _published(axes: Axes, published: Published) -> None:
    """Dotted lines that are nobody's rank."""
    for label, value in published:
        axes.axhline(value, color=SOFT, lw=0.9, linestyle=":", zorder=1)
        axes.annotate(f"{label} {value:.3f}", (0, value), xycoords=("axes fraction", "data"),
                      xytext=(2, 3), textcoords="offset points", color=SOFT,
                      fontsize=style.SIZE - 1.5)  # fmt: skip
