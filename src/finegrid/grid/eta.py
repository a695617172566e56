"""How long cells will take: the median seconds per example of past runs, times the examples left.

Past runs of the same model and method count, else those of the model. Set-up and scoring are taken
as they were. A budget in steps or tokens is counted in those; one in seconds is what it is.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from finegrid.errors import UserError
from finegrid.runs import layout
from finegrid.runs.record import read

KINDS = {"runs alike": ("model", "method"), "another method": ("model",)}  # the best first
BUDGET = "the budget alone"
# Measured on 2 cores (CPU seconds): what a record does not count.
IMPORTS = 9.0  # torch, Lightning and transformers, once a process
COMPOSE = 0.1  # a cell's config, in a process that runs several
FORK = 0.5  # a cell's process on a slot, its config included


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


@dataclass(frozen=True)
class Past:
    """The time that a run took, and how much it trained for it."""

    asked: Wanted
    rows: float  # of training, were the fraction 1
    work: dict[str, float]  # unit -> amount
    training: float  # seconds
    rest: float  # seconds of set-up and scoring
    device: str


@dataclass(frozen=True)
class Estimate:
    """Seconds of a cell, and the kind of evidence for them."""

    seconds: float
    kind: str


class Evidence:
    """Past runs by what they have in common; those of the first source count before the others."""

    def __init__(self, *sources: Sequence[Past]) -> None:
        self._groups: dict[str, list[dict[tuple[str, ...], list[Past]]]] = defaultdict(list)
        for kind, fields in KINDS.items():
            for source in sources:
                groups = defaultdict(list)
                for run in source:
                    groups[_key(run.asked, fields)].append(run)
                self._groups[kind].append(groups)
        self._rows: dict[str, list[float]] = defaultdict(list)  # task -> of each run
        for run in (run for source in sources for run in source):
            self._rows[run.asked.task].append(run.rows)
        self._known: dict[Wanted, Estimate | None] = {}
        self.devices = Counter(run.device for source in sources for run in source)

    def estimate(self, wanted: Wanted) -> Estimate | None:
        """What the best kind of evidence says, or None if there is none at all."""
        if wanted not in self._known:
            self._known[wanted] = self._estimate(wanted)
        return self._known[wanted]

    def _estimate(self, wanted: Wanted) -> Estimate | None:
        for kind, sources in self._groups.items():
            for groups in sources:
                runs = groups.get(_key(wanted, KINDS[kind]), [])
                if (training := self._training(wanted, runs)) is not None:
                    return Estimate(training + median(run.rest for run in runs), kind)
        return Estimate(wanted.amount, BUDGET) if wanted.unit == "seconds" else None

    def _training(self, wanted: Wanted, runs: Sequence[Past]) -> float | None:
        """Seconds of training, if the runs tell them."""
        unit, amount = wanted.unit, wanted.amount
        if unit == "epochs" and runs:
            rows = self._rows.get(wanted.task) or [run.rows for run in runs]
            unit, amount = "examples", amount * median(rows) * wanted.fraction
        rates = [run.training / run.work[unit] for run in runs if unit in run.work]
        return median(rates) * amount if rates else None


def _key(wanted: Wanted, fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(getattr(wanted, name) for name in fields)


def past(root: Path, *, but: Collection[Path] = ()) -> list[Past]:
    """The time that each run below a directory took if it ended well, some directories left out."""
    found = map(past_run, layout.run_directories(root, leave_out=but))
    return [run for run in found if run is not None]


def past_run(directory: Path) -> Past | None:
    """The time that a run took, if it ended well and its record tells."""
    try:
        record = read(directory)
    except UserError:
        return None
    rows, epochs, steps = record.train_rows, record.epochs, record.steps
    training = record.train_seconds
    if record.status != "ok" or not (rows and epochs and steps and training):
        return None
    work = {"steps": steps, "examples": epochs * rows, "seconds": training}
    tokens = training * (record.tokens_per_second or 0)
    return Past(
        asked=Wanted.of(vars(record)),
        rows=rows / record.fraction,
        work=work | ({"tokens": tokens} if tokens else {}),
        training=training,
        rest=(record.setup_seconds or 0) + (record.eval_seconds or 0),
        device=record.device or "an unknown device",
    )


def engines(seconds: Sequence[float], slots: Mapping[str, int]) -> dict[str, float]:
    """Seconds until cells that take so long have ended, by engine; with each number of slots."""
    many, total = len(seconds), sum(seconds)
    if not many:
        return {}
    on_slots = {
        name: IMPORTS + makespan((one + FORK for one in seconds), count)
        for name, count in slots.items()
    }
    return on_slots | {
        "basic, one cell at a time": IMPORTS + total + many * COMPOSE,
        "a fresh process for each cell": total + many * IMPORTS,
    }


def makespan(seconds: Iterable[float], slots: int) -> float:
    """When the last cell has ended if each goes, in order, to the first slot that is free."""
    ends = [0.0] * slots
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)
