"""Progress for people: a bar over a sweep's cells and one over a run's budget."""

import sys
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from tqdm import tqdm


def count_cells(config: DictConfig) -> int:
    """Number of cells a multirun command asks for: the product of its sweeps."""
    params = dict(config.hydra.sweeper.get("params") or {})
    overrides = [f"{key}={value}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides([*overrides, *config.hydra.overrides.task])
    cells = 1
    for override in {item.key_or_group: item for item in parsed}.values():
        if override.is_sweep_override():
            cells *= sum(1 for _ in override.sweep_string_iterator())
    return cells


class SweepProgress(Callback):
    """A bar that tells cell i of n, what failed and the time left; plain lines off a terminal."""

    def __init__(self) -> None:
        self.bar: tqdm[None] | None = None
        self.failed = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the bar."""
        interval = 0.1 if sys.stderr.isatty() else 10.0
        cells = count_cells(config)
        self.bar = tqdm(total=cells, desc="cells", unit="cell", mininterval=interval)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the cell that runs."""
        if self.bar is not None:
            cell = f"{config.method.name} {config.task.name} f{config.data.fraction}"
            self.bar.set_postfix_str(f"{cell} s{config.seed}", refresh=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Advance, and report a failure at once."""
        if self.bar is None:
            return
        if job_return.status != JobStatus.COMPLETED:
            self.failed += 1
            directory = f"{config.hydra.sweep.dir}/{config.hydra.sweep.subdir}"
            tqdm.write(f"failed: {directory} ({self.failed} so far)", file=sys.stderr)
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()
