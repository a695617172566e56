"""Learning curves, distances by layer, and the critical-difference diagram. Uses matplotlib."""

from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas

from finegrid.report import formatting
from finegrid.report.figures import style
from finegrid.report.figures.curves import distances as read_distances
from finegrid.report.figures.curves import mean_curves, sampled
from finegrid.report.figures.keys import FigureKey
from finegrid.report.figures.score_plots import FigureSpec
from finegrid.report.figures.style import INK, RULE, SOFT, Mark
from finegrid.report.load.rankings import RANKING, Results, ordered
from finegrid.report.stats.ranks import mean_ranks

FILES = 300  # read for one figure
LEAST_METHODS, LEAST_BLOCKS = 3, 2  # for a comparison of ranks


def curves(
    runs: pd.DataFrame, cells: pd.DataFrame, key: FigureKey, known: dict[str, Mark]
) -> FigureSpec | None:
    """Validation against steps, or seconds where those are the budget: mean and range of seeds."""
    used = sampled(runs, FILES)
    data = mean_curves(used)
    if data.empty:
        return None
    x = "seconds" if key.budget_unit == "seconds" else "step"
    caption = (
        "Validation score of the weights at each evaluation: mean over seeds, and from the lowest "
        "to the highest seed."
    )
    if len(used) < len(runs):
        caption += f" Read: the first {len(used)} of {len(runs):,} runs, the same number a method."
    data, caption = _marked(data, caption, cells)
    title = f"{key.task}: learning curves, {key.where}"
    return FigureSpec(title, caption, data, partial(_render_curves, data, x, known))


def _marked(data: pd.DataFrame, caption: str, cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Data and caption of methods' means, saying which methods a race stopped early."""
    stopped = formatting.stopped_methods(cells) & set(data["method"])
    note = formatting.footnote(cells[cells["method"].isin(stopped)])
    caption = " ".join(filter(None, (caption, note)))
    return data.assign(stopped_early=data["method"].isin(stopped)), caption


def _stopped(data: pd.DataFrame) -> set[str]:
    return set(data.loc[data["stopped_early"], "method"])


def _render_curves(data: pd.DataFrame, x: str, known: dict[str, Mark]) -> Canvas:
    last = data.groupby("method")["mean"].last().sort_values(ascending=False)
    strong, stopped = style.strong(list(last.index)), _stopped(data)
    axes = style.canvas(len(last), right=0.5 + style.room(last.index, stopped))
    axes.set_title("validation score")
    axes.set_xlabel("seconds of training" if x == "seconds" else "optimizer steps")
    for name in filter(set(last.index).__contains__, known):
        rows, mark, bright = data[data.method == name], known[name], name in strong
        axes.plot(rows[x], rows["mean"], color=mark.colour, ls=mark.dash, marker=mark.marker,
                  ms=3.2, lw=1.3, alpha=1 if bright else style.FAINT, mew=0)  # fmt: skip
        if bright:
            axes.fill_between(rows[x], rows.low, rows.high, color=mark.colour, alpha=0.1, lw=0)
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    bold = strong if len(last) > style.FEW else ()
    style.legend(axes, list(last.index), known, bold=bold, stopped=stopped)
    return style.canvas_of(axes)


def distances(runs: pd.DataFrame, cells: pd.DataFrame, key: FigureKey) -> FigureSpec | None:
    """How far each layer moved, beside random weights: a row a method, or a kind of matrix of one.

    Radiya-Dixit & Wang 2020 (arXiv 2004.14129) measure closeness by layer and matrix.
    """
    measured = read_distances(sampled(runs, FILES))
    if measured.empty:
        return None
    several = measured["method"].nunique() > 1
    row = "method" if several else "kind"
    squares = measured.assign(moved=measured["l2"] ** 2, drawn=measured["l2_random"] ** 2)
    keys = ["seed", "layer", *sorted({"method", row})]
    sums = squares.groupby(keys, observed=True)[["moved", "drawn"]].sum().reset_index()
    sums["ratio"] = np.sqrt(sums["moved"] / sums["drawn"])
    by = list(dict.fromkeys(["method", row, "layer"]))
    data = sums.groupby(by, observed=True)[["ratio"]].mean().reset_index()
    alone = style.label(str(data["method"].iloc[0]), formatting.stopped_methods(cells))
    caption = (
        f"l2 of the change{'' if several else f' by {alone}'} over l2 of the way to freshly drawn "
        f"weights, all tensors of a layer {'' if several else 'and kind '}taken together; mean "
        "over seeds."
    )
    data, caption = _marked(data, caption, cells)
    title = f"{key.task}: distance from the pre-trained weights, by layer"
    return FigureSpec(title, caption, data, partial(_render_distances, data, row))


def _render_distances(data: pd.DataFrame, row: str) -> Canvas:
    table = data.pivot_table(index=row, columns="layer", values="ratio", observed=True)
    table = table.loc[ordered(set(table.index))]
    names = [style.label(name, _stopped(data)) for name in map(str, table.index)]
    values = table.to_numpy(dtype=float)
    moved = values[values > 0]
    axes = style.canvas(2 * len(table), left=style.room(names), least=1.4)
    axes.grid(visible=False)
    colours = mpl.colormaps["cividis"].resampled(40)  # few enough for a colour bar without pixels
    norm = LogNorm(moved.min(), moved.max()) if moved.size and moved.min() < moved.max() else None
    image = axes.pcolormesh(np.where(values > 0, values, np.nan), cmap=colours, norm=norm,
                            edgecolors="face", linewidth=0.3)  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(table)) + 0.5, labels=names)
    axes.set_xticks(np.arange(len(table.columns)) + 0.5, labels=map(str, table.columns))
    axes.set_xlabel("layer (empty: unchanged)")
    ends = [moved.min(), moved.max()] if norm else None
    bar = style.canvas_of(axes).colorbar(
        image, ax=axes, fraction=0.04, pad=0.02, ticks=ends, format="%.2g"
    )
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    return style.canvas_of(axes)


def ranks(
    results: Results, cells: pd.DataFrame, key: FigureKey, known: dict[str, Mark]
) -> FigureSpec | None:
    """Mean ranks over blocks, with bars over methods that are not told apart."""
    ranked = mean_ranks(results, key.setting)
    if ranked.blocks < LEAST_BLOCKS or len(ranked.methods) < LEAST_METHODS:
        return None
    gap = ranked.critical_difference
    data = pd.DataFrame({"method": ranked.methods, "mean_rank": ranked.mean_ranks})
    data = data.assign(critical_difference=gap, blocks=ranked.blocks)
    left_out = f" Left out, with too few scores: {formatting.listed(ranked.left_out)}."
    caption = (
        f"Rank of each method's mean score, averaged over the {ranked.blocks} rankings (task, "
        "budget and fraction) in which all of these have scores; 1 is best. Methods beside one bar "
        f"differ by less than the critical difference, {gap:.2f} (Nemenyi, 5 %), which is rather "
        "too small, since fractions of one task are not independent. Friedman test of any "
        f"difference: p = {ranked.friedman_p:.2g}.{left_out if ranked.left_out else ''}"
    )
    in_blocks = cells.set_index(RANKING).index.isin(ranked.rankings)
    data, caption = _marked(data, caption, cells[in_blocks])
    title = "Mean ranks over tasks, budgets and data fractions"
    return FigureSpec(title, caption, data, partial(_render_ranks, data, gap, known))


def groups(mean: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last of the longest runs of sorted ranks that span less than the difference."""
    spans: list[tuple[int, int]] = []
    for start, low in enumerate(mean):
        end = max(at for at, rank in enumerate(mean) if rank - low < critical)
        if end > start and (not spans or end > spans[-1][1]):
            spans.append((start, end))
    return spans


def _render_ranks(data: pd.DataFrame, critical: float, known: dict[str, Mark]) -> Canvas:
    rows, bars = len(data), groups(list(data.mean_rank), critical)
    names = [style.label(name, _stopped(data)) for name in data.method]
    left, right = style.room(names), 1.0 + 0.12 * len(bars)
    axes = style.canvas(rows + rows // 3, left=left, right=right, least=1.4)
    axes.grid(visible=False)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks(range(rows), labels=names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlabel("mean rank (1 is best)")
    low, high = data.mean_rank.min() - 0.3, data.mean_rank.max() + 0.3
    axes.set_xlim(low, high)
    for row, (rank, method) in enumerate(zip(data.mean_rank, data.method, strict=True)):
        mark = known[str(method)]
        axes.plot([low, rank], [row, row], color=RULE, lw=0.7, zorder=1)
        axes.plot([rank], [row], mark.marker, color=mark.colour, ms=5.2, mew=0, zorder=3)
    beside = axes.get_yaxis_transform()
    if bars:
        axes.text(1.0, -0.75, "not told apart", color=SOFT, transform=beside, ha="left")
    for number, (start, end) in enumerate(bars):
        x = 1.02 + 0.022 * number
        axes.plot([x, x], [start - 0.25, end + 0.25], color=SOFT, lw=3, solid_capstyle="butt",
                  transform=beside, clip_on=False)  # fmt: skip
    return style.canvas_of(axes)
