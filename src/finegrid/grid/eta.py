"""How long a cell takes: the median seconds per example of past runs, times its examples.

Past runs of the same model and method count, on the same task if there are any, else those of the
model. Set-up and scoring are taken as they were. A budget in steps or tokens is counted in those;
one in seconds is what it is.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from finegrid.grid.known import Known
from finegrid.runs import layout
from finegrid.runs.live import LiveRun
from finegrid.runs.record import read_fields

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"runs alike": ("model", "method"), "another method": ("model",)}  # the best first
BUDGET = "the budget alone"


@dataclass(frozen=True)
class Wanted:
    """What decides how long a cell takes, as far as a record's fields tell."""

    task: str
    model: str
    method: str
    fraction: float
    unit: str
    amount: float

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Wanted":
        """Take it from a record's fields."""
        same = {name: facts[name] for name in ("task", "model", "method", "fraction")}
        return cls(**same, unit=facts["budget_unit"], amount=facts["budget"])

    def key(self, kind: str) -> tuple[str, ...]:
        """What runs have in common that are evidence of a kind."""
        return tuple(getattr(self, name) for name in KINDS[kind])


@dataclass(frozen=True)
class Past:
    """The time that a run took, or has taken so far, and how much it trained for it."""

    asked: Wanted
    rows: float  # of training, were the fraction 1
    work: dict[str, float]  # unit -> amount
    training: float  # seconds
    rest: float = 0.0  # seconds of set-up and scoring
    after: float = 0.0  # those of them that follow the training
    device: str = ""
    stored: int | None = None  # bytes of its delta

    @classmethod
    def of_record(cls, values: Mapping[Any, Any]) -> "Past | None":
        """Take it from a record's fields, if the run ended well and they tell."""
        get = values.get
        steps, rows, epochs, training = map(get, ("steps", "train_rows", "epochs", "train_seconds"))
        if values["status"] != "ok" or not (steps and rows and epochs and training):
            return None
        work = {"steps": steps, "examples": epochs * rows, "seconds": training}
        tokens = training * (get("tokens_per_second") or 0)
        return cls(
            asked=Wanted.of(values),
            rows=rows / values["fraction"],
            work=work | ({"tokens": tokens} if tokens else {}),
            training=training,
            rest=(get("setup_seconds") or 0) + (get("eval_seconds") or 0),
            after=(get("eval_seconds") or 0) / 2,  # about; validations, on the way, are in it too
            device=get("device") or "an unknown device",
            stored=get("delta_bytes"),
        )

    @classmethod
    def of_live(cls, asked: Wanted, live: LiveRun, *, together: int, setup: float) -> "Past":
        """Take it from a run that trains, one of so many that were set up and train together."""
        work = {"steps": live.step, "examples": live.examples, "tokens": live.tokens}
        return cls(
            asked,
            rows=live.rows / asked.fraction,
            work=work | {"seconds": live.seconds},
            training=live.elapsed / together,  # validations included
            rest=setup / together,
        )


@dataclass(frozen=True)
class Estimate:
    """Seconds of a cell, and the kind of evidence for them."""

    seconds: float
    kind: str
    after: float = 0.0  # seconds that follow the training


class Evidence:
    """Past runs by what they have in common; those of the first source count before the others."""

    def __init__(self, *sources: Sequence[Past]) -> None:
        self.devices = Counter(run.device for source in sources for run in source)
        self._groups: dict[str, list[dict[tuple[str, ...], list[Past]]]] = {
            kind: [_grouped(source, kind) for source in sources] for kind in KINDS
        }
        self._rows: dict[str, list[float]] = {}  # task -> of each run
        for run in (run for source in sources for run in source):
            self._rows.setdefault(run.asked.task, []).append(run.rows)
        self._known: dict[Wanted, Estimate | None] = {}

    def estimate(self, wanted: Wanted) -> Estimate | None:
        """What the best kind of evidence says, or None if there is none at all."""
        if wanted not in self._known:
            self._known[wanted] = next(self._estimates(wanted), None)
        return self._known[wanted]

    def stored(self, wanted: Wanted) -> float | None:
        """Bytes of the delta: the median of runs alike."""
        runs = (run for _, group in self._alike(wanted) if _ == "runs alike" for run in group)
        sizes = [run.stored for run in runs if run.stored is not None]
        return median(sizes) if sizes else None

    def _alike(self, wanted: Wanted) -> Iterator[tuple[str, list[Past]]]:
        for kind, sources in self._groups.items():
            for groups in sources:
                yield kind, groups.get(wanted.key(kind), [])

    def _estimates(self, wanted: Wanted) -> Iterator[Estimate]:
        for kind, runs in self._alike(wanted):
            # the length of a task's texts decides what an example takes
            runs = [run for run in runs if run.asked.task == wanted.task] or runs
            unit, amount = wanted.unit, wanted.amount
            if unit == "epochs" and runs:
                rows = self._rows.get(wanted.task) or [run.rows for run in runs]
                unit, amount = "examples", amount * median(rows) * wanted.fraction
            if rates := [run.training / run.work[unit] for run in runs if unit in run.work]:
                rest, after = (median(getattr(r, x) for r in runs) for x in ("rest", "after"))
                yield Estimate(median(rates) * amount + rest, kind, after)
        if wanted.unit == "seconds":
            yield Estimate(wanted.amount, BUDGET)


def _grouped(runs: Sequence[Past], kind: str) -> dict[tuple[str, ...], list[Past]]:
    groups: dict[tuple[str, ...], list[Past]] = {}
    for run in runs:
        groups.setdefault(run.asked.key(kind), []).append(run)
    return groups


def past(root: Path, *, but: Collection[Path] = ()) -> list[Past]:
    """The time that each run below a directory took if it ended well, some directories left out."""
    return [run for path in layout.run_directories(root, leave_out=but) if (run := _past(path))]


def of_tables(path: Path) -> list[Past]:
    """The same of a report's table, or of all tables below a directory."""
    from finegrid.report.load import rankings

    files = sorted(path.rglob(rankings.PARQUET)) if path.is_dir() else [path]
    return of_rows(rankings.load(files)) if files else []


def of_rows(runs: "pd.DataFrame") -> list[Past]:
    """The same of rows as `rankings.load` gives them."""
    plain = runs.astype(object).where(runs.notna(), None)
    return [run for row in plain.to_dict("records") if (run := Past.of_record(row))]


def of_known(known: Known) -> list[Past]:
    """The same of results that a sweep was given."""
    lie = [run for path in known.directories.values() if (run := _past(path))]
    return [*lie, *(run for table in known.tables for run in of_rows(table))]


def _past(directory: Path) -> Past | None:
    try:
        return Past.of_record(read_fields(directory))
    except (OSError, ValueError):  # a record that is unreadable tells no time
        return None
