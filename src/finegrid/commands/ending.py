"""What a run or a sweep says at its end: the answer, the report that it wrote, the next command."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from finegrid.errors import refusal
from finegrid.grid.expand import Cell
from finegrid.grid.status import Store
from finegrid.runs import layout

REPORT = "report"  # a sweep's, below its directory


def after_run(directory: Path) -> None:
    """Say how a run by itself stands, and what to compare it with."""
    _attempt(lambda: _say(directory), directory)


def after_sweep(store: Store, cells: Sequence[Cell]) -> None:
    """Answer for the tasks and models of a sweep, and write the report of all in its directory.

    Args:
        store: the sweep's directory, which may hold more than this sweep's runs.
        cells: its cells.
    """
    compared = [cell for cell in cells if cell.facts.get("trial") is None]
    if cells and not compared:
        print(f"next: finegrid tune {store.root} --out conf/tuned/mine.yaml")
        return
    _attempt(lambda: _report(store, compared), store.root)


def _say(directory: Path) -> None:
    from finegrid.report.answer import answer
    from finegrid.report.comparison import Comparison
    from finegrid.report.load import rankings

    print(answer(Comparison.of(rankings.load([directory]))).text())


def _report(store: Store, cells: Sequence[Cell]) -> None:
    import pandas as pd

    from finegrid.report import write
    from finegrid.report.answer import answer
    from finegrid.report.comparison import Comparison
    from finegrid.report.load import rankings

    given = store.given(cells)
    here = [] if given and not any(layout.run_directories(store.root)) else [store.root]
    runs = rankings.load(here) if here else given.pop()
    made = every = Comparison.of(pd.concat([runs, *given], ignore_index=True) if given else runs)
    asked = {(cell.facts["task"], cell.facts["model"]) for cell in cells}
    mine = every.runs[["task", "model"]].apply(tuple, axis=1).isin(asked)
    if not mine.all():
        made = Comparison.of(every.runs[mine].reset_index(drop=True))
    (path,) = write.write(every, store.root / REPORT, ["html"])
    print(answer(made).text(report=path))


def _attempt(end: Callable[[], None], directory: Path) -> None:
    """Whatever stops a report: the runs are done, so that it costs them one line."""
    try:
        end()
    except BrokenPipeError:  # nobody reads on
        raise
    except Exception as error:
        why = str(error).strip() or refusal(error) or type(error).__name__
        line = why.splitlines()[-1]
        print(f"no answer: {line}; try again: finegrid report {directory}", file=sys.stderr)
