"""How long cells will take, told from records: the medians of the past runs most like them.

Training is taken to grow with the budget (with epochs and rows, steps, examples or tokens; seconds
are what they are), set-up and scoring are taken as they were. Another model's runs tell nothing.
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

KINDS = {  # of evidence, the best first: what a past run must have in common with a cell
    "runs alike": ("task", "model", "method", "fraction", "unit", "amount"),
    "another fraction or budget": ("task", "model", "method"),
    "another method": ("task", "model"),
    "another task": ("model", "method"),
    "another task and method": ("model",),
}
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
    rows: int  # of training
    work: dict[str, float]  # unit -> amount
    training: float
    rest: float
    device: str


@dataclass(frozen=True)
class Typical:
    """Medians over some runs."""

    by_unit: dict[str, float]  # seconds of training for a step, an example, a token
    rows: float  # of training, at fraction 1
    rest: float

    @classmethod
    def of(cls, runs: Sequence[Past]) -> "Typical":
        """The medians of these runs."""
        by_unit = {
            unit: median(run.training / run.work[unit] for run in runs if unit in run.work)
            for unit in {unit for run in runs for unit in run.work}
        }
        return cls(by_unit, _all_rows(runs), median(run.rest for run in runs))


def _all_rows(runs: Iterable[Past]) -> float:
    return median(run.rows / run.asked.fraction for run in runs)


@dataclass(frozen=True)
class Estimate:
    """Seconds of a cell, and the kind of evidence for them."""

    seconds: float
    kind: str


class Evidence:
    """Past runs by what they have in common; those of the first source count before the others."""

    def __init__(self, *sources: Sequence[Past]) -> None:
        self._medians = {
            kind: [_grouped(source, fields) for source in sources] for kind, fields in KINDS.items()
        }
        self._known: dict[Wanted, Estimate | None] = {}
        runs = [run for source in sources for run in source]
        tasks = {run.asked.task for run in runs}
        self._rows = {task: _all_rows(r for r in runs if r.asked.task == task) for task in tasks}
        self.devices = Counter(run.device for run in runs)

    def estimate(self, wanted: Wanted) -> Estimate | None:
        """What the best kind of evidence says, or None if there is none at all."""
        if wanted not in self._known:
            self._known[wanted] = self._estimate(wanted)
        return self._known[wanted]

    def _estimate(self, wanted: Wanted) -> Estimate | None:
        for kind, sources in self._medians.items():
            for medians in sources:
                found = medians.get(_key(wanted, KINDS[kind]))
                training = self._training(wanted, found) if found else None
                if found and training is not None:
                    return Estimate(training + found.rest, kind)
        return Estimate(wanted.amount, BUDGET) if wanted.unit == "seconds" else None

    def _training(self, wanted: Wanted, typical: Typical) -> float | None:
        """Seconds of training, if the runs behind the medians tell them."""
        if wanted.unit == "seconds":
            return wanted.amount
        if wanted.unit == "epochs":
            rows = self._rows.get(wanted.task, typical.rows) * wanted.fraction
            return typical.by_unit["examples"] * wanted.amount * rows
        rate = typical.by_unit.get(wanted.unit)
        return None if rate is None else rate * wanted.amount


def _grouped(runs: Iterable[Past], fields: Sequence[str]) -> dict[tuple[Any, ...], Typical]:
    groups = defaultdict(list)
    for run in runs:
        groups[_key(run.asked, fields)].append(run)
    return {key: Typical.of(group) for key, group in groups.items()}


def _key(wanted: Wanted, fields: Sequence[str]) -> tuple[Any, ...]:
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
    told = (record.train_rows, record.train_seconds, record.epochs, record.steps)
    if record.status != "ok" or not all(told):
        return None
    rows, training, epochs, steps = map(float, filter(None, told))
    tokens = training * (record.tokens_per_second or 0)
    return Past(
        asked=Wanted.of(vars(record)),
        rows=int(rows),
        work={"steps": steps, "examples": epochs * rows} | ({"tokens": tokens} if tokens else {}),
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
