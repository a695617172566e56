"""Markdown: tables, ratios with their spread, and the page that holds them."""

import shlex
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from finegrid.runs.text import markdown_table


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return markdown_table(titles, list(rows), padded=False)


def middle(values: Sequence[float], digits: int = 1) -> str:
    """The median."""
    return f"{statistics.median(values):.{digits}f}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and least to most where there are several."""
    if len(values) == 1:
        return middle(values, digits)
    return f"**{middle(values, digits)}** ({min(values):.{digits}f}..{max(values):.{digits}f})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def command_line(argv: Sequence[str]) -> str:
    """The command without where its output goes and whose interpreter it used."""
    words, left_out = ["python", "benchmarks/peers.py"], ("--into", "--label", "--adapters-python")
    given = iter(argv[1:])
    for word in given:
        name = word.partition("=")[0]
        if name not in left_out:
            words.append(word)
        elif name == word:
            next(given)
    return shlex.join(words)


def replace(page: Path, name: str, command: str, text: str) -> None:
    """Put a measurement between its two marks in a page, or at the page's end."""
    begin, end = f"<!-- {name}: measured -->", f"<!-- {name}: end -->"
    block = f"{begin}\n```bash\n{command}\n```\n\n{text}\n{end}"
    found = page.read_text(encoding="utf-8")
    if begin in found:
        before, rest = found.split(begin, 1)
        found = before + block + rest.split(end, 1)[1]
    else:
        found = f"{found.rstrip()}\n\n{block}\n"
    page.write_text(found, encoding="utf-8")
