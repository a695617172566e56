"""Shared ground: compose a config as the command line would, run a cell in this process."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from finegrid import cli
from finegrid.runs.record import Record

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a shell's background job. Processes started by tests would inherit it and not be
    # stopped by the Ctrl-C that some tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
TASKS = sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))
BUILTIN = [name for name in TASKS if name.startswith("builtin_")]

# what the record of a made-up cell says, but for its seed and hash
FACTS = {
    "method": "m",
    "task": "t",
    "model": "tiny",
    "fraction": 1.0,
    "budget_unit": "steps",
    "budget": 1.0,
    "protocol": "holdout",
}

torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure() -> None:
    """Keep the user's cache out, before a test file takes a copy of the environment."""
    os.environ["FINEGRID_CACHE_DIR"] = tempfile.mkdtemp(prefix="finegrid-cache-")


def pytest_unconfigure() -> None:
    """Remove the tests' cache."""
    shutil.rmtree(os.environ["FINEGRID_CACHE_DIR"], ignore_errors=True)


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """The config of a command line."""
    cli.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=hydra)


def run_cell(directory: Path, *overrides: str) -> Record:
    """Run one cell in this process, writing where a command line would have written."""
    from finegrid.strategies.single import run

    cfg = composed(*overrides, hydra=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(directory)
        cfg.hydra.mode = "MULTIRUN"
        cfg.hydra.sweep.dir = str(directory.parent)
    HydraConfig.instance().set_config(cfg)
    (directory / ".hydra").mkdir(parents=True, exist_ok=True)
    plain = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    OmegaConf.save(plain, directory / ".hydra" / "config.yaml")
    try:
        return run(plain)
    finally:
        GlobalHydra.instance().clear()


@pytest.fixture(autouse=True)
def _no_local_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked `realdata` see the user's data and models."""
    if "realdata" not in request.keywords:
        monkeypatch.delenv("FINEGRID_DATA_DIR", raising=False)
        monkeypatch.delenv("FINEGRID_MODEL_DIR", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _fp32() -> Iterator[None]:
    """What a test computes does not depend on what its CPU is good at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finegrid.training.device.fast_bf16", lambda accelerator: False)
        yield


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """Skip what this machine cannot run, and say why."""
    if "realdata" in request.keywords:
        for name in ("FINEGRID_DATA_DIR", "FINEGRID_MODEL_DIR"):
            if not os.environ.get(name):
                pytest.skip(f"{name} is not set")
    if "gpu" in request.keywords and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
