"""Learning curves, distances by layer, and the critical-difference diagram. Uses matplotlib."""

from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas

from finegrid.report import formatting
from finegrid.report.figures import labels, style
from finegrid.report.figures.curves import distances as read_distances
from finegrid.report.figures.curves import mean_curves, sampled
from finegrid.report.figures.labels import Label
from finegrid.report.figures.palette import INK, RULE, SOFT, Mark
from finegrid.report.figures.score_plots import FAINT, FEW, Sheet
from finegrid.report.figures.specs import Panel
from finegrid.report.load.rankings import Results, ordered
from finegrid.report.stats.ranks import mean_ranks

FILES = 300  # read for one figure
LEAST_METHODS, LEAST_BLOCKS = 3, 2  # for a comparison of ranks


def curves(runs: pd.DataFrame, panel: Panel, known: dict[str, Mark]) -> Sheet | None:
    """Validation against steps, or seconds where those are the budget: mean and range of seeds."""
    used = sampled(runs, FILES)
    data = mean_curves(used)
    if data.empty:
        return None
    x = "seconds" if panel.budget_unit == "seconds" else "step"
    part = (
        "" if len(used) == len(runs)
        else f" Read: the first {len(used)} of {len(runs):,} runs, the same number a method."
    )  # fmt: skip
    caption = (
        "Validation score of the weights at each evaluation: mean over seeds, and from the lowest "
        f"to the highest seed.{part}"
    )
    title = (
        f"{panel.task}: learning curves, "
        f"{formatting.budget(str(panel.budget_unit), panel.budget or 0)}, "
        f"{formatting.percent(panel.fraction)} of the data"
    )
    return Sheet(title, caption, data, partial(_paint_curves, data, x, known))


def _paint_curves(data: pd.DataFrame, x: str, known: dict[str, Mark]) -> Canvas:
    methods = [name for name in known if name in set(data.method)]
    axes = style.canvas(labels.height(len(methods)), right=labels.room(methods))
    axes.set_title("validation score")
    axes.set_xlabel("seconds of training" if x == "seconds" else "optimizer steps")
    last = data.groupby("method")["mean"].last().sort_values(ascending=False)
    strong = {*last.head(4).index, "full", "head"} if len(methods) > FEW else set(methods)
    ends = []
    for name in methods:
        own, mark, bright = data[data.method == name], known[name], name in strong
        axes.plot(own[x], own["mean"], color=mark.colour, linestyle=mark.dash, marker=mark.marker,
                  ms=3.2, lw=1.3, alpha=1 if bright else FAINT, mew=0)  # fmt: skip
        if bright:
            axes.fill_between(own[x], own.low, own.high, color=mark.colour, alpha=0.1, lw=0)
        weight = "bold" if bright and len(methods) > FEW else "normal"
        ends.append(Label(float(own[x].iloc[-1]), float(own["mean"].iloc[-1]), name, weight, mark))
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    labels.at_end(axes, ends)
    return style.canvas_of(axes)


def distances(runs: pd.DataFrame, panel: Panel) -> Sheet | None:
    """How far each layer moved, beside random weights: a row a method, or a kind of matrix of one.

    Radiya-Dixit & Wang 2020 (arXiv 2004.14129) measure closeness by layer and matrix.
    """
    found = read_distances(sampled(runs, FILES))
    if found.empty:
        return None
    row = "method" if found["method"].nunique() > 1 else "kind"
    squares = found.assign(moved=found["l2"] ** 2, drawn=found["l2_random"] ** 2)
    keys = ["seed", "layer", *sorted({"method", row})]
    sums = squares.groupby(keys, observed=True)[["moved", "drawn"]].sum().reset_index()
    sums["ratio"] = np.sqrt(sums["moved"] / sums["drawn"])
    data = sums.groupby([row, "layer"], observed=True)[["ratio"]].mean().reset_index()
    title = f"{panel.task}: distance from the pre-trained weights, by layer"
    caption = (
        "l2 of the change over l2 of the way to freshly drawn weights, all tensors of a layer "
        f"{'and kind ' if row == 'kind' else ''}taken together; mean over seeds."
    )
    return Sheet(title, caption, data, partial(_paint_distances, data, row))


def _paint_distances(data: pd.DataFrame, row: str) -> Canvas:
    table = data.pivot_table(index=row, columns="layer", values="ratio", observed=True)
    table = table.loc[ordered(set(table.index))]
    values = table.to_numpy(dtype=float)
    moved = values[values > 0]
    axes = style.canvas(
        1.1 + 0.24 * len(table), left=labels.room(list(map(str, table.index))), right=1.0
    )
    axes.grid(visible=False)
    colours = mpl.colormaps["cividis"].resampled(40)  # few enough for a colour bar without pixels
    norm = LogNorm(moved.min(), moved.max()) if moved.size and moved.min() < moved.max() else None
    image = axes.pcolormesh(np.where(values > 0, values, np.nan), cmap=colours, norm=norm,
                            edgecolors="face", linewidth=0.3)  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks(
        np.arange(len(table)) + 0.5, labels=[labels.short(str(name)) for name in table.index]
    )
    axes.set_xticks(np.arange(len(table.columns)) + 0.5, labels=list(map(str, table.columns)))
    axes.set_xlabel("layer (empty: unchanged)")
    bar = style.canvas_of(axes).colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    return style.canvas_of(axes)


def ranks(results: Results, panel: Panel, known: dict[str, Mark]) -> Sheet | None:
    """Mean ranks over blocks, with bars over methods that are not told apart."""
    found = mean_ranks(results, panel.setting)
    if found.blocks < LEAST_BLOCKS or len(found.methods) < LEAST_METHODS:
        return None
    gap = found.critical_difference
    data = pd.DataFrame({"method": found.methods, "mean_rank": found.mean_ranks})
    data = data.assign(critical_difference=gap, blocks=found.blocks)
    left_out = f" Left out, with too few scores: {formatting.listed(found.left_out)}."
    caption = (
        f"Rank of each method's mean score, averaged over the {found.blocks} rankings (task, "
        "budget and fraction) in which all of these have scores; 1 is best. Methods beside one bar "
        f"differ by less than the critical difference, {gap:.2f} (Nemenyi, 5 %), which is rather "
        "too small, since fractions of one task are not independent. Friedman test of any "
        f"difference: p = {found.friedman_p:.2g}.{left_out if found.left_out else ''}"
    )
    title = "Mean ranks over tasks, budgets and data fractions"
    return Sheet(title, caption, data, partial(_paint_ranks, data, gap, known))


def groups(mean: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last of the longest runs of sorted ranks that span less than the difference."""
    found: list[tuple[int, int]] = []
    for start, low in enumerate(mean):
        end = max(at for at, rank in enumerate(mean) if rank - low < critical)
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


def _paint_ranks(data: pd.DataFrame, critical: float, known: dict[str, Mark]) -> Canvas:
    mean = [float(rank) for rank in data.mean_rank]
    bars = groups(mean, critical)
    rows = len(mean)
    axes = style.canvas(
        0.95 + 0.2 * rows, left=labels.room(list(data.method)), right=1.0 + 0.12 * len(bars)
    )
    axes.grid(visible=False)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks(range(rows), labels=[labels.short(name) for name in data.method])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlabel("mean rank (1 is best)")
    axes.set_xlim(min(mean) - 0.3, max(mean) + 0.3)
    for row, (rank, method) in enumerate(zip(mean, data.method, strict=True)):
        mark = known[str(method)]
        axes.plot([axes.get_xlim()[0], rank], [row, row], color=RULE, lw=0.7, zorder=1)
        axes.plot([rank], [row], mark.marker, color=mark.colour, ms=5.2, mew=0, zorder=3)
    _bars(axes, bars)
    return style.canvas_of(axes)


def _bars(axes: Axes, bars: Sequence[tuple[int, int]]) -> None:
    """Right of the axes, a bar from the first to the last method of each group."""
    beside = axes.get_yaxis_transform()
    if bars:
        axes.text(1.0, -0.75, "not told apart", color=SOFT, transform=beside, ha="left")
    for number, (start, end) in enumerate(bars):
        x = 1.02 + 0.022 * number
        axes.plot([x, x], [start - 0.25, end + 0.25], color=SOFT, lw=3, solid_capstyle="butt",
                  transform=beside, clip_on=False)  # fmt: skip
