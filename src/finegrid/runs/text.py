"""Runs as text: a duration, the command that repeats a run, and tables of Markdown.

Without pandas, so that the command line, sweeps, reports and analyses write them alike.
"""

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

BARE = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)


def digits(value: float, many: int = 3) -> str:
    """A number with `many` significant digits, at least those before the point; no exponent."""
    after = 0 if value == 0 else max(0, many - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(after, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def prefixed(value: float) -> tuple[str, str]:
    """A number below a thousand, if it can be, and its unit's prefix."""
    for unit, prefix in PREFIXES:
        if value >= unit * 0.9995:
            return digits(value / unit), prefix
    return digits(value), ""


def size(value: float) -> str:
    """Bytes in decimal units: `9.5 kB`, `91.2 MB`."""
    return " ".join(prefixed(value)) + "B"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours with two digits: `59 s`, `1.5 min`, `12 h`."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{digits(seconds / unit, 2)} {name}"
    return f"{digits(seconds, 2)} s"


def percent(share: float) -> str:
    """`30 %`, `0.12 %`; an exact nought stays one."""
    return f"{digits(100 * share)} %"


def budget(unit: str, value: float) -> str:
    """`8,000 examples`, `1 epoch`."""
    return f"{value:,g} {unit.removesuffix('s') if value == 1 else unit}"


def hydra_value(value: Any) -> str:
    """A value as Hydra's grammar writes it, so that Hydra reads the same value."""
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    text = str(value)
    return text if BARE.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()


def given_overrides(hydra: Any) -> list[str]:
    """The overrides in Hydra's part of a config as given: what they refer to is not put in."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(overrides)


def rerun_command(overrides: Iterable[str], *, sweep: str = "", command: str = "") -> str:
    """The shell command that runs a cell again, within a sweep's directory if one is named.

    `command` is that of the sweep; options of the user's own come from the same folder again.
    """
    within = [f"hydra.sweep.dir={hydra_value(sweep)}"] if sweep else []
    name, given = "sweep" if sweep else "train", list(overrides)
    within = within or alone(given)
    return shlex.join(["finegrid", name, *folder_of(command), *given, *within])


def alone(overrides: Iterable[str]) -> list[str]:
    """What keeps the command of one run from running the grid of an experiment that it names."""
    return ["hydra.mode=RUN"] * any(one.lstrip("+").startswith("experiment=") for one in overrides)


def folder_of(command: str) -> list[str]:
    """`--config-dir` and its folder in a command, which may be no command line at all."""
    try:
        return config_dir(shlex.split(command))
    except ValueError:
        return []


def config_dir(words: Sequence[str]) -> list[str]:
    """`--config-dir` and its folder among a command's words; nothing without them."""
    for word, following in pairwise([*words, ""]):
        flag, _, value = word.partition("=")
        if flag in ("-cd", "--config-dir"):
            return ["--config-dir", value or following]
    return []


def aligned(rows: Sequence[Sequence[str]], *, left: int | None = None) -> list[list[str]]:
    """Cells padded to the width of their column; those from column `left` on to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if left is None else left
    return [
        [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, padded: bool = True
) -> str:
    """A Markdown table; padded, its columns line up in a terminal too."""
    lines = [head, *rows]
    head, *rows = aligned(lines) if padded else lines
    lines = [head, ["-" * len(cell) if padded else "---" for cell in head], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
