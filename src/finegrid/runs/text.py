"""Runs as text: a duration, the command that repeats a run, and tables of Markdown.

Without pandas, so that the command line, sweeps, reports and analyses write them alike.
"""

import math
import shlex
from collections.abc import Iterable, Sequence


def digits(value: float, many: int = 3) -> str:
    """A number with `many` significant digits, at least those before the point; no exponent."""
    after = 0 if value == 0 else max(0, many - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(after, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Seconds, minutes or hours with two digits: `59 s`, `1.5 min`, `12 h`."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{digits(seconds / unit, 2)} {name}"
    return f"{digits(seconds, 2)} s"


def rerun_command(overrides: Iterable[str], *, sweep: str = "") -> str:
    """The shell command that runs a cell again, within a sweep's directory if one is named."""
    within = [f"hydra.sweep.dir={sweep}"] if sweep else []
    return shlex.join(["finegrid", "sweep" if sweep else "train", *overrides, *within])


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
