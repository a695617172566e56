"""The rows that a finished run was scored on, read anew."""

from finegrid.data.examples import Examples
from finegrid.data.loading import load
from finegrid.data.splits import split
from finegrid.errors import require
from finegrid.inference import Restored


def scored(run: Restored, where: str) -> Examples:
    """The validation or test rows of a run.

    Raises:
        UserError: if they are not those of the run any more.
    """
    _, tables = load(run.task, run.config.data)
    splits = split(tables, run.task, run.config.data)
    rows = splits.validation if where == "validation" else splits.test["test"]
    require_same(run, rows, where)
    return rows


def require_same(run: Restored, rows: Examples, where: str) -> None:
    """Raise `UserError` unless a run was scored on exactly these rows."""
    require(
        rows.digest() == getattr(run.record, f"{where}_hash"),
        f"the {where} rows of {run.task.name} ({run.record.data_source}) are not those of the runs",
    )
