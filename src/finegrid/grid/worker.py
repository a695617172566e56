"""The worker process of a pool: runs one job, forked from a server with all imports done."""

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from finegrid.grid import lifetime
from finegrid.runs import layout
from finegrid.training import heartbeat

BEAT, EVERY = b"", 0.5  # what tells the launcher that work was done; seconds between two, at least


@dataclass(frozen=True)
class Job:
    """One job of a sweep, as Hydra numbers it."""

    number: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """What all jobs of a sweep have in common."""

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    singletons: Any


def main(pipe: Connection, shared: bytes, job: Job, env: Mapping[str, str]) -> None:
    """Run a job and send back its pickled `JobReturn`."""
    _live_and_die_with_parent(pipe)
    os.environ.update(env)
    multiprocessing.set_start_method("fork", force=True)  # for the job's own workers, if any
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))  # too late for the variable itself
    _log_as_hydra_says()
    faulthandler.register(signal.SIGUSR1, file=2)  # the watchdog asks where a job hangs
    heartbeat.listen(_teller(pipe))
    try:
        returned = _run(cloudpickle.loads(shared), job)
    except Exception as error:  # a config that does not compose, a directory that cannot be made
        returned = failed(job, f"{type(error).__name__}: {error}")
    pipe.send_bytes(_pickled(returned))


def _teller(pipe: Connection) -> Callable[[], None]:
    """Hands beats on to the launcher, though not each of a thousand a second."""
    last = time.monotonic()

    def tell() -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            pipe.send_bytes(BEAT)

    return tell


def failed(job: Job, cause: str) -> JobReturn:
    """The return of a job that came to no end of its own."""
    returned = JobReturn()
    returned.overrides = list(job.overrides)
    returned.status = JobStatus.FAILED
    returned.return_value = RuntimeError(cause)
    return returned


def _live_and_die_with_parent(pipe: Connection) -> None:
    """Leave the terminal's group, so that Ctrl-C reaches the launcher alone; end when that does."""
    if os.getsid(0) != os.getpid():  # else it leads its session, and `lifetime` ends it
        os.setsid()
        lifetime.end_with(os.getppid(), signal.SIGKILL)
    threading.Thread(target=_watch, args=(pipe,), daemon=True, name="parent").start()


def _watch(pipe: Connection) -> None:
    """End this process and its children as soon as the launcher's end of the pipe closes."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _log_as_hydra_says() -> None:
    """Lightning was imported before Hydra set up logging and took handlers of its own."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _config_dir(config: DictConfig) -> list[str]:
    """`--config-dir` and its folder, as seen from here if it lies below; nothing without one."""
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            path, here = Path(source.path), Path.cwd()
            near = path.relative_to(here) if path.is_relative_to(here) else path
            return ["--config-dir", str(near)]
    return []


def _run(shared: Shared, job: Job) -> JobReturn:
    setup_globals()
    Singleton.set_state(shared.singletons)
    config = shared.context.config_loader.load_sweep_config(shared.config, list(job.overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{job.number}"
        config.hydra.job.num = job.number
    HydraConfig.instance().set_config(config)
    directory = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = str(directory)
    own = [line for line in job.overrides if not line.lstrip("+").startswith("hydra.")]
    # What a process that Lightning starts would run again, and the record's command.
    sys.argv = [sys.argv[0], *_config_dir(config), *own]
    _redirect(directory / layout.OUTPUT)
    return run_job(
        hydra_context=shared.context,
        task_function=shared.task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _redirect(path: Path) -> None:
    """Send all that is printed, by native code too, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _pickled(returned: JobReturn) -> bytes:
    """The return, with an exception that might not load elsewhere made a plain one."""
    if returned.status == JobStatus.FAILED:
        error = returned._return_value
        returned.return_value = RuntimeError(f"{type(error).__name__}: {error}")
    try:
        return bytes(cloudpickle.dumps(returned))
    except Exception as error:  # whatever a foreign object raises
        returned.return_value = RuntimeError(f"the job's result cannot be pickled: {error}")
        returned.status = JobStatus.FAILED
        return bytes(cloudpickle.dumps(returned))
