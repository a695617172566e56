"""Run one cell by itself, with cached features where its config asks for them.

`training.run` knows no strategy; this module gives it the callbacks of those that apply.
"""

import pytorch_lightning as pl

from finegrid.runs import saved_config
from finegrid.runs.record import Record
from finegrid.runs.spec import RunSpec
from finegrid.strategies.cached_features import CacheFeatures
from finegrid.training import run as training
from finegrid.training.components import RunComponents


def run(spec: RunSpec) -> Record:
    """Train and score one run, as `training.run.run` does.

    The config in its directory is written anew, resolved: it must say the same wherever it is read.
    """
    saved_config.write(spec.directory, spec.plain, spec.overrides)
    return training.run(spec, extend=extend)


def extend(components: RunComponents) -> list[pl.Callback]:
    """The callbacks of the strategies that a run's config asks for."""
    config = components.config
    if config.frozen_dropout:
        return []
    return [CacheFeatures(components.method, components.encoded, config)]
