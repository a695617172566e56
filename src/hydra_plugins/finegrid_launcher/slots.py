"""Hydra launcher `slots`: the slots of this machine, `hydra/launcher=slots`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from finegrid.grid.slots import Pool, slots
from finegrid.grid.worker import Job, Shared


@dataclass
class SlotsConf:
    """Options of the launcher."""

    _target_: str = "hydra_plugins.finegrid_launcher.slots.SlotsLauncher"
    gpus: Any = "auto"  # auto: those visible; a number; or a list of ids such as [0,2]
    slots_per_gpu: int = 1
    cpu_slots: int | None = None  # without a GPU; null: one a core, threads divided among them
    timeout_s: float | None = None  # seconds that one job may take, everything included
    preload: str = "finegrid.grid.preload"  # module that is imported once for all jobs


ConfigStore.instance().store(
    group="hydra/launcher", name="slots", node=SlotsConf, provider="finegrid"
)


class SlotsLauncher(Launcher):
    """Runs each job in a fresh process on a slot of its own."""

    def __init__(
        self,
        *,
        gpus: Any,
        slots_per_gpu: int,
        cpu_slots: int | None,
        timeout_s: float | None,
        preload: str,
    ) -> None:
        listed = OmegaConf.to_container(gpus) if OmegaConf.is_list(gpus) else gpus
        self.slots = slots(listed, per_gpu=slots_per_gpu, on_cpu=cpu_slots)  # type: ignore[arg-type]
        self.pool = Pool(self.slots, preload=preload, limit=timeout_s)
        self.wanted: Callable[[int], bool] | None = None
        self.ended: Callable[[int, JobReturn], bool] | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives a launcher."""
        self.context, self.task, self.config = hydra_context, task_function, config

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
        self.pool.run(wanted, bytes(cloudpickle.dumps(shared)), ended)
        return [returned[job.number] for job in jobs if job.number in returned]
