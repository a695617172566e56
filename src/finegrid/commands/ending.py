"""What a run or a sweep says at its end: the answer, the report that it wrote, the next command."""

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from finegrid.errors import refusal

REPORT = "report"  # a sweep's, below its directory


def after_run(directory: Path) -> None:
    """Say how a run by itself stands, and what to compare it with."""
    _attempt(lambda: _say(directory), directory)


def after_sweep(root: Path, cells: Collection[Mapping[str, Any]]) -> None:
    """Answer for the tasks and models of a sweep, and write the report of all in its directory.

    Args:
        root: the sweep's directory, which may hold more than this sweep's runs.
        cells: fields of the records of its cells.
    """
    if any(facts.get("trial") is not None for facts in cells):
        print(f"next: finegrid tune {root} --out conf/tuned/mine.yaml")
        return
    _attempt(lambda: _report(root, cells), root)


def _say(directory: Path) -> None:
    from finegrid.report.answer import answer
    from finegrid.report.comparison import Comparison
    from finegrid.report.load import rankings

    print(answer(Comparison.of(rankings.load([directory]))).text())


def _report(root: Path, cells: Collection[Mapping[str, Any]]) -> None:
    from finegrid.report import write
    from finegrid.report.answer import answer
    from finegrid.report.comparison import Comparison
    from finegrid.report.load import rankings

    made = every = Comparison.of(rankings.load([root]))
    asked = {(facts["task"], facts["model"]) for facts in cells}
    mine = every.runs[["task", "model"]].apply(tuple, axis=1).isin(asked)
    if not mine.all():
        made = Comparison.of(every.runs[mine].reset_index(drop=True))
    (path,) = write.write(every, root / REPORT, ["html"])
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
