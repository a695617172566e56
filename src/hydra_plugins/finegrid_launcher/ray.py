"""Hydra launcher `ray`: the machines of a ray cluster, or this one, `hydra/launcher=ray`.

    pip install 'finegrid[ray]'
    finegrid sweep method=full,bitfit seed=0,1,2 hydra/launcher=ray
    finegrid sweep ... hydra/launcher=ray hydra.launcher.address=auto hydra.launcher.num_cpus=4

On a cluster start it on one of its machines. All of them need this environment, and the directory
that it is started in under the same path: runs are written there. Variables of the shell reach the
jobs on this machine alone; give others what they need:

    '+hydra.launcher.runtime_env.env_vars={FINEGRID_DATA_DIR: /data, HF_HUB_OFFLINE: "1"}'

A cluster that asks for a token wants RAY_AUTH_MODE=token in the shell; ray:// wants grpcio as well.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from finegrid.errors import require
from finegrid.grid.launcher import StreamingLauncher
from finegrid.grid.pool import Ended
from finegrid.grid.ray_pool import RayPool
from finegrid.grid.worker import Job


@dataclass
class RayConf:
    """Options of the launcher."""

    _target_: str = "hydra_plugins.finegrid_launcher.ray.RayLauncher"
    address: str | None = None  # null: start ray here; auto, host:port or ray://host:port: join it
    num_cpus: float = 1  # of a job; its threads
    num_gpus: float | None = None  # of a job, 0.5: two share one; null: 1 if the cluster has any
    local_cpus: int | None = None  # of a ray started here; null: what it finds
    local_gpus: int | None = None
    timeout_s: float | None = None  # seconds that one job may take, everything included
    stall_s: float | None = 1800  # seconds without a step of work after which a job is ended
    preload: str = "finegrid.grid.preload"  # module that each of ray's workers imports once
    runtime_env: dict[str, Any] = field(default_factory=dict)  # as ray has it: env_vars, pip, ...
    init: dict[str, Any] = field(default_factory=dict)  # whatever else ray.init takes


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConf, provider="finegrid")

QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}  # the view has the screen
LOCAL = {"include_dashboard": False, "object_store_memory": 128 * 2**20}


class RayLauncher(StreamingLauncher):
    """Runs each job in a fresh process where ray finds room for it."""

    def __init__(
        self,
        *,
        address: str | None,
        num_cpus: float,
        num_gpus: float | None,
        local_cpus: int | None,
        local_gpus: int | None,
        timeout_s: float | None,
        stall_s: float | None,
        preload: str,
        runtime_env: Any,
        init: Any,
    ) -> None:
        own = {"num_cpus": local_cpus, "num_gpus": local_gpus}
        require(
            address is None or own == dict.fromkeys(own),
            f"hydra.launcher.address={address} has CPUs and GPUs of its own: leave out local_*",
        )
        start = {"address": "local", **own, **LOCAL} if address is None else {"address": address}
        given: Any = OmegaConf.to_container(OmegaConf.create({"runtime_env": runtime_env, **init}))
        self.pool = RayPool(
            {**start, **QUIET, **given},
            cpus=num_cpus,
            gpus=num_gpus,
            preload=preload,
            limit=timeout_s,
            stall=stall_s,
        )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives a launcher, if ray is there to use it."""
        require(
            find_spec("ray") is not None,
            "hydra/launcher=ray needs ray: pip install 'finegrid[ray]'",
        )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def run(self, jobs: Iterable[Job | None], shared: bytes, ended: Ended) -> None:
        """Run the jobs on ray."""
        self.pool.run(jobs, shared, ended)
