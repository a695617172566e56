"""One look per method, the same in every figure, and the colours of a dark page. No matplotlib.

Colours after Okabe and Ito (2008) and Tol (2021), told apart with any colour vision; a marker and a
dash go with each, so that a grey print can be read too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finegrid.report.load.rankings import METHOD_ORDER

PAPER, INK, SOFT, RULE = "#ffffff", "#1b1f24", "#6a737d", "#dfe2e6"
# what a figure is drawn in -> what a dark page shows instead
COLOURS = {
    "#0072b2": "#5ab4ec",  # blue
    "#d55e00": "#ff8f47",  # vermilion
    "#00835f": "#35c69c",  # green
    "#aa3377": "#e884bb",  # purple
    "#c08400": "#f0bd4a",  # orange
    "#3399cc": "#9ad9f5",  # sky blue
    "#882255": "#d984a8",  # wine
    "#7a7a1f": "#cfcf74",  # olive
}
GREYS = {PAPER: "#14171a", INK: "#e8eaed", SOFT: "#9aa4ae", RULE: "#2d333a"}
BASELINES = {"full": (INK, "s"), "head": (SOFT, "D")}
MARKERS = ("o", "^", "v", "P", "X", "<", ">", "p", "h", "*", "d")  # 11: prime to 8 colours
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (5.0, 1.6)),
    (0, (1.2, 1.4)),
    (0, (5.0, 1.4, 1.2, 1.4)),
)
Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Mark:
    """How a method is drawn."""

    colour: str
    marker: str
    dash: Dash


def marks(methods: Sequence[str]) -> dict[str, Mark]:
    """A look for each of all methods: neutral for the baselines, then colours in turn."""
    found = {name: Mark(*BASELINES[name], "-") for name in METHOD_ORDER if name in {*methods}}
    colours = tuple(COLOURS)
    for number, name in enumerate(name for name in methods if name not in found):
        turn = number // len(colours)
        found[name] = Mark(
            colours[number % len(colours)],
            MARKERS[number % len(MARKERS)],
            DASHES[turn % len(DASHES)],
        )
    return found


def themed(svg: str) -> str:
    """A figure whose colours follow the page's: `#rrggbb` becomes `var(--c-rrggbb, #rrggbb)`."""
    known = "|".join([*COLOURS, *GREYS])
    return re.sub(known, lambda found: f"var(--c-{found[0][1:]}, {found[0]})", svg)


def dark() -> str:
    """The declarations that turn the figures of a page dark."""
    return " ".join(f"--c-{light[1:]}: {other};" for light, other in (COLOURS | GREYS).items())
