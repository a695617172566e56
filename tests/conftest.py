"""Shared ground: compose a config as the command line would, run a cell in this process."""

import copy
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir, version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from finegrid.config import RunConfig, register_resolvers
from finegrid.data import builtin
from finegrid.data.builtin import Row
from finegrid.methods.base import TuningMethod
from finegrid.runs.record import Record

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a shell's background job. Processes started by tests would inherit it and not be
    # stopped by the Ctrl-C that some tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
FUSING = [
    name for name in METHODS
    if "\nfuses: true" in (ROOT / f"conf/method/{name}.yaml").read_text(encoding="utf-8")
]  # fmt: skip
TASKS = sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))
BUILTIN = [name for name in TASKS if name.startswith("builtin_")]
ALL_ROWS = builtin.load

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

# The quick lane, `make quick`: files of each wing (and, where some of a file's tests take long,
# words in the names of those that belong to it).
QUICK: dict[str, tuple[str, ...]] = {
    "test_budget": (),
    "test_claims": (),
    "test_cli": ("bad_input",),
    "test_codec": (),
    "test_compare": (),
    "test_data": (),
    "test_decide": (),
    "test_groups": (),
    "test_house": (),
    "test_identity": (),
    "test_methods": ("binds", "gradient", "freezes", "round_trip"),
    "test_metrics": (),
    "test_models": (),
    "test_predictions": (),
    "test_references": (),
    "test_refusals": (),
    "test_runs06": (),
    "test_seeds": (),
    "test_selection": (),
    "test_simultaneous": (),
    "test_stats": (),
    "test_sweep": (),
    "test_tokens": (),
    "test_tuning": (),
}

# Words in the names of tests that take longer than ten seconds, in files of others that do not.
SLOW = ("equal_methods_are", "readme_teaches", "pretraining_matters", "a_much_better_method")
# Files that take longest; they begin, so that no worker is left with one at the end.
LONG = (
    "test_faults", "test_run", "test_methods", "test_own_data", "test_sweep", "test_slots",
    "test_cli", "test_frozen", "test_foreign",
)  # fmt: skip

torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's cache out, before a test file takes a copy of the environment."""
    if not hasattr(config, "workerinput"):  # a worker of xdist has that of its parent
        os.environ["FINEGRID_CACHE_DIR"] = tempfile.mkdtemp(prefix="finegrid-cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the tests' cache."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["FINEGRID_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the quick lane, and begin with the files that take longest."""
    for item in items:
        if any(word in item.name for word in SLOW):
            item.add_marker("slow")
        words = QUICK.get(item.path.stem)
        chosen = words is not None and (not words or any(word in item.name for word in words))
        if chosen and "slow" not in item.keywords:
            item.add_marker("quick")
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """The config of a command line: Hydra's for the groups, to which values are applied.

    Composing takes thirty times as long as a copy, and Hydra too applies values afterwards.
    """
    register_resolvers()
    values = [one for one in overrides if _is_value(one)]
    groups = tuple(one for one in overrides if not _is_value(one))
    cfg = copy.deepcopy(_composed(groups, hydra, Path.cwd() if hydra else ROOT))
    parsed = OverridesParser.create().parse_overrides(values)
    ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
    if hydra:
        cfg.hydra.overrides.task = [one for one in overrides if not one.startswith("hydra")]
    return cfg


def _is_value(override: str) -> bool:
    """Whether it sets a value of the composed config, and chooses no file of a group."""
    key = override.partition("=")[0].lstrip("+~")
    return not (key.startswith("hydra") or set(key) & {"/", "@"} or (ROOT / "conf" / key).is_dir())


@cache
def _composed(groups: tuple[str, ...], hydra: bool, cwd: Path) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(groups), return_hydra_config=hydra)


def tuning_method(*overrides: str) -> TuningMethod:
    """The method of a command line."""
    from finegrid.training.components import build_method

    return build_method(RunConfig.of(composed(*overrides)).method)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def run_cell(directory: Path, *overrides: str) -> Record:
    """Run one cell in this process, writing where a command line would have written."""
    from finegrid.runs.spec import RunSpec
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
        return run(RunSpec.of_hydra(plain))
    finally:
        GlobalHydra.instance().clear()


Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Finished runs of two steps, each trained once; a test that writes into one takes a copy."""
    root = tmp_path_factory.mktemp("runs")
    common = ("experiment=smoke", "model=tiny", "task=builtin_paraphrase", "trainer.threads=1")

    def trained(overrides: str) -> Path:
        directory = root / overrides.replace(" ", "-")
        if not directory.exists():
            run_cell(directory, *common, *overrides.split())
        return directory

    return trained


@contextmanager
def clean_process() -> Iterator[None]:
    """Undo what a command sets in its process: Hydra's state, logging, HYDRA_FULL_ERROR.

    Hydra merges an option of the user's own into a file of the same name that comes later.
    """
    options = dict(ConfigStore.instance().repo.get("model", {}))
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
        yield
    for handler in set(root.handlers) - set(handlers):  # with open files
        root.removeHandler(handler)
        handler.close()
    for handler in set(handlers) - set(root.handlers):
        root.addHandler(handler)
    root.setLevel(level)
    ConfigStore.instance().repo["model"] = options
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    version.VersionBase.set_instance(version.VersionBase())


@pytest.fixture(autouse=True)
def _fresh_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test meets neither the settings nor the random numbers that the test before it left."""
    torch.manual_seed(0)
    if (stream := getattr(request.module, "RNG", None)) is not None:
        stream.bit_generator.state = np.random.default_rng(0).bit_generator.state
    with clean_process():
        yield


@pytest.fixture
def hydras_own_defaults(hydra_restore_singletons: Any) -> None:
    """Hydra's suite for launchers expects the defaults of its own test scripts."""
    version.setbase("1.1")


@pytest.fixture(autouse=True)
def _no_local_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked `realdata` see the user's data and models."""
    if "realdata" not in request.keywords:
        monkeypatch.delenv("FINEGRID_DATA_DIR", raising=False)
        monkeypatch.delenv("FINEGRID_MODEL_DIR", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _few_test_rows() -> Iterator[None]:
    """The builtin tasks keep their first test rows alone: a test pays for 96 and not for 600."""
    from finegrid.data import loading

    every = cache(ALL_ROWS)

    def few(name: str) -> dict[str, list[Row]]:
        rows = every(name)
        return rows | {"validation": rows["validation"][:96]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "load", few)
        for name in BUILTIN:  # cached, so that processes that tests start have the same rows
            loading._builtin(SimpleNamespace(name=name))  # type: ignore[arg-type]
        yield


@pytest.fixture
def all_test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builtin tasks as they are, for what is said of their scores."""
    monkeypatch.setattr(builtin, "load", ALL_ROWS)
    monkeypatch.setenv("FINEGRID_CACHE_DIR", str(tmp_path / "cache"))


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
