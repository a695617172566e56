"""Run one cell by itself, with cached features where its config asks for them.

`training.run` knows no strategy; this module gives it the callbacks of those that apply.
"""

from collections.abc import Callable

import pytorch_lightning as pl
from omegaconf import DictConfig

from finegrid.runs.record import Record
from finegrid.strategies.cached_features import CacheFeatures
from finegrid.training import run as training
from finegrid.training.components import Parts
from finegrid.training.session import Request


def run(
    cfg: DictConfig, *, held: Callable[[], bool] = lambda: True, key: str | None = None
) -> Record:
    """Train and score one cell in Hydra's output directory, as `training.run.run_alone` does.

    `held` says whether no other process has taken the cell over, `key` is the hash by which a sweep
    knows the cell.
    """
    return run_alone(Request.of_hydra(cfg, held, key))


def run_alone(request: Request) -> Record:
    """Train and score one cell."""
    return training.run_alone(request, extend=extend)


def extend(parts: Parts) -> list[pl.Callback]:
    """The callbacks of the strategies that a run's config asks for."""
    cached = not parts.config.frozen_dropout
    return [CacheFeatures(parts.method, parts.encoded, parts.config)] if cached else []
