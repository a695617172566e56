"""Run a sweep: launch the cells that are not done, and see to a record of each."""

import json
import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from finegrid.errors import UserError, one_of, require
from finegrid.grid import grouping, job, locks
from finegrid.grid.expand import Cell
from finegrid.grid.launcher import StreamingLauncher
from finegrid.grid.progress import Progress, closing, last_line, shown
from finegrid.grid.stages import Stages
from finegrid.grid.status import AGAIN, Outcome, Store, settled
from finegrid.runs import layout, provenance
from finegrid.runs.record import Record
from finegrid.runs.text import hydra_value
from finegrid.storage.files import write_atomic

log = logging.getLogger(__name__)
PATIENCE = 1.0  # seconds between looks at cells that another sweep runs


class Sweep:
    """The cells of one command over one directory, and what has become of them."""

    def __init__(
        self,
        stages: Stages,
        store: Store,
        *,
        retry: str,
        fail_fast: int | None,
        fuse: str | int = 1,
    ) -> None:
        one_of("retry", retry, tuple(AGAIN))
        require(fail_fast is None or fail_fast > 0, f"fail_fast={fail_fast} must be at least 1")
        grouping.jobs_of(fuse, cells=1, slots=1)
        self.stages, self.retry, self.fail_fast, self.fuse = stages, retry, fail_fast, fuse
        store.root.mkdir(parents=True, exist_ok=True)
        self.id = uuid.uuid4().hex[:12]
        self.store = store
        self.plan: dict[str, Any] = {}  # what the sweep's file says, once it is conducted
        self.cells: list[Cell] = []  # needed so far
        self.before: dict[str, str] = {}  # key -> version of the record that was met
        self.ends: dict[str, Outcome] = {}  # key -> how a cell that stages asked for ended
        self.lost: dict[str, str] = {}  # key -> why, where not even a record could be written
        self.apart: set[str] = set()  # keys of cells that went down with others' job
        self.launches = 0
        self.alike: list[str] = []  # causes of the failures since the last cell that ended well
        self.grow()

    def conduct(self, launcher: Launcher, *, command: str) -> list[JobReturn]:
        """Run the sweep in view of the user, and close it with a table, whatever ends it.

        Raises:
            UserError: if a cell failed or was never reached; the table says which.
        """
        self.plan = {"command": command}
        path = self._write_plan()
        self._keep_precision()
        alive = locks.acquire(path.with_suffix(""), sweep=self.id, slot="")
        assert alive is not None  # nobody else has this sweep's id
        most = (lambda: self.stages.most) if self.stages.adaptive else None
        progress = Progress(self.cells, self.store, self._ended, most=most)
        try:
            with _ending_cleanly(), alive, shown(progress):
                returns = self.run(launcher)
        finally:
            outcomes = [self.outcome(cell) for cell in self.cells]
            spared = self.stages.spared()
            print(closing(self.store, self.cells, outcomes, command=command, spared=spared))
            print("\n".join(self.stages.summary()), end="\n" * self.stages.adaptive)
        bad = sum(not found.fine for found in outcomes)
        gave_up = f"; stopped early, fail_fast={self.fail_fast}" if self._given_up() else ""
        require(
            not bad,
            f"{bad} of {len(outcomes)} cells have no result{gave_up}; mend what the table "
            "says, then run the same command again to fill the holes",
        )
        return returns

    def grow(self) -> list[Cell]:
        """Ask the stages what is needed by now; returns the cells that were not before."""
        if self.cells and not self.stages.adaptive:
            return []
        met = {cell.key for cell in self.cells}
        fresh = [cell for cell in self.stages.needed(self._end) if cell.key not in met]
        for cell in fresh:
            self._meet(cell)
        self.cells += fresh
        if self.plan and (fresh or self.stages.spared() != self.plan["spared"]):
            self._write_plan()
            if self.stages.race:
                self.stages.race.conclude()  # what made them needed can be read while they run
        return fresh

    def _end(self, cell: Cell) -> Outcome | None:
        """How a cell ended; what has once ended is not read again."""
        if cell.key not in self.ends:
            self._meet(cell)
            if (found := self._ended(cell)) is None:
                return None
            self.ends[cell.key] = found
        return self.ends[cell.key]

    def _meet(self, cell: Cell) -> None:
        if cell.key not in self.before:
            self.before[cell.key] = self.store.outcome(cell).version

    def _write_plan(self) -> Path:
        """Write the command and its cells, for those who look on."""
        path = self.store.root / layout.PLANS / f"{self.id}.json"
        path.parent.mkdir(exist_ok=True)
        place, known = self.store.place, self.store.known
        self.plan |= {
            "cells": [place(cell) for cell in self.cells],
            "known": [place(cell) for cell in self.cells if cell.key in known],
            "most": self.stages.most,
            "spared": self.stages.spared(),
        }
        write_atomic(path, json.dumps(self.plan).encode())
        return path

    def _keep_precision(self) -> None:
        """Go on in the precision of what was given, so that a grid is never mixed."""
        left_open = {c.key for c in self.cells if c.config["trainer"]["precision"] == "auto"}
        precision = self.store.known.precision(left_open)
        if precision and job.keep_precision(self.store.root, precision):
            print(f"trainer.precision=auto means {precision} here, that of what is known")

    def run(self, launcher: Launcher) -> list[JobReturn]:
        """Launch what is to be done until every cell is settled or `fail_fast` of them fail alike.

        A launcher may lose jobs or raise: what counts is what the cells' directories say.

        Raises:
            UserError: if a launcher ends without having started anything.
        """
        returns: list[JobReturn] = []
        try:
            while todo := self.unsettled():
                free = [cell for cell in todo if self._free(cell)]
                if not free:
                    time.sleep(PATIENCE)  # another sweep runs them; a stale lock comes free
                    continue
                returns += self._launch(launcher, free)
                if self._given_up():
                    break
        finally:  # what was decided stands, whatever ends the sweep
            self.stages.conclude()
        return returns

    def unsettled(self) -> list[Cell]:
        """The cells that are needed by now and still have to end."""
        self.grow()
        return [cell for cell in self.cells if not self._settled(cell)]

    def outcome(self, cell: Cell) -> Outcome:
        """What has become of a cell."""
        if cell.key in self.lost:
            return Outcome("failed", self.lost[cell.key])
        return self.store.outcome(cell)

    def _ended(self, cell: Cell) -> Outcome | None:
        found = self.outcome(cell)
        over = settled(found, retry=self.retry, before=self.before[cell.key])
        return found if over or cell.key in self.lost else None

    def _free(self, cell: Cell) -> bool:
        """Whether a cell is still to be run, and nobody runs it."""
        return not self._settled(cell) and not locks.alive(self.store.path(cell))

    def _settled(self, cell: Cell) -> bool:
        return self._ended(cell) is not None

    def _launch(self, launcher: Launcher, cells: Sequence[Cell]) -> list[JobReturn]:
        """Launch cells once; those that a job took down with it get their record from here."""
        streams = isinstance(launcher, StreamingLauncher)
        if not streams and not self._any_ok():  # no more than show that everything fails alike
            cells = cells[: self.fail_fast]
        members = self._grouped(cells, launcher)

        def ended(index: int, returned: JobReturn) -> bool:
            self._settle(members[index], returned)
            return not self._given_up()

        def more() -> list[list[str]]:
            groups = self._grouped([cell for cell in self.grow() if self._free(cell)], launcher)
            members.extend(groups)
            return self._jobs(groups) if groups else []

        if isinstance(launcher, StreamingLauncher):
            launcher.wanted = lambda index: any(map(self._free, members[index]))
            launcher.ended = ended
            launcher.more = more if self.stages.adaptive else None
        jobs = self._jobs(members)
        returns: Sequence[JobReturn] = ()
        broken: Exception | None = None
        try:
            returns = launcher.launch(jobs, initial_job_idx=0)
        except Exception as error:  # some launchers raise one job's failure and drop the others'
            broken = error
            log.warning("the launcher ended early: %s", error)
        if not streams:
            known = {index: returned for index, returned in enumerate(returns)}
            for index, group in enumerate(members):
                self._settle(group, known.get(index))
        if broken and not any(map(self._settled, cells)):
            raise UserError(f"the launcher started nothing: {broken}") from broken
        return list(returns)

    def _grouped(self, cells: Sequence[Cell], launcher: Launcher) -> list[list[Cell]]:
        """The cells by job; a launcher that does not tell its slots gets one a job by itself."""
        fresh = [cell for cell in cells if cell.key not in self.apart]
        slots = getattr(launcher, "width", None)
        again = [[cell] for cell in cells if cell.key in self.apart]
        return grouping.grouped(fresh, fuse=self.fuse, slots=slots) + again

    def _jobs(self, members: Sequence[Sequence[Cell]]) -> list[list[str]]:
        """Each job's overrides: its first cell's, its directory, and where it is told its cells."""
        self.launches += 1
        path = self.store.root / layout.JOBS / f"{self.id}-{self.launches}.jsonl"
        told = job.write(path, members, self.store, self.before, sweep=self.id)
        quoted = [hydra_value(where) for where in told]
        return [
            [
                *group[0].overrides,
                f"hydra.sweep.subdir='{self.store.place(group[0])}'",
                f"+hydra.job.env_set.{job.VARIABLE}={where}",
            ]
            for group, where in zip(members, quoted, strict=True)
        ]

    def _settle(self, group: Sequence[Cell], returned: JobReturn | None) -> None:
        """Take note of how a job ended; write the failed record that it could not write itself.

        What several cells in one job did not survive, each of them tries again alone.
        """
        for cell in group:
            if not self._settled(cell):
                cause = self._death(cell, returned)
                if cause and len(group) > 1:
                    self.apart.add(cell.key)
                elif cause:
                    self._bury(cell, cause)
            found = self.outcome(cell)
            if found.status == "ok":
                self.alike.clear()
            elif self._settled(cell):
                self.alike.append(last_line(found.error))

    def _death(self, cell: Cell, returned: JobReturn | None) -> str:
        """Why a job of this sweep left no record; empty if it never held the cell."""
        if returned is not None and returned.status == JobStatus.FAILED:
            return str(returned._return_value)
        directory = self.store.path(cell)
        holder = locks.holder(directory)
        if holder is None:
            return "the job left no trace" if returned is not None else ""
        died = holder.sweep == self.id and not locks.alive(directory)
        return "the run ended without a record: killed, or out of memory or disk" if died else ""

    def _bury(self, cell: Cell, cause: str) -> None:
        directory = self.store.path(cell)
        stamp = provenance.now()
        record = Record(**cell.facts, overrides=list(cell.overrides), started=stamp, finished=stamp)
        record.status, record.error = "failed", cause
        try:
            lock = locks.acquire(directory, sweep=self.id, slot="")
            if lock is not None:
                with lock:
                    record.write(directory)
        except OSError as error:
            self.lost[cell.key] = f"{cause} ({error})"

    def _any_ok(self) -> bool:
        return any(self.outcome(cell).status == "ok" for cell in self.cells)

    def _given_up(self) -> bool:
        """Whether the last so many cells all failed alike."""
        if self.fail_fast is None or len(self.alike) < self.fail_fast:
            return False
        return len(set(self.alike[-self.fail_fast :])) == 1


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """End on SIGTERM and SIGHUP as on Ctrl-C, with the jobs stopped and the table printed."""

    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if received and not interrupt.args:  # it went through ray, which makes another one of it
            raise KeyboardInterrupt(*received) from interrupt
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
