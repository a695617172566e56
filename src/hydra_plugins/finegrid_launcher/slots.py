"""Hydra launcher `slots`: the slots of this machine, `hydra/launcher=slots`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from finegrid.grid.launcher import StreamingLauncher
from finegrid.grid.pool import Ended, Pool, slots
from finegrid.grid.worker import Job


@dataclass
class SlotsConf:
    """Options of the launcher."""

    _target_: str = "hydra_plugins.finegrid_launcher.slots.SlotsLauncher"
    gpus: Any = "auto"  # auto: those visible; a number; or a list of ids such as [0,2]
    slots_per_gpu: int = 1
    cpu_slots: int | None = None  # without a GPU; null: one a core, threads divided among them
    timeout_s: float | None = None  # seconds that one job may take, everything included
    stall_s: float | None = 1800  # seconds without a step of work after which a job is ended
    preload: str = "finegrid.grid.preload"  # module that is imported once for all jobs


ConfigStore.instance().store(
    group="hydra/launcher", name="slots", node=SlotsConf, provider="finegrid"
)


class SlotsLauncher(StreamingLauncher):
    """Runs each job in a fresh process on a slot of its own."""

    def __init__(
        self,
        *,
        gpus: Any,
        slots_per_gpu: int,
        cpu_slots: int | None,
        timeout_s: float | None,
        stall_s: float | None,
        preload: str,
    ) -> None:
        listed = OmegaConf.to_container(gpus) if OmegaConf.is_list(gpus) else gpus
        self.slots = slots(listed, per_gpu=slots_per_gpu, on_cpu=cpu_slots)  # type: ignore[arg-type]
        self.width = len(self.slots)
        self.pool = Pool(self.slots, preload=preload, limit=timeout_s, stall=stall_s)

    def run(self, jobs: Iterable[Job | None], shared: bytes, ended: Ended) -> None:
        """Run the jobs on the slots."""
        self.pool.run(jobs, shared, ended)
