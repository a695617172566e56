"""A run that somebody asks for: its settings, where its record goes and who it belongs to.

The door between the command line and the library: it reads Hydra's config once, and what follows
gets dataclasses and plain tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from finegrid.config import RunConfig, to_plain
from finegrid.errors import require
from finegrid.runs import identity
from finegrid.runs.text import given_overrides


@dataclass(frozen=True)
class RunSpec:
    """A run that somebody asks for."""

    config: RunConfig
    plain: Mapping[str, Any]  # the resolved config, as it is hashed, logged and stored
    directory: Path
    overrides: list[str]
    sweep: str | None = None  # name of the sweep's directory; None: a run by itself
    still_owner: Callable[[], bool] = lambda: True  # False: another process took the run over
    key: str | None = None  # the hash by which the sweep knows the run

    @classmethod
    def of(
        cls,
        cfg: DictConfig,
        directory: Path,
        overrides: Sequence[str] = (),
        *,
        precision: str | None = None,
        **more: Any,
    ) -> "RunSpec":
        """A run of a composed config, in the `precision` that its sweep decided for all runs.

        Raises:
            UserError: if the config is not valid.
        """
        config = RunConfig.of(cfg)
        if precision is not None:
            config = replace(config, trainer=replace(config.trainer, precision=precision))
        return cls(config, to_plain(cfg), directory, list(overrides), **more)

    @classmethod
    def of_hydra(cls, cfg: DictConfig, **more: Any) -> "RunSpec":
        """What Hydra's present job asks for."""
        hydra = HydraConfig.get()
        sweep = Path(str(hydra.sweep.dir)).name if hydra.mode == RunMode.MULTIRUN else None
        directory = Path(hydra.runtime.output_dir)
        return cls.of(cfg, directory, given_overrides(hydra), sweep=sweep, **more)

    def require_unchanged(self) -> None:
        """Refuse a run whose files have changed since the sweep computed its hash."""
        if self.key is None:
            return
        now = identity.cell(self.plain)
        require(
            now == self.key,
            "the rows, the weights or the code changed after the sweep had begun (cell "
            f"{self.key}, now {now}); run the same command again",
        )
