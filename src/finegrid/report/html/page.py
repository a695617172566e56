"""Everything as one HTML file that needs nothing else: no network, no server, no other file."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any, Protocol

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from finegrid.report import formatting, tables
from finegrid.report.figures import palette, specs
from finegrid.report.html import payload as embedded
from finegrid.report.html import runs as details
from finegrid.report.html import summary
from finegrid.report.html import table as rows
from finegrid.report.load.rankings import Results
from finegrid.report.recommend.decide import UNLEARNED
from finegrid.report.recommend.options import Draws, Standings

PRINTED = 300  # cells whose runs a print shows
ROWS = 10_000  # of the table


class Drawn(Protocol):
    """What the page needs of a figure; see `plots.Figure`."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def data(self) -> pd.DataFrame: ...
    @property
    def svg(self) -> str: ...


def page(
    results: Results,
    cells: pd.DataFrame,
    against_best: pd.DataFrame,
    figures: Sequence[Drawn],
    draws: Draws,
    standings: Standings,
    *,
    level: float = 0.95,
) -> str:
    """The page. The same input gives the same bytes: no clock is read.

    Args:
        results: the runs, their settings and notes.
        cells: a row per method of a ranking.
        against_best: each cell's difference to the best of its ranking.
        figures: as `plots.draw` gives them; may be empty.
        draws: joint draws of the methods' true means, per ranking.
        standings: of `compare.standings`.
        level: of the intervals and ties in `cells` and `against_best`.
    """
    found = summary.answers(results, cells, against_best, draws)
    behind, curves, unlisted = details.details(results.runs)
    table = rows.rows(cells, against_best)
    left_out = specs.planned(results, cells).note if figures else ""
    payload = {
        "curves": curves,
        "csv": {figure.name: tables.csv(figure.data) for figure in figures}
        | {"cells": tables.csv(cells)},
        "tasks": embedded.choices(results, cells, draws, standings),
        "unlearned": UNLEARNED,
    }
    script = _asset("page.js")
    return _template().render(
        groups=summary.by_setting(found, results),
        notes=[*results.notes, *filter(None, (left_out, unlisted, _cut(table)))],
        rows=table[:ROWS],
        columns=rows.columns(table),
        tasks=_by_task(table[:ROWS], behind),
        figures=_grouped(figures),
        figure_count=len(figures),
        settings=[formatting.setting(setting) for setting in results.settings],
        about=_about(results.runs),
        payload=Markup(embedded.script_json(payload)),
        css=Markup(_asset("page.css").replace("/* figures */", _colours())),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        printed=PRINTED,
        level=f"{100 * level:g}\u00a0%",
        chance=f"{1 - level:.3g}",
    )


@cache
def _asset(name: str) -> str:
    return files("finegrid.report.html").joinpath(name).read_text(encoding="utf-8")


def _template() -> Template:
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["listed"] = formatting.listed
    environment.filters["themed"] = lambda svg: Markup(palette.themed(svg))
    return environment.from_string(_asset("page.html.j2"))


def _colours() -> str:
    return f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {palette.dark()} }} }}"


def _cut(rows: Sequence[object]) -> str:
    if len(rows) <= ROWS:
        return ""
    return f"The table shows {ROWS:,} of {len(rows):,} cells; the CSV file above it holds all."


def _by_task(
    rows: Iterable[dict[str, Any]], behind: dict[tuple[Any, ...], details.Detail]
) -> list[tuple[str, str, list[tuple[dict[str, Any], details.Detail]]]]:
    """(setting, task, its rows with the runs behind them)."""
    nothing = details.Detail((), 0)
    grouped = groupby(rows, key=lambda row: (row["setting"], row["task"]))
    return [
        (setting, task, [(row, behind.get(row["key"], nothing)) for row in own])
        for (setting, task), own in grouped
    ]


def _grouped(figures: Sequence[Drawn]) -> list[tuple[str, list[Drawn]]]:
    """Figures under what their titles begin with: the task."""
    found: dict[str, list[Drawn]] = {}
    for figure in figures:
        head, colon, _ = figure.title.partition(":")
        found.setdefault(head if colon else "Across tasks", []).append(figure)
    return list(found.items())


def _about(runs: pd.DataFrame) -> dict[str, list[str]]:
    """What to say when citing: versions, commits, machines, dates and commands."""

    def each(name: str) -> list[str]:
        if name not in runs:
            return []
        return sorted({str(value) for value in runs[name].dropna() if str(value)})

    days = sorted({day[:10] for day in each("finished") or each("started")})
    return {
        "versions": each("version"),
        "commits": [commit[:12] for commit in each("git_commit")],
        "devices": each("device"),
        "sources": each("data_source"),
        "dirty": [text for text in each("git_dirty") if text == "True"],
        "days": [days[0], days[-1]] if days else [],
        "commands": each("command"),
    }
