"""How long a sweep still takes: what runs, by its own steps, then what waits, slot by slot."""

import heapq
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from finegrid.grid import locks
from finegrid.grid.eta import Evidence, Past, Wanted
from finegrid.runs import live
from finegrid.runs.live import LiveRun
from finegrid.runs.text import duration

# Measured on 2 cores (CPU seconds): what a record does not count.
IMPORTS = 9.0  # torch, Lightning and transformers, once a process
COMPOSE = 0.1  # a cell's config, in a process that runs several
FORK = 0.5  # a cell's process on a slot, its config included

TELLING = 1.0  # seconds from which on a run that trains tells of others
HELD = 0.2  # a growth by this share is waited out, not shown
LITTLE = 20.0  # seconds of growth that are waited out too
REASON = 10.0  # seconds in which the reason of a longer time left is shown


@dataclass(frozen=True)
class Running:
    """A cell that a process holds, and how far it has come."""

    holder: locks.Holder
    live: LiveRun | None

    @classmethod
    def of(cls, directory: Path, *, at: float | None = None) -> "Running | None":
        """Who holds a cell, if that process is alive; `at` is that of `locks.alive`."""
        holder = locks.holder(directory) if locks.alive(directory, at=at) else None
        return cls(holder, live.read(directory, at=at)) if holder else None

    @property
    def slot(self) -> str:
        """The slot, or the process where there are none."""
        return self.holder.slot or f"process {self.holder.pid}"

    @property
    def job(self) -> tuple[str, int]:
        """What cells have in common that one process runs."""
        return self.holder.host, self.holder.pid


Begun = Sequence[tuple[Wanted | None, Running]]


def jobs(begun: Begun) -> int:
    """How many processes run cells."""
    return len({run.job for _, run in begun})


def left(
    begun: Begun, waiting: Sequence[Wanted | None], past: Sequence[Past], *, slots: int
) -> float | None:
    """Seconds until all cells have ended, so many jobs at a time; None if nothing tells.

    Cells that train count with the steps that they still have to do, and tell of those that wait.
    A cell that no evidence fits takes as long as the median of the others.
    """
    by_job: dict[tuple[str, int], list[tuple[Wanted | None, Running]]] = {}
    for one in begun:
        by_job.setdefault(one[1].job, []).append(one)
    evidence = Evidence(past, [run for cells in by_job.values() for run in _so_far(cells)])
    known = [evidence.estimate(asked) if asked else None for asked in waiting]
    told = [estimate.seconds for estimate in known if estimate]
    busy = [_job(cells, evidence) for cells in by_job.values()]
    certain = [seconds for seconds in busy if seconds is not None]
    if (waiting and not told) or (busy and not certain):
        return None
    each = [(one.seconds if one else median(told)) + FORK for one in known]
    ends = [median(certain) if seconds is None else seconds for seconds in busy]
    return makespan(each, max(slots, 1), busy=ends)


def _so_far(cells: Begun) -> list[Past]:
    """What the cells of a process that train tell of the time that such cells take."""
    training = [(asked, run.live) for asked, run in cells if run.live]
    setup, many = max((at.setup for _, at in training), default=0.0), len(training)
    return [
        Past.of_live(asked, at, together=many, setup=setup)
        for asked, at in training
        if asked and at.elapsed >= TELLING
    ]


def _job(cells: Begun, evidence: Evidence) -> float | None:
    """Seconds that a process still needs: cells that train do so together, the others follow.

    What it has done since it was last heard of is not known, but for the time that it took.
    """
    known = [(run.live, evidence.estimate(asked) if asked else None) for asked, run in cells]
    others = [estimate for at, estimate in known if not at]
    if None in others:
        return None
    rest = sum(one.seconds for one in others if one)
    training = [at for at, _ in known if at]
    if not training:
        since = min(run.holder.since for _, run in cells)
        return max(0.0, rest - max(0.0, time.time() - since)) if since else rest
    scoring = sum(estimate.after for at, estimate in known if at and estimate)
    heard = min(at.age for at in training)
    return max(0.0, max(at.left for at in training) + scoring + rest - heard)


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


def makespan(seconds: Iterable[float], slots: int, *, busy: Sequence[float] = ()) -> float:
    """When the last cell has ended if each goes, in order, to the first slot that is free.

    `busy` says in how many seconds those slots are free that are not free now.
    """
    ends = [*busy, *[0.0] * (slots - len(busy))]
    heapq.heapify(ends)
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


class Countdown:
    """The time left as it is shown: it falls with the clock, or says why it does not."""

    def __init__(self) -> None:
        self._end: float | None = None  # by time.monotonic(), as it was shown
        self._cells = self._slots = 0
        self._reason, self._since = "", 0.0

    def text(self, seconds: float, *, cells: int, slots: int) -> str:
        """What to show, given a new estimate, for so many cells, so many jobs at a time."""
        now = time.monotonic()
        if self._end is not None:
            before = max(0.0, self._end - now)
            if seconds > before + max(HELD * before, LITTLE):
                self._reason, self._since = self._why(cells, slots), now
            else:
                seconds = min(seconds, before)
        self._end, self._cells, self._slots = now + seconds, cells, slots
        reason = f" ({self._reason})" if self._reason and now - self._since < REASON else ""
        return f"about {duration(seconds)} left{reason}"

    def _why(self, cells: int, slots: int) -> str:
        if cells > self._cells:
            return "more than before: cells were added"
        if slots < self._slots:
            return "more than before: fewer jobs at a time"
        return "more than before: cells take longer than reckoned"
