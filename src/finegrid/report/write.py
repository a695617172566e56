"""A report's files: page, tables, figures and the tidy frame, each written whole or not at all."""

import io
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from finegrid.report import tables
from finegrid.report.load import outcomes
from finegrid.report.load.rankings import Results
from finegrid.report.stats import compare, ranks
from finegrid.report.stats.scores import Evidence
from finegrid.storage.files import write_atomic

if TYPE_CHECKING:
    from finegrid.report.figures.draw import Figure

PARQUET = "runs.parquet"


@dataclass(frozen=True)
class Made:
    """What a report is written from."""

    runs: pd.DataFrame  # of `frame.load`
    results: Results
    known: Evidence
    cells: pd.DataFrame
    best: pd.DataFrame
    level: float

    @cached_property
    def figures(self) -> "list[Figure]":
        """Drawn when a format wants them: matplotlib takes a second to load."""
        from finegrid.report.figures import draw
        from finegrid.report.load import published as reference

        published = reference.references()
        return draw.draw(
            self.results, self.cells, self.best, references=published, level=self.level
        )


Files = Iterator[tuple[str, bytes]]  # names below the report's directory, and contents


def write(made: Made, directory: Path, formats: Collection[str]) -> Iterator[Path]:
    """Write a report; yields each file that is there."""
    for name in (known for known in FORMATS if known in formats):
        for below, content in FORMATS[name](made):
            path = directory / below
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
            yield path


def _markdown(made: Made) -> Files:
    text = tables.markdown(made.results, made.cells, made.best, level=made.level)
    yield "report.md", text.encode()


def _html(made: Made) -> Files:
    from finegrid.report.html.page import page

    draws = compare.draws(made.results, known=made.known)
    standings = compare.standings(made.known)
    text = page(
        made.results, made.cells, made.best, made.figures, draws, standings, level=made.level
    )
    yield "report.html", text.encode()


def _csv(made: Made) -> Files:
    settings = pd.DataFrame(made.results.settings).rename_axis("setting").reset_index()
    frames = {
        "settings": settings,
        "cells": made.cells,
        "against_best": made.best,
        "across": ranks.probability_of_improvement(made.results, level=made.level),
        **{figure.name: figure.data for figure in made.figures},
    }
    for name, data in frames.items():
        yield f"csv/{name}.csv", tables.csv(data).encode()


def _latex(made: Made) -> Files:
    for name, text in tables.latex(made.results, made.cells, made.best).items():
        yield f"latex/{name}.tex", text.encode()


def _png(made: Made) -> Files:
    for figure in made.figures:
        yield f"figures/{figure.name}.svg", figure.svg.encode()
        yield f"figures/{figure.name}.png", figure.png()


def _parquet(made: Made) -> Files:
    places = made.runs["directory"].astype(str).str.split("/").str[-4:].str.join("/")
    buffer = io.BytesIO()  # with what the grid names a run, and no path of this machine
    predictions, left_out = outcomes.stored(made.runs)
    others = made.runs.drop(columns=list(predictions), errors="ignore").assign(directory=places)
    runs = pd.concat([others, predictions], axis=1)
    runs.to_parquet(buffer, index=False, compression="zstd")
    if left_out:
        print(f"note: {left_out}", file=sys.stderr)
    yield PARQUET, buffer.getvalue()


FORMATS: dict[str, Callable[[Made], Files]] = {
    "md": _markdown,
    "html": _html,
    "csv": _csv,
    "latex": _latex,
    "png": _png,
    "parquet": _parquet,
}
