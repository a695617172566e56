"""Fine-tune one backbone on one task with one method; `--help` lists what there is."""

import os
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from finegrid.commands.catalogue import help_text
from finegrid.errors import require
from finegrid.grid import job
from finegrid.runs import layout
from finegrid.runs.record import clear
from finegrid.runs.spec import RunSpec
from finegrid.storage.paths import CONF


def main(argv: Sequence[str] | None = None) -> None:
    """Let Hydra compose the config and run one cell, or with -m a sweep.

    Launchers pickle `run` by its name, so that it stays undecorated.
    """
    if argv is not None:
        sys.argv = [sys.argv[0], *argv]  # what Hydra reads, and what a record keeps
    OmegaConf.register_new_resolver("help", help_text, replace=True)
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(run)()


def run(cfg: DictConfig) -> None:
    """Check the config, then import the heavy parts and run the cell."""
    _one_method()
    if told := os.environ.get(job.VARIABLE):
        job.run(job.read(told))
        return
    spec = RunSpec.of_hydra(cfg)
    clear(spec.directory)  # an earlier run's, before the slow imports
    record = job.heavy("strategies.single").run(spec)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        print(f"{record.summary()}\nrecord: {spec.directory}/{layout.RECORD}")


def _one_method() -> None:
    """Refuse `method=[bitfit,lora]`: Hydra merges the files into one method, in truth the last."""
    require(
        "method" in HydraConfig.get().runtime.choices,
        "method=[...] names several methods; compose them in a file of their own, as "
        "conf/method/bitfit_lora.yaml does for bitfit and lora",
    )
