"""The rows that both sides train on, in one file for both."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from finegrid.config import RunConfig, register_resolvers
from finegrid.data import loading
from finegrid.data.examples import Examples
from finegrid.data.splits import Splits, split
from finegrid.models import backbone
from finegrid.storage import paths
from finegrid.tasks.task import Task
from finegrid.training import device
from peers.processes import ROOT


@dataclass(frozen=True)
class Shared:
    """What a peer must know of a task and a model; `folder` holds the rows as parquet."""

    folder: str
    text: list[str]
    outputs: int
    metrics: list[str]
    path: str  # of the model: a folder or a hub id
    separator: str | None  # of two texts, on a decoder

    def spec(self, **others: Any) -> dict[str, Any]:
        """The same as a request's values, with others, and whether bf16 is fast on this CPU."""
        return asdict(self) | {"fast_bf16": device.fast_bf16("cpu")} | others


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """The config of a train.py command line."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=hydra)


def first(root: Path, *, task: str, model: str, count: int, dev: int | None = None) -> Shared:
    """So many training rows after one shuffle, and the first rows of the dev set, or all."""
    cfg, found, splits = _loaded(f"task={task}", f"model={model}", "data.protocol=dev")
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(splits.train))
    train = splits.train.take(order[:count])
    held_out = splits.test["test"]
    held_out = held_out.take(np.arange(len(held_out))[:dev])
    return _written(root, cfg, found, {"train": train, "validation": held_out})


def fraction(root: Path, *, task: str, model: str, share: str) -> Shared:
    """The training rows that finegrid's own protocol gives a cell of that fraction."""
    cfg, found, splits = _loaded(f"task={task}", f"model={model}", f"data.fraction={share}")
    return _written(root, cfg, found, {"train": splits.train, "validation": splits.test["test"]})


def holdout(root: Path, *overrides: str) -> Shared:
    """The rows of a cell of finegrid's: training, validation apart from it, and test."""
    cfg, found, splits = _loaded(*overrides)
    rows = {"train": splits.train, "validation": splits.validation, "test": splits.test["test"]}
    return _written(root, cfg, found, rows)


def labelled(root: Path, *overrides: str) -> Shared:
    """The training rows of a cell before any validation is carved from them, and the test rows."""
    cfg, found, splits = _loaded(*overrides, "data.protocol=dev")
    return _written(root, cfg, found, {"train": splits.train, "validation": splits.test["test"]})


def rate(method: str, model: str) -> float:
    """The learning rate that finegrid gives a method."""
    return float(composed(f"method={method}", f"model={model}").optim.lr)


def _loaded(*overrides: str) -> tuple[DictConfig, Task, Splits]:
    cfg = composed(*overrides)
    config = RunConfig.of(cfg)
    task, tables = loading.load(config.task, config.data)
    return cfg, task, split(tables, task, config.data)


def _written(root: Path, cfg: DictConfig, task: Task, splits: Mapping[str, Examples]) -> Shared:
    """A parquet file a split below `root`, which also serves as finegrid's `data.source`."""
    folder = root / task.subset
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        columns = dict(zip(task.text, rows.texts, strict=True))
        table = pa.table({**columns, task.label: rows.labels, "idx": rows.idx})
        pq.write_table(table, folder / f"{name}-0.parquet")
    path = paths.model(str(cfg.model.path))
    separator = backbone.separator(RunConfig.of(cfg).model)
    return Shared(str(folder), task.text, task.outputs, task.metrics, path, separator)
