"""A canvas with the house's look, and what it becomes: clean SVG, or PNG. Uses matplotlib.

No pyplot: figures are made, written and forgotten, and no state is left behind.
"""

import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from finegrid.report.figures.palette import INK, PAPER, RULE, SOFT

DPI = 72  # one pixel of the layout is one point of the SVG
WIDTH = 7.4  # inches
SIZE = 8.5  # points
RC: Any = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.parse_math": False,  # a method's name may hold a dollar
    "font.family": ["DejaVu Sans"],  # for measuring; what the SVG names is FAMILY
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.labelcolor": SOFT,
    "axes.titlecolor": SOFT,
    "text.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
}
FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def canvas(height: float, *, left: float = 0.62, right: float = 1.5, bottom: float = 0.5) -> Axes:
    """Axes on a canvas of their own; all in inches. `right` is the room for labels."""
    figure = Canvas(figsize=(WIDTH, height), dpi=DPI)
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - right / WIDTH, bottom=bottom / height, top=1 - 0.34 / height
    )
    return figure.add_subplot()


def canvas_of(axes: Axes) -> Canvas:
    """The figure that axes stand in."""
    figure = axes.figure
    assert isinstance(figure, Canvas)
    return figure


def svg(figure: Canvas, name: str, title: str, description: str) -> str:
    """An `<svg>` element: the same bytes for the same figure, ids prefixed with its name."""
    buffer = io.StringIO()
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=NOTHING)
    body = buffer.getvalue()
    body = body[body.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    _, _, width, height = box[1].split()
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" width="{width}" '
        f'height="{height}" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'style="stroke-linejoin: round; stroke-linecap: butt; font-family: {FAMILY}">\n'
        f' <title id="{name}-title">{escape(title)}</title>\n'
        f' <desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + _clean(body[body.index(">") + 1 :], name)


def _clean(body: str, name: str) -> str:
    """Without comments, without a style for the whole page, without ids that could clash."""
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r' id="[\w.]+_\d+"', "", body)  # of groups: nothing refers to them
    body = re.sub(r'(\sid=")', rf"\1{name}-", body)
    body = body.replace('xlink:href="#', f'href="#{name}-')
    body = body.replace("url(#", f"url(#{name}-")
    body = re.sub(r"font-family: 'DejaVu Sans'[^;\"]*;? ?", "", body)
    body = re.sub(r"<[^>]*>", _rounded, body)
    return re.sub(r"\s*\n\s*", "\n", body).strip() + "\n"


def _rounded(tag: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point; not the text between tags."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])


def png(figure: Canvas, *, dpi: int = 200) -> bytes:
    """The figure on white, as a bitmap."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()
