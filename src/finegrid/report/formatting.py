"""How numbers and settings read, in figures and on the page."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from finegrid.report.load.rankings import MIXED, Setting
from finegrid.runs import text

MINUS, DASH, SPACE = "\u2212", "\u2013", "\u00a0"  # a space that no line ends at
STOPPED = "\u2021"  # behind the mean of a method that a race stopped early
ABOUT = "≈: of runs that shared passes or cores with others, not to be compared."


def missing(value: object) -> bool:
    """Whether there is no number: None, NaN or pandas' NA."""
    return bool(pd.isna(value))  # type: ignore[call-overload]


def score(value: float | None, digits: int = 4) -> str:
    """A score, with a real minus sign; a dash where there is none."""
    if value is None or missing(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", MINUS)


def mean(cell: Mapping[Any, Any]) -> str:
    """A cell's mean score, marked where a race stopped its method early."""
    return f"{score(cell['mean'])}{stopped(cell)}"


def stopped(cell: Mapping[Any, Any]) -> str:
    """The mark of a method that a race stopped before the seeds declared; else nothing."""
    return STOPPED if cell["stopped"] < cell["race_seeds"] else ""


def stopped_methods(cells: pd.DataFrame) -> set[str]:
    """The methods of some cells with the mark in one of them."""
    return set(cells.loc[cells["stopped"] < cells["race_seeds"], "method"].astype(str))


def footnote(cells: pd.DataFrame) -> str:
    """What the mark means, if one of some cells has it."""
    if not stopped_methods(cells):
        return ""
    return (
        f"{STOPPED}: stopped early by a race; its mean score is biased by 0.05 to 0.2 standard "
        "deviations of a run."
    )


def race(cells: pd.DataFrame) -> str:
    """`at 0.4 % after a race of up to 10 seeds`, of cells' raced rankings; or nothing."""
    raced = cells[cells["race_level"].notna()]
    if raced.empty:
        return ""
    levels = between(raced["race_level"], percent)
    return f"at {levels} after a race of up to {between(raced['race_seeds'], '{:g}'.format)} seeds"


def between(values: pd.Series, form: Callable[[float], str]) -> str:
    """`8`, or `6 to 8` where they differ."""
    return " to ".join(dict.fromkeys(map(form, (values.min(), values.max()))))


def of_class(runs: pd.DataFrame) -> str:
    """` of CLASS` where F1 is of one class in these runs; nothing where it is not, or not known."""
    names = sorted(set(runs["positive"].dropna().astype(str))) if "positive" in runs else []
    return f" of {' / '.join(names)}" if names else ""


def metric(runs: pd.DataFrame, task: str, *, short: bool = False) -> str:
    """A task's headline, with the class that F1 is of: `mean of f1 and accuracy`.

    In short a mean reads `f1 / accuracy`.
    """
    columns = [name for name in runs if str(name).startswith(("metric", "positive", "test/"))]
    runs = runs.loc[runs["task"] == task, columns]  # of many columns
    names = parts = sorted(set(runs["metric"].dropna().astype(str)))
    if names == ["mean"]:
        scored = [
            str(name) for name in runs if str(name).startswith("test/") and runs[name].count()
        ]
        parts = [name[5:] for name in scored if name != "test/mean"] or names
    parts = [f"{name}{of_class(runs)}" if name == "f1" else name for name in parts]
    of_several = names == ["mean"] != parts and not short
    return f"mean of {listed(parts)}" if of_several else " / ".join(parts)


def span(low: float | None, high: float | None, digits: int = 4) -> str:
    """An interval, such as `0.8512 to 0.8611`; nothing where there is none."""
    if low is None or high is None or missing(low) or missing(high):
        return ""
    return f"{score(low, digits)} to {score(high, digits)}"


def count(value: float | None) -> str:
    """A number of things: `770`, `12.3k`, `1.24M`."""
    if value is None or missing(value):
        return DASH
    return "".join(text.prefixed(value))


def size(value: float | None) -> str:
    """Bytes in decimal units: `9.5 kB`, `91.2 MB`."""
    if value is None or missing(value):
        return DASH
    return f"{SPACE}".join(text.prefixed(value)) + "B"


def duration(seconds: float | None) -> str:
    """`59 s`, `1.5 min`, `12 h`; a dash where there is none."""
    if seconds is None or missing(seconds):
        return DASH
    return text.duration(seconds).replace(" ", SPACE)


def percent(share: float | None) -> str:
    """`30 %`, `0.12 %`; an exact nought stays one."""
    if share is None or missing(share):
        return DASH
    return text.percent(share).replace(" ", SPACE)


def about(cell: Any) -> str:
    """A mark before the seconds of a cell whose runs shared passes or cores with others."""
    return "" if cell["own_seconds"] else "≈"  # unknown (NaN) is true


def amount(cell: Any) -> str:
    """How much of the training data a cell has: `30 %`, or `128 rows` where so many were asked."""
    rows = cell["rows_asked"]
    return percent(cell["fraction"]) if missing(rows) else f"{rows:,.0f}{SPACE}rows"


def chance(share: float) -> str:
    """A probability estimated from some hundred draws: never quite 0 or 1; halves go up."""
    if share > 0.99:
        return f">{SPACE}99{SPACE}%"
    return f"<{SPACE}1{SPACE}%" if share < 0.01 else f"{math.floor(100 * share + 0.5)}{SPACE}%"


def forgetting(rise: float | None) -> str:
    """A rise of the language-model loss: `+0.250`; a dash where it was not measured."""
    if rise is None or missing(rise):
        return DASH
    return f"{rise:+.3f}".replace("-", MINUS)


def budget(unit: str, value: float) -> str:
    """`8,000 examples`, `1 epoch`."""
    return text.budget(unit, value).replace(" ", SPACE)


def number(many: int, thing: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{many:,} {thing}{'s' * (many != 1)}"


def listed(names: Sequence[str], *, most: int = 12) -> str:
    """`a, b and c`; what is beyond `most` is counted."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def model(given: Setting) -> str:
    """The model of a setting, for a heading."""
    return "several models" if given.model == MIXED else given.model


def setting(given: Setting) -> str:
    """What all runs of a setting share, for a heading."""
    weights = {"True": "", "False": ", random weights"}.get(
        str(given.pretrained), f", pretrained {given.pretrained}"
    )
    head = "" if given.head == "classifier" else f", head {given.head}"
    loss = "" if given.loss == "cross_entropy" else f", loss {given.loss}"
    semi = "" if given.semi == "none" else f", semi {given.semi}"
    validation = {"fixed": "", "share": ", validation within the fraction"}.get(
        given.validation_from, f", validation_from {given.validation_from}"
    )
    dropout = {"True": "", "False": ", no dropout below what trains"}.get(
        str(given.frozen_dropout), f", frozen_dropout {given.frozen_dropout}"
    )
    stock = {"True": "", "False": ", without kernels"}.get(
        str(given.kernels), f", kernels {given.kernels}"
    )
    return (
        f"{model(given)}{weights}{head}{loss}{semi}, protocol {given.protocol}{validation}, "
        f"{given.select} checkpoint, precision {given.precision or 'unknown'}{dropout}{stock}, "
        f"finegrid {given.version}"
    )
