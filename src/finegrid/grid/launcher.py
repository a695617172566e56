"""Base class of the Hydra launchers: each job's return is handed over as it comes."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from finegrid.grid.pool import Ended
from finegrid.grid.worker import Job, Shared


class StreamingLauncher(Launcher):
    """Runs each job in a fresh process; where is a subclass's business."""

    width: int | None = None  # jobs that run side by side, if that is known
    wanted: Callable[[int], bool] | None = None
    ended: Callable[[int, JobReturn], bool] | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives a launcher."""
        self.context, self.task, self.config = hydra_context, task_function, config

    @abstractmethod
    def run(self, jobs: Iterable[Job], shared: bytes, ended: Ended) -> None:
        """Run the jobs, the next when there is room; `ended` gets each return as it comes."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; one that failed comes back as a failed return, in its place.

        With `wanted` set, it is asked before each job starts. With `ended` set, each return goes
        there as it comes and none is kept: Hydra's returns hold two whole configs each.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = [
            Job(initial_job_idx + number, tuple(overrides))
            for number, overrides in enumerate(job_overrides)
        ]
        shared = Shared(self.context, self.config, self.task, Singleton.get_state())
        returned: dict[int, JobReturn] = {}

        def ended(job: Job, one: JobReturn) -> bool:
            if self.ended:
                return self.ended(job.number - initial_job_idx, one)
            returned[job.number] = one
            return True

        wanted = (j for j in jobs if not self.wanted or self.wanted(j.number - initial_job_idx))
        self.run(wanted, bytes(cloudpickle.dumps(shared)), ended)
        return [returned[job.number] for job in jobs if job.number in returned]
