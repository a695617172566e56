"""A report as one HTML file that needs nothing else: no network, no server, no other file."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from finegrid.report import between_models, effort, formatting, overtaking, tables
from finegrid.report.answer import answer, by_setting, verdict
from finegrid.report.comparison import Comparison
from finegrid.report.figures import keys
from finegrid.report.figures.draw import Figure
from finegrid.report.html import payload, runs, table
from finegrid.report.html.mistakes import Mistakes, mistakes
from finegrid.report.load.rankings import RANKING, TABLE
from finegrid.report.recommend.decide import UNLEARNED

PRINTED = 300  # cells whose runs a print shows
ROWS = 10_000  # of the table
FIRST = 10  # methods in the figure beside an answer
ERRING = 24  # tasks whose predictions are looked into
ABOUT = {  # columns of the runs that say what to cite
    "versions": "version",
    "commits": "git_commit",
    "devices": "device",
    "sources": "data_source",
    "dirty": "git_dirty",
    "commands": "command",
}


def page(comparison: Comparison, figures: Sequence[Figure] = (), left_out: str = "") -> str:
    """The page. The same input gives the same bytes: no clock is read.

    Args:
        comparison: the runs and what is known of them.
        figures: to show; they are drawn with matplotlib's SVG backend.
        left_out: a sentence on figures that were not drawn, or nothing.
    """
    results, cells = comparison.results, comparison.cells
    listed = runs.listed(results.runs)
    rows = table.rows(cells, comparison.best)
    data = {
        "csv": {figure.name: tables.csv(figure.data) for figure in figures}
        | {"cells": tables.csv(cells)},
        "tasks": payload.choices(results, cells, comparison.draws, comparison.standings),
        "unlearned": UNLEARNED,
    }
    script = _asset("page.js")
    stopped = formatting.footnote(cells)
    return _template().render(
        groups=by_setting(comparison, comparison.headlines),
        verdict=verdict,
        said=answer(comparison),
        leads=_leads(cells, rows),
        mistakes=_mistakes(comparison),
        overtaking=_overtaking(comparison),
        overtaking_intro=overtaking.intro(comparison.level),
        models=between_models.rows(comparison),
        models_head=between_models.HEAD,
        models_said=between_models.sentences(comparison),
        models_intro=between_models.intro(comparison.level),
        models_more=between_models.more(comparison),
        first=FIRST,
        notes=[*results.notes, *filter(None, (left_out, listed.note, _cut(len(rows))))],
        rows=rows[:ROWS],
        forgetting=bool(cells["forgetting"].notna().any()),
        columns=table.columns(rows),
        details=listed.cells,
        figures=_by_task(figures),
        settings=[formatting.setting(setting) for setting in results.settings],
        about=_about(results.runs),
        payload=Markup(payload.script_json(data)),
        css=Markup(_asset("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        printed=PRINTED,
        level=f"{100 * comparison.level:g}\u00a0%",
        chance=f"{1 - comparison.level:.3g}",
        race=formatting.race(cells),
        stopped=stopped,
        shared=formatting.ABOUT,
        footnotes=list(filter(None, (stopped, effort.tuning(results.runs)))),
    )


@cache
def _asset(name: str) -> str:
    return files("finegrid.report.html").joinpath(name).read_text(encoding="utf-8")


def _template() -> Template:
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["listed"] = formatting.listed
    environment.filters["svg"] = Markup
    return environment.from_string(_asset("page.html.j2"))


def _main(cells: pd.DataFrame) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """(setting, task) -> the ranking that speaks for it."""
    scored = cells[cells["ok"] > 0].astype({"task": str})
    return {key: keys.main(rows) for key, rows in scored.groupby(["setting", "task"])}


def _leads(
    cells: pd.DataFrame, rows: Sequence[dict[str, Any]]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """(setting, task) -> the rows with a score of its main ranking, best first."""
    mains = {ranking: key for key, ranking in _main(cells).items()}
    leads: dict[tuple[Any, ...], list[dict[str, Any]]] = {key: [] for key in mains.values()}
    for row in rows:
        if row["whisker"] and (key := mains.get(row["ranking"])) is not None:
            leads[key].append(row)
    return leads


def _mistakes(comparison: Comparison) -> dict[tuple[Any, ...], Mistakes]:
    """(setting, task) -> how methods err in its main ranking, where predictions tell."""
    runs = comparison.results.runs
    fine = runs[runs["status"].eq("ok")].astype({"method": str})
    means = comparison.cells.sort_values("mean", ascending=False)
    known, made = comparison.evidence.predictions, {}
    for key, ranking in list(_main(comparison.cells).items())[:ERRING]:
        at, of = ((frame[RANKING] == ranking).all(axis=1) for frame in (fine, means))
        made[key] = mistakes(fine[at], list(means.loc[of, "method"].astype(str)), known)
    return {key: one for key, one in made.items() if one}


def _overtaking(comparison: Comparison) -> dict[tuple[Any, ...], list[tuple[str, list[str]]]]:
    """(setting, task) -> budget and at how many labels methods overtake one another with it."""
    made: dict[tuple[Any, ...], list[tuple[str, list[str]]]] = {}
    for of in comparison.crossings[TABLE].drop_duplicates().to_dict("records"):
        budget = formatting.budget(of["budget_unit"], of["budget"])
        told = overtaking.sentences(comparison.crossings, of)
        made.setdefault((of["setting"], of["task"]), []).append((budget, told))
    return made


def _cut(rows: int) -> str:
    if rows <= ROWS:
        return ""
    return f"The table shows {ROWS:,} of {rows:,} cells; the CSV file above it holds all."


def _by_task(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Figures by what their titles begin with: the task."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        head, colon, _ = figure.title.partition(":")
        groups.setdefault(head if colon else "Across tasks", []).append(figure)
    return groups


def _about(frame: pd.DataFrame) -> dict[str, list[str]]:
    """What to say when citing: versions, commits, machines, days and commands."""

    def values(column: str) -> list[str]:
        there = frame[column].dropna() if column in frame else ()
        return sorted({str(value) for value in there if str(value)})

    days = sorted({day[:10] for day in values("finished") or values("started")})
    about = {name: values(column) for name, column in ABOUT.items()}
    return about | {"days": days, "commits": [commit[:12] for commit in about["commits"]]}
