"""How figures look: matplotlib's settings, a mark for each method, SVG, PNG and PDF.

Without pyplot: figures are made, written and forgotten, and no state is left behind. Colours after
Okabe and Ito (2008) and Tol (2021), told apart with any colour vision; a marker and a dash go with
each, so that a grey print can be read too.
"""

import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from finegrid.report.formatting import STOPPED
from finegrid.report.load.rankings import METHOD_ORDER

WIDTH = 7.4  # inches
SIZE = 8.5  # points, of letters
LINE = 0.15  # inches, of a legend's entry
LONGEST = 34  # letters of a name that are drawn
FEW = 9  # series that can be told apart at full strength
FAINT = 0.35  # opacity of the others
PAPER, INK, SOFT, RULE = "#ffffff", "#1b1f24", "#6a737d", "#dfe2e6"
COLOURS = ("#0072b2", "#d55e00", "#00835f", "#aa3377", "#c08400", "#3399cc", "#882255", "#7a7a1f")
MARKERS = ("o", "^", "v", "P", "X", "<", ">", "p", "h", "*", "d")  # 11: prime to 8 colours
DASHES = ("-", (0, (5.0, 1.6)), (0, (1.2, 1.4)), (0, (5.0, 1.4, 1.2, 1.4)))
UNDATED = {"png": ["Software"], "pdf": ["Creator", "Producer", "CreationDate"]}
RC: Any = {
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.parse_math": False,  # a method's name may hold a dollar
    "font.family": ["DejaVu Sans"],
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # fixed: finding the place takes a sixth of the time
    "axes.titlecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
}


@dataclass(frozen=True)
class Mark:
    """How a method is drawn, the same in every figure."""

    colour: str
    marker: str
    dash: Any


def marks(methods: Sequence[str]) -> dict[str, Mark]:
    """A mark for each method: neutral for the baselines, then colours in turn."""
    baselines = dict(zip(METHOD_ORDER, (Mark(INK, "s", "-"), Mark(SOFT, "D", "-")), strict=True))
    others = [name for name in methods if name not in baselines]
    return {name: mark for name, mark in baselines.items() if name in {*methods}} | {
        name: Mark(
            COLOURS[at % len(COLOURS)],
            MARKERS[at % len(MARKERS)],
            DASHES[at // len(COLOURS) % len(DASHES)],
        )
        for at, name in enumerate(others)
    }


def canvas(lines: int, *, left: float = 0.62, right: float = 1.0, least: float = 3.7) -> Axes:
    """Axes on a canvas that is high enough for so many lines of text; margins in inches."""
    height = max(least, min(0.9 + lines * LINE, 8.0))
    figure = Canvas(figsize=(WIDTH, height), dpi=72)
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - right / WIDTH, bottom=0.5 / height, top=1 - 0.34 / height
    )
    return figure.add_subplot()


def room(names: Iterable[str], stopped: Collection[str] = ()) -> float:
    """Inches that a column of names takes."""
    return 0.2 + max(len(label(name, stopped)) for name in names) * 0.6 * SIZE / 72


def canvas_of(axes: Axes) -> Canvas:
    """The figure that axes stand in."""
    assert isinstance(axes.figure, Canvas)
    return axes.figure


def short(name: str) -> str:
    """A name that fits beside a figure; the figure's data have all of it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 12]}\u2026{name[-11:]}"


def label(name: str, stopped: Collection[str]) -> str:
    """A method's name beside a figure, marked if a race stopped it early."""
    return f"{short(name)}{STOPPED if name in stopped else ''}"


def strong(ranked: Sequence[str], front: Collection[str] = ()) -> set[str]:
    """The methods drawn at full strength: of many the baselines, the front, and the best six."""
    if len(ranked) <= FEW:
        return set(ranked)
    return {*ranked[: FEW - 3], *front, *METHOD_ORDER}


def legend(
    axes: Axes,
    methods: Sequence[str],
    known: Mapping[str, Mark],
    *,
    bold: Collection[str] = (),
    stopped: Collection[str] = (),
) -> None:
    """The methods right of the axes, in this order; matplotlib's legend takes twice the time.

    `bold` and `stopped` (by a race, early) name those that are marked so.
    """
    beside = axes.transAxes
    line = LINE / (axes.get_position().height * canvas_of(axes).get_figheight())
    for at, name in enumerate(methods):
        y, mark = 1 - line * (at + 0.5), known[name]
        axes.plot(
            [1.02, 1.04, 1.06], [y] * 3, mark.marker, color=mark.colour, ls=mark.dash, lw=1.2,
            ms=4.6, mew=0, markevery=[1], transform=beside, clip_on=False,
        )  # fmt: skip
        weight = "bold" if name in bold else "normal"
        text = label(name, stopped)
        axes.text(1.075, y, text, va="center", transform=beside, fontweight=weight)


def svg(figure: Canvas, name: str, title: str) -> str:
    """An `<svg>` element: the same bytes for the same figure; no id is another figure's."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={**nothing, "Title": title})
    drawn = buffer.getvalue()
    counted = r'(<\w+) id="[\w.]+_\d{1,4}"'  # in every figure; nothing refers to them
    return re.sub(counted, r"\1", drawn[drawn.index("<svg") :])


def saved(figure: Canvas, kind: str, *, dpi: int = 200) -> bytes:
    """The figure on white as `png` or `pdf`: the same bytes for the same figure."""
    buffer = io.BytesIO()
    undated = dict.fromkeys(UNDATED[kind])
    with mpl.rc_context(RC):
        figure.savefig(buffer, format=kind, dpi=dpi, facecolor=PAPER, metadata=undated)
    return buffer.getvalue()
