"""Base class of the Hydra launchers: each job's return is handed over as it comes."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    more: Callable[[], Sequence[Sequence[str]]] | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives a launcher."""
        self.context, self.task, self.config = hydra_context, task_function, config

    @abstractmethod
    def run(self, jobs: Iterable[Job | None], shared: bytes, ended: Ended) -> None:
        """Run the jobs, the next when there is room; `ended` gets each return as it comes.

        None among them says that there is nothing to start before another job has ended.
        """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; one that failed comes back as a failed return, in its place.

        With `wanted` set, it is asked before each job starts. With `ended` set, each return goes
        there as it comes and none is kept: Hydra's returns hold two whole configs each. With `more`
        set, it is asked for further jobs whenever there is room for one and none is left.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        shared = Shared(self.context, self.config, self.task, Singleton.get_state())
        returned: dict[int, JobReturn] = {}

        def ended(job: Job, one: JobReturn) -> bool:
            if self.ended:
                return self.ended(job.number - initial_job_idx, one)
            returned[job.number] = one
            return True

        jobs = self._queue(job_overrides, initial_job_idx)
        self.run(jobs, bytes(cloudpickle.dumps(shared)), ended)
        return [returned[number] for number in sorted(returned)]

    def _queue(self, first: Sequence[Sequence[str]], start: int) -> Iterator[Job | None]:
        """The jobs in order, then those that `more` gives."""
        waiting, index = deque(first), 0
        while True:
            while waiting:
                overrides = tuple(waiting.popleft())
                if self.wanted is None or self.wanted(index):
                    yield Job(start + index, overrides)
                index += 1
            if self.more is None:
                return
            waiting.extend(self.more())
            if not waiting:
                yield None
