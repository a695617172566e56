"""Process pool of a sweep on this machine: a slot a device, a fresh process a job.

The processes are forked from a server that has imported everything, so a job starts in well under
a second, and whatever happens to it (an exception, a signal, no memory, no end) happens to it
alone.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.utils import JobReturn

from finegrid.errors import UserError, require
from finegrid.grid import lifetime, worker
from finegrid.grid.job import SLOT
from finegrid.grid.worker import Job
from finegrid.runs import layout

log = logging.getLogger(__name__)
TRACE = 0.5  # seconds for a process that hung to write down where
STALLED = (
    "no step of work was done for {:g} s, so the watchdog ended it (hydra.launcher.stall_s); "
    f"{layout.OUTPUT} tells where it hung"
)
IMPORTING = (
    "the fork server had not imported everything after {:g} s, so the watchdog ended it "
    "(hydra.launcher.stall_s, hydra.launcher.preload)"
)
GRACE = 3.0  # seconds between asking a process to end and ending it
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
NVIDIA = Path("/proc/driver/nvidia/gpus")
Ended = Callable[[Job, JobReturn], bool]  # tells whether the sweep goes on


@dataclass(frozen=True)
class Slot:
    """A place where one job runs at a time, and what its process's environment says of it."""

    name: str
    threads: int
    gpu: str | None = None  # None: as this process sees them

    @property
    def env(self) -> dict[str, str]:
        """Variables of the job's process."""
        threads = dict.fromkeys(THREADS, str(self.threads))
        device = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {SLOT: self.name, **threads, **device}


def slots(gpus: str | int | Sequence[int | str], *, per_gpu: int, on_cpu: int | None) -> list[Slot]:
    """The slots of this machine: so many on each GPU, else so many on the CPU.

    `gpus` is `auto`, a number, or a list of ids; `on_cpu` null makes one slot a core. The cores'
    threads are divided among the slots, and OMP_NUM_THREADS bounds those of each.
    """
    require(per_gpu > 0, f"hydra.launcher.slots_per_gpu={per_gpu} must be at least 1")
    require(on_cpu is None or on_cpu > 0, f"hydra.launcher.cpu_slots={on_cpu} must be at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ids = _gpus(gpus)
    count = len(ids) * per_gpu or on_cpu or cores or 1
    threads = max(1, (cores or 1) // count)
    if (most := os.environ.get(THREADS[0], "")).isdecimal():
        threads = max(1, min(threads, int(most)))
    if not ids:
        return [Slot(f"cpu{number}", threads) for number in range(count)]
    names = [("" if per_gpu == 1 else f".{n}") for n in range(per_gpu)]
    return [Slot(f"gpu{gpu}{name}", threads, gpu) for name in names for gpu in ids]


def _gpus(wanted: str | int | Sequence[int | str]) -> list[str]:
    """Ids of the GPUs to use; found without touching CUDA, which must not be forked."""
    if isinstance(wanted, int):
        return [str(number) for number in range(wanted)]
    if not isinstance(wanted, str):
        return [str(gpu) for gpu in wanted]
    require(wanted == "auto", f"hydra.launcher.gpus={wanted} must be auto, a number or a list")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    return [str(number) for number in range(len(os.listdir(NVIDIA)) if NVIDIA.is_dir() else 0)]


@dataclass
class Running:
    """A job in its slot."""

    job: Job
    slot: Slot
    process: BaseProcess
    pipe: Connection
    began: float  # by time.monotonic(), as `beat`
    beat: float  # when it last did a piece of work


class Pool:
    """Runs jobs on slots until all have ended or the caller has seen enough.

    A job ends after `limit` seconds, or when it has done no piece of work for `stall` seconds.
    """

    def __init__(
        self, slots: Sequence[Slot], *, preload: str, limit: float | None, stall: float | None
    ) -> None:
        for name, seconds in {"timeout_s": limit, "stall_s": stall}.items():
            good = seconds is None or seconds > 0
            require(good, f"hydra.launcher.{name}={seconds} must be above 0, or null for none")
        self.slots, self.limit, self.stall = list(slots), limit, stall
        self._context = multiprocessing.get_context("forkserver")
        first = [lifetime.__name__, worker.__name__]
        self._context.set_forkserver_preload([*first, preload] if preload else first)
        self._running: list[Running] = []

    def run(self, jobs: Iterable[Job | None], shared: bytes, ended: Ended) -> None:
        """Run the jobs in order; `ended` gets each one's return as it comes and may stop the rest.

        The next job is asked for when a slot is free, so that the caller may leave some out,
        or say with None that there is none before another has ended.
        On any exception, Ctrl-C among them, what still runs is ended before it is raised on.
        """
        queue, free = iter(jobs), list(reversed(self.slots))
        try:
            while True:
                while free and (job := next(queue, None)):
                    self._start(job, free.pop(), shared)
                if not self._running:
                    return
                for run, returned in self._wait():
                    free.append(run.slot)
                    if not ended(run.job, returned):
                        queue = iter(())
        finally:
            self._end_all()

    def _start(self, job: Job, slot: Slot, shared: bytes) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, shared, job, slot.env)
        process = self._forked(arguments)
        theirs.close()
        now = time.monotonic()
        self._running.append(Running(job, slot, process, ours, now, now))

    def _forked(self, arguments: tuple[Any, ...]) -> BaseProcess:
        """A started process; where the fork server has just died, from a new one."""
        for patience in (0.1, 0.3, 1.0, 3.0):
            process = self._context.Process(target=worker.main, args=arguments)
            watchdog = threading.Timer(self.stall or threading.TIMEOUT_MAX, _kill_fork_server)
            watchdog.daemon = True
            watchdog.start()
            try:
                with _fork_server_env():
                    process.start()  # waits until the fork server has imported everything
            except (ConnectionError, EOFError) as error:
                if not watchdog.is_alive():
                    raise UserError(IMPORTING.format(self.stall)) from error
                log.warning("starting the fork server again: %s", error)
                time.sleep(patience)
            else:
                return process
            finally:
                watchdog.cancel()
        raise UserError("the fork server cannot be started; see the messages above")

    def _wait(self) -> Iterator[tuple[Running, JobReturn]]:
        """Wait for a job to end, and take the returns of those that have."""
        soonest = min(min(self._deadlines(run)) for run in self._running)
        timeout = None if soonest == float("inf") else max(0.0, soonest - time.monotonic())
        watched: list[Any] = [run.pipe for run in self._running]  # readable, or closed by a death
        ready = wait([*watched, *(run.process.sentinel for run in self._running)], timeout)
        for run in list(self._running):
            returned = None
            if run.pipe in ready or run.process.sentinel in ready:
                returned = _receive(run)
            if returned is None and (cause := self._overdue(run)):
                _end([run], hung=True)
                returned = worker.failed(run.job, cause)
            if returned is not None:
                self._running.remove(run)
                yield run, returned

    def _deadlines(self, run: Running) -> tuple[float, float]:
        """When a job is to be ended: however it gets on, and if it does no work from now on."""
        never = float("inf")
        return run.began + (self.limit or never), run.beat + (self.stall or never)

    def _overdue(self, run: Running) -> str:
        """Why a job is to be ended now, if it is."""
        limit, stall = (time.monotonic() >= deadline for deadline in self._deadlines(run))
        if limit:
            return f"took longer than the limit of {self.limit:g} s (hydra.launcher.timeout_s)"
        return STALLED.format(self.stall) if stall else ""

    def _end_all(self) -> None:
        _end(self._running)
        self._running.clear()


def _receive(run: Running) -> JobReturn | None:
    """What the job's process sent, or how it died; None if all that it said is that it works.

    Nothing that it started is left behind.
    """
    sent = None
    with suppress(EOFError, OSError):
        while run.pipe.poll() and (sent := run.pipe.recv_bytes()) == worker.BEAT:
            run.beat = time.monotonic()
        if sent == worker.BEAT and run.process.is_alive():
            return None
    run.process.join(GRACE)
    _end([run])
    run.pipe.close()
    if not sent:
        return worker.failed(run.job, _cause(run.process.exitcode))
    returned: JobReturn = cloudpickle.loads(sent)
    return returned


def _kill_fork_server() -> None:
    if pid := forkserver._forkserver._forkserver_pid:  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)


def _cause(code: int | None) -> str:
    """Why a process ended without a result."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; out of memory, if nobody killed it" if name == "SIGKILL" else ""
        return f"the process was killed by {name}{hint}"
    return f"the process ended with exit code {code} and no result"


def _end(running: Sequence[Running], *, hung: bool = False) -> None:
    """End processes with everything that they started: asked first, made to after a while.

    One that hung leaves in its output where it was.
    """
    for run in running:
        if hung and run.process.is_alive():
            os.kill(run.process.pid or 0, signal.SIGUSR1)
            run.process.join(TRACE)
        _signal(run.process, signal.SIGTERM)
    until = time.monotonic() + GRACE
    for run in running:
        run.process.join(max(0.0, until - time.monotonic()))
        _signal(run.process, signal.SIGKILL)
        run.process.join()


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    """Signal a job's process group, or the process alone while it has none yet."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        if process.is_alive():
            os.kill(process.pid, number)


@contextmanager
def _fork_server_env() -> Iterator[None]:
    """What the fork server, started with the first process, is to know of its launcher.

    Nor may it have threads: a fork would lose them.
    """
    told = dict.fromkeys(THREADS, "1") | {lifetime.PARENT: str(os.getpid())}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
