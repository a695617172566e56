"""Names written beside what they name, without covering one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from finegrid.report.figures import style
from finegrid.report.figures.palette import RULE, Mark
from finegrid.report.figures.style import SIZE

LINE = 1.22 * SIZE  # points from one line of text to the next
WIDE = 0.6 * SIZE  # points, of a letter
LONG = 34  # letters of a name that are drawn
NEAR = ((7, 0), (-7, 0), (0, 9), (0, -9), (6, 8), (-6, 8), (6, -8), (-6, -8))
FAR = tuple((dx * far, dy * far) for far in (2.2, 3.4, 5.0) for dx, dy in NEAR[4:] + NEAR[:4])


@dataclass(frozen=True)
class Label:
    """A name, and where in the data it belongs."""

    x: float
    y: float
    text: str
    weight: str = "normal"
    mark: Mark | None = None  # drawn before the name


def height(methods: int) -> float:
    """Inches: room for a name a line."""
    return max(3.7, min(8.0, 0.9 + methods * LINE / style.DPI))


def short(name: str) -> str:
    """A name that fits beside a figure; the figure's data have it whole."""
    return name if len(name) <= LONG else f"{name[: LONG - 12]}\u2026{name[-11:]}"


def room(names: Sequence[str]) -> float:
    """Inches that a column of names takes, with its marks."""
    return 0.45 + max(len(short(name)) for name in names) * WIDE / style.DPI


def at_end(axes: Axes, labels: Sequence[Label], *, gap: float = 12) -> None:
    """A column of marks and names right of the axes, each near the height of its line's end."""
    if not labels:
        return
    ordered = sorted(labels, key=lambda label: label.y)
    wanted = [float(axes.transData.transform((1, label.y))[1]) for label in ordered]
    right = float(axes.bbox.x1)
    low, high = float(axes.bbox.y0), float(axes.bbox.y1)
    for label, y, target in zip(ordered, spread(wanted, LINE, low, high), wanted, strict=True):
        start = float(axes.transData.transform((label.x, label.y))[0]) + 4
        _thread(axes, (start, target), (right + gap - 3, y))
        if label.mark:
            _key(axes, label.mark, (right + gap + 2, y))
        axes.annotate(
            short(label.text), (right + gap + 9, y), xycoords="figure points",
            fontweight=label.weight, va="center", annotation_clip=False,
        )  # fmt: skip


def _key(axes: Axes, mark: Mark, at: tuple[float, float]) -> None:
    """A method's mark at a place in points."""
    inches = style.canvas_of(axes).dpi_scale_trans
    axes.plot([at[0] / 72], [at[1] / 72], mark.marker, color=mark.colour, ms=4.6, mew=0,
              transform=inches, clip_on=False, scalex=False, scaley=False)  # fmt: skip


def _thread(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "", start, xytext=end, xycoords="figure points", textcoords="figure points",
        arrowprops={"arrowstyle": "-", "color": RULE, "lw": 0.7, "shrinkA": 0, "shrinkB": 0},
        annotation_clip=False,
    )  # fmt: skip


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions nearest to rising `wanted` ones (least squares) that keep their distance.

    Pool-adjacent-violators on what is left after the gaps; the whole column is shifted inside
    `low` to `high` if it fits there.
    """
    pools: list[tuple[float, int]] = []  # mean, members
    for number, value in enumerate(wanted):
        mean, size = value - number * gap, 1
        while pools and pools[-1][0] > mean:
            other, members = pools.pop()
            mean = (mean * size + other * members) / (size + members)
            size += members
        pools.append((mean, size))
    ceiling = max(low, high - (len(wanted) - 1) * gap)
    level = [min(max(mean, low), ceiling) for mean, size in pools for _ in range(size)]
    return [value + number * gap for number, value in enumerate(level)]


def at_points(axes: Axes, labels: Sequence[Label]) -> list[str]:
    """A name beside each point, the first ones first; returns the names that found no place."""
    dots = [tuple(map(float, axes.transData.transform((item.x, item.y)))) for item in labels]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    frame = axes.bbox
    inside = (float(frame.x0), float(frame.y0), float(frame.x1) + 90, float(frame.y1) + 8)
    homeless = []
    for label, (x, y) in zip(labels, dots, strict=True):
        for dx, dy in (*NEAR, *FAR):
            box = _box(x + dx, y + dy, dx, len(short(label.text)))
            if _within(box, inside) and not any(_overlap(box, other) for other in taken):
                _beside(axes, label, (x, y), (dx, dy))
                taken.append(box)
                break
        else:
            homeless.append(label.text)
    return homeless


def _beside(axes: Axes, label: Label, at: tuple[float, float], offset: tuple[float, float]) -> None:
    x, y = at[0] + offset[0], at[1] + offset[1]
    if offset not in NEAR:
        _thread(axes, at, (x, y))
    side = "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"
    axes.annotate(
        short(label.text), (x, y), xycoords="figure points", ha=side, va="center",
        fontweight=label.weight, annotation_clip=False,
    )  # fmt: skip


Box = tuple[float, float, float, float]


def _box(x: float, y: float, dx: float, letters: int) -> Box:
    width = letters * WIDE
    left = x if dx > 0 else x - width if dx < 0 else x - width / 2
    return (left, y - LINE / 2, left + width, y + LINE / 2)


def _within(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def dodge(values: Sequence[float], many: int, *, share: float = 0.3) -> list[float]:
    """Offsets for `many` series that stand at the same places, within a share of the least gap."""
    gaps = [b - a for a, b in pairwise(sorted(set(values)))]
    room = share * min(gaps, default=0.0)
    return [room * ((number + 0.5) / many - 0.5) for number in range(many)]
