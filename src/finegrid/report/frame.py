"""Run directories to cells: the runs that differ in their seed alone, together."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from finegrid.errors import UserError
from finegrid.record import FILE, Record, read


@dataclass(frozen=True, order=True)
class Table:
    """What must be equal for rows to stand in one table."""

    task: str
    model: str
    pretrained: bool
    protocol: str
    select: str
    frozen_dropout: bool
    budget_unit: str
    budget: float
    precision: str


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one fraction in one table."""

    runs: tuple[Record, ...]

    @property
    def ok(self) -> tuple[Record, ...]:
        """The runs that ended well."""
        return tuple(run for run in self.runs if run.status == "ok")

    def mean(self, name: str) -> float | None:
        """Mean of a numeric field over the `ok` runs."""
        values = self._values(name)
        return fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Sample standard deviation over seeds; needs two `ok` runs."""
        values = self._values(name)
        return stdev(values) if len(values) > 1 else None

    def _values(self, name: str) -> list[float]:
        found = (getattr(run, name) for run in self.ok)
        return [float(value) for value in found if value is not None]


Frame = dict[Table, dict[tuple[str, float], Cell]]


def records(directory: Path) -> list[Record]:
    """Every record below a directory.

    Raises:
        UserError: if there is none, or one is unreadable.
    """
    found = [read(path.parent) for path in sorted(directory.rglob(FILE))]
    if not found:
        raise UserError(f"no {FILE} below {directory}; run a sweep first, or name its directory")
    return found


def frame(runs: list[Record]) -> Frame:
    """Group records into tables and cells; several tries of one seed count once, the last `ok`.

    Raises:
        UserError: if all are tuning trials, which have no test score and no place in these tables.
    """
    grouped: dict[Table, dict[tuple[str, float], dict[int, Record]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    results = [run for run in runs if run.trial is None]
    if runs and not results:
        raise UserError("these runs are tuning trials; scripts/tune.py reads them")
    for run in sorted(results, key=lambda run: (run.status == "ok", run.started)):
        grouped[_table(run)][run.method, run.fraction][run.seed] = run
    return {
        table: {key: Cell(tuple(seeds.values())) for key, seeds in cells.items()}
        for table, cells in sorted(grouped.items())
    }


def _table(run: Record) -> Table:
    return Table(
        task=run.task,
        model=run.model,
        pretrained=run.pretrained,
        protocol=run.protocol,
        select=run.select,
        frozen_dropout=run.frozen_dropout,
        budget_unit=run.budget_unit,
        budget=run.budget,
        precision=run.precision or "",
    )
