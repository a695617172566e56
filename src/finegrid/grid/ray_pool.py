"""Process pool of a sweep on a ray cluster: ray schedules a job, a forked process runs it.

The job's process is a child of ray's worker, forked as on a slot of this machine. What befalls it
(an exit, a signal, no end) is its own end and not the worker's, so ray has nothing to run again,
and the worker, which ray keeps for the next job, imports everything once.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn

from finegrid.errors import require
from finegrid.grid import worker
from finegrid.grid.pool import Ended, Pool, Slot
from finegrid.grid.worker import Job

log = logging.getLogger(__name__)
BEAT = 1.0  # seconds that Ctrl-C may have to wait


@dataclass(frozen=True)
class Setting:
    """What a job's process is told by the command that wants it run."""

    directory: str
    script: str  # what Lightning would run again
    threads: int
    preload: str
    limit: float | None
    stall: float | None


class RayPool:
    """Runs jobs as tasks of ray until all have ended or the caller has seen enough."""

    def __init__(
        self,
        init: Mapping[str, Any],
        *,
        cpus: float,
        gpus: float | None,
        preload: str,
        limit: float | None,
        stall: float | None,
    ) -> None:
        require(cpus > 0, f"hydra.launcher.num_cpus={cpus:g} must be above 0")
        share = gpus is None or 0 <= gpus <= 1 or (gpus > 1 and gpus == int(gpus))
        require(share, f"hydra.launcher.num_gpus={gpus} must be a share of one, or a whole number")
        self.init, self.cpus, self.gpus = dict(init), cpus, gpus  # gpus null: one, if there is any
        self.local: bool = init["address"] == "local"
        self.setting = Setting(
            os.getcwd(), os.path.abspath(sys.argv[0]), max(1, int(cpus)), preload, limit, stall
        )

    def run(self, jobs: Iterable[Job | None], shared: bytes, ended: Ended) -> None:
        """Run the jobs in order; `ended` gets each one's return as it comes and may stop the rest.

        The next job is asked for when the cluster has room, so that the caller may leave some out,
        or say with None that there is none before another has ended.
        On any exception, Ctrl-C among them, what still runs is ended before it is raised on.
        """
        with _connected(self.init) as ray:
            task, common = self._task(ray), ray.put(shared)
            queue, running = iter(jobs), dict[Any, Job]()
            try:
                while True:
                    while len(running) < self._room(ray) and (job := next(queue, None)):
                        running[task.remote(common, job, self.setting)] = job
                    if not running:
                        return
                    for ref in ray.wait(list(running), timeout=BEAT)[0]:
                        job = running.pop(ref)
                        if not ended(job, _returned(ray, ref, job)):
                            queue = iter(())
            finally:
                for ref in running:
                    ray.cancel(ref)

    def _task(self, ray: Any) -> Any:
        """What ray is to run; it keeps the worker (`max_calls`) and starts no job twice."""
        known = ray.cluster_resources()
        gpus = self.gpus if self.gpus is not None else float("GPU" in known)
        self.share = {"CPU": self.cpus, "GPU": gpus}
        if not _fitting(ray, self.share):
            asked = (
                f"no machine of ray's has num_cpus={self.cpus:g} and num_gpus={gpus:g} for a job"
            )
            require(not self.local, f"{asked}; see hydra.launcher.local_cpus")
            log.warning("%s; waiting for one", asked)
        return ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=0, max_calls=0)(run_here)

    def _room(self, ray: Any) -> int:
        """How many jobs may be with ray now: one more than a cluster holds, for it may grow."""
        return _fitting(ray, self.share) + (not self.local)


def _fitting(ray: Any, share: Mapping[str, float]) -> int:
    """How many jobs the machines of the cluster hold, were they all ours."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {name: amount for name, amount in share.items() if amount}
    return sum(min(int(has.get(name, 0) / needs[name]) for name in needs) for has in machines)


def _returned(ray: Any, ref: Any, job: Job) -> JobReturn:
    """What a task returned, or how it or its machine was lost."""
    try:
        returned: JobReturn = ray.get(ref)
    except Exception as error:  # ray's own, or whatever foreign object does not load here
        return worker.failed(job, f"ray: {type(error).__name__}: {error}")
    return returned


@contextmanager
def _connected(init: Mapping[str, Any]) -> Iterator[Any]:
    """Ray, connected or started; on leaving, what was started is ended."""
    import ray

    require(not ray.is_initialized(), "hydra/launcher=ray needs a process that has no ray yet")
    own = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**init)
        if own:
            signal.signal(signal.SIGTERM, before)  # ray takes it
        yield ray
    finally:
        ray.shutdown()


def run_here(shared: bytes, job: Job, setting: Setting) -> JobReturn:
    """In a ray worker: run a job in a process of its own, on the devices that ray gives it."""
    import ray

    os.chdir(setting.directory)
    sys.argv = [setting.script]
    vars(sys.modules["__main__"]).pop("__file__", None)  # ray's, which no fork is to run again
    gpus = ",".join(ray.get_runtime_context().get_accelerator_ids()["GPU"])
    name = f"{socket.gethostname()}:{os.getpid()}" + (f" gpu{gpus}" if gpus else "")
    slot = Slot(name, setting.threads, gpus)
    pool = Pool([slot], preload=setting.preload, limit=setting.limit, stall=setting.stall)
    returned: list[JobReturn] = []

    def ended(job: Job, one: JobReturn) -> bool:
        returned.append(one)
        return True

    pool.run([job], shared, ended)
    return returned[0]
