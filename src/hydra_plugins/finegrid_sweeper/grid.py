"""Hydra sweeper `grid`: runs the cells that are not done yet, with any launcher."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from finegrid.commands.ending import after_sweep
from finegrid.errors import UserError
from finegrid.grid import refusals
from finegrid.grid.composed import stages
from finegrid.grid.known import Known
from finegrid.grid.status import Store
from finegrid.grid.sweep import Sweep
from finegrid.runs.record import command_line


@dataclass
class GridConf:
    """Options of the sweeper; the rules of a sweep are `retry` and `fail_fast` of the config."""

    _target_: str = "hydra_plugins.finegrid_sweeper.grid.GridSweeper"
    # axes: key -> values, as on a command line
    params: dict[str, Any] = field(default_factory=dict)
    # more axes for each of several grids, all of which the sweep runs; none: one grid of `params`
    grids: list[dict[str, Any]] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="finegrid")


class GridSweeper(Sweeper):
    """Cells by their hash: what is done is skipped, the rest is launched."""

    def __init__(self, *, params: Any, grids: Any) -> None:
        self.params, self.grids = params, grids

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives a sweeper, and make the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run every cell that the arguments ask for and that has not ended yet."""
        config, launcher, context = self.config, self.launcher, self.hydra_context
        assert config is not None
        assert launcher is not None
        assert context is not None
        root = Path(str(config.hydra.sweep.dir))
        store = Store(root, Known.of(config.known))
        found = stages(context.config_loader, config, arguments, store)
        rules = {"fail_fast": config.fail_fast, "fuse": self._fuse()}
        sweep = Sweep(found, store, retry=str(config.retry), **rules)
        todo = sweep.unsettled()
        if todo:  # what later stages ask for is of the same methods
            refusals.check([cell.config for cell in (found.base if found.adaptive else todo)])
        OmegaConf.save(config, root / "multirun.yaml")
        try:
            returns = sweep.conduct(launcher, command=command_line())
        except UserError:  # some cells have no result; the others have something to say
            self._conclude(sweep)
            raise
        self._conclude(sweep)
        return returns

    def _conclude(self, sweep: Sweep) -> None:
        if self.config is not None and self.config.report:
            after_sweep(sweep.store, sweep.cells)

    def _fuse(self) -> Any:
        """How many runs may share a pass: where each job has a limit of its own, none by itself."""
        assert self.config is not None
        limited = self.config.hydra.launcher.get("timeout_s") is not None
        return 1 if limited and self.config.fuse == "auto" else self.config.fuse
