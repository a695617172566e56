"""A report's files: page, tables, figures and the tidy frame, each written atomically."""

import io
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pandas as pd

from finegrid.report import answer, between_models, paper, tables
from finegrid.report.comparison import Comparison
from finegrid.report.load import outcomes, works
from finegrid.report.load.rankings import PARQUET
from finegrid.report.stats.ranks import probability_of_improvement
from finegrid.storage.files import write_atomic

Files = Iterator[tuple[str, bytes]]  # names below the report's directory, and contents


def write(comparison: Comparison, directory: Path, formats: Collection[str]) -> Iterator[Path]:
    """Write a report; yields each file that is there."""
    for name in (known for known in FORMATS if known in formats):
        for below, content in FORMATS[name](comparison):
            path = directory / below
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
            yield path


def markdown(comparison: Comparison) -> str:
    """The answers, and below them the tables that they come from."""
    made = comparison.results, comparison.cells, comparison.best
    below = tables.markdown(*made, level=comparison.level, crossings=comparison.crossings)
    return "\n".join([answer.markdown(comparison), *between_models.markdown(comparison), below])


def _markdown(comparison: Comparison) -> Files:
    yield "report.md", markdown(comparison).encode()
    yield "paper.md", "\n".join(map(paper.markdown, comparison.paper)).encode()


def _html(comparison: Comparison) -> Files:
    from finegrid.report.html.page import page

    yield "report.html", page(comparison, *comparison.drawn).encode()


def _csv(comparison: Comparison) -> Files:
    results = comparison.results
    frames = {
        "settings": pd.DataFrame(results.settings).rename_axis("setting").reset_index(),
        "cells": comparison.cells,
        "against_best": comparison.best,
        "crossings": comparison.crossings,
        "models": comparison.models,
        "across": probability_of_improvement(results, level=comparison.level),
        **{figure.name: figure.data for figure in comparison.drawn[0]},
    }
    for name, data in frames.items():
        yield f"csv/{name}.csv", tables.csv(data).encode()


def _latex(comparison: Comparison) -> Files:
    for table in comparison.paper:
        yield f"latex/{table.name}.tex", paper.latex(table).encode()
    yield "latex/references.bib", works.bibtex(comparison.results).encode()


def _png(comparison: Comparison) -> Files:
    for figure in comparison.drawn[0]:
        yield f"figures/{figure.name}.svg", figure.svg.encode()
        yield f"figures/{figure.name}.png", figure.saved("png")


def _pdf(comparison: Comparison) -> Files:
    for figure in comparison.drawn[0]:
        yield f"figures/{figure.name}.pdf", figure.saved("pdf")


def _parquet(comparison: Comparison) -> Files:
    runs = comparison.runs
    places = runs["directory"].astype(str).str.split("/").str[-4:].str.join("/")
    predictions, left_out = outcomes.stored(runs, comparison.evidence.predictions)
    others = runs.drop(columns=list(predictions), errors="ignore")
    named = others.assign(directory=places)  # as the grid names a run, without a machine's path
    buffer = io.BytesIO()
    pd.concat([named, predictions], axis=1).to_parquet(buffer, index=False, compression="zstd")
    if left_out:
        print(f"note: {left_out}", file=sys.stderr)
    yield PARQUET, buffer.getvalue()


FORMATS: dict[str, Callable[[Comparison], Files]] = {
    "md": _markdown,
    "html": _html,
    "csv": _csv,
    "latex": _latex,
    "png": _png,
    "pdf": _pdf,
    "parquet": _parquet,
}
USUAL = [name for name in FORMATS if name != "pdf"]  # whose fonts take half a second a figure
