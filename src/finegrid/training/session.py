"""One run from its spec to its record: prepared, watched while it trains, scored, recorded.

A `RunSession` does not train: `training.run` does that for one run, `strategies.fused_trainer` for
several in one pass. Whatever happens, the session leaves a record.
"""

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from finegrid.data.batching import TrainingBatches, train_loader
from finegrid.errors import Diverged, UserError, refusal
from finegrid.methods.base import overrides
from finegrid.models import backbone
from finegrid.models.backbone import Backbone
from finegrid.runs import layout, provenance
from finegrid.runs.record import clear
from finegrid.runs.spec import RunSpec
from finegrid.seeds import stream
from finegrid.tasks.modules.semi import UPET
from finegrid.tracking import loggers
from finegrid.tracking.loggers import SafeLogger
from finegrid.tracking.run_info import RunInfo
from finegrid.training import forgetting, heartbeat, leakage, recording, scoring
from finegrid.training.budget import BudgetTimer
from finegrid.training.checkpoint import BestCheckpoint, passes
from finegrid.training.components import RunComponents, prepare
from finegrid.training.cost import CostMonitor, peak_memory
from finegrid.training.heads import HeadUpdates
from finegrid.training.progress import ProgressFile
from finegrid.training.search import MethodSearch
from finegrid.training.self_training import SelfTraining
from finegrid.training.step_logger import StepLogger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks that watch one run."""

    clock: BudgetTimer
    meter: CostMonitor
    selection: BestCheckpoint
    search: MethodSearch | None  # of a method that searches for what trains
    semi: SelfTraining | None
    reports: list[pl.Callback]  # what tells others of the run while it trains

    def in_order(self, components: RunComponents) -> list[pl.Callback]:
        """All of a run's callbacks.

        The clock counts a step before the method acts on it and the selection evaluates it.
        """
        head, method = HeadUpdates(components.head), components.method
        acting = [self.meter, head, *components.kernels, self.clock, self.search, method, self.semi]
        return [*(one for one in acting if one is not None), self.selection, *self.reports]


class RunSession:
    """A run's record from its beginning to its end, also if it fails."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec, self.config, self.directory = spec, spec.config, spec.directory
        self.started = time.perf_counter()
        clear(self.directory)  # of what an earlier run left there
        if self.config.trainer.threads:
            torch.set_num_threads(self.config.trainer.threads)
        self.record = recording.begin(spec)
        self.logger: SafeLogger | None = None

    def prepare(self, *, build: Callable[..., Backbone] = backbone.build) -> RunComponents:
        """Build the run's components and note which data and weights it reads."""
        loggers.require_installed(self.spec.plain.get("logger"))
        components = prepare(self.config, build=build)
        self.spec.require_unchanged()
        heartbeat.beat()
        recording.add_inputs(self.record, components)
        if self.logger is None:
            self.logger = self._make_logger()
        return components

    def callbacks(
        self, components: RunComponents, *, timer: type[BudgetTimer] = BudgetTimer
    ) -> RunCallbacks:
        """The callbacks of a run that is about to train."""
        config, state = self.config, components.module.state
        self.record.micro_batch_size = state.micro_batch_size or config.data.batch_size
        clock = timer(config.budget, config.optim, rows=len(components.splits.train))
        train, validation = components.encoded["train"], components.encoded["validation"]
        planned = passes(
            config.evaluations,
            config.budget,
            train=train,
            validation=validation,
            batch_size=config.data.batch_size,
        )
        self.record.evaluations_planned = planned
        selection = BestCheckpoint(
            clock,
            validation,
            evaluations=planned,
            batch_size=config.data.eval_batch_size,
            curve=self.directory / layout.CURVE,
        )
        meter = CostMonitor(train, config.trainer)
        file = ProgressFile(clock, selection, self.directory, began=self.started)
        reports: list[pl.Callback] = [file]
        if self.logger is not None:
            reports.append(StepLogger(clock, config.log_every))
        search = semi = None
        if overrides(components.method, "search"):
            search = MethodSearch(clock, meter, components)
        if isinstance(config.semi, UPET):
            semi = SelfTraining(config.semi, clock, meter, components)
        return RunCallbacks(clock, meter, selection, search, semi, reports)

    def loader(self, components: RunComponents) -> Any:
        """Batches of the training rows, in the order of the run's seed."""
        seed = stream(self.config.seed, "order")
        rows, size = components.encoded["train"], self.config.data.batch_size
        if isinstance(self.config.semi, UPET):
            return TrainingBatches(rows, batch_size=size, seed=seed)
        return train_loader(rows, batch_size=size, seed=seed)

    def score(
        self, components: RunComponents, callbacks: RunCallbacks, *, setup: float | None = None
    ) -> None:
        """Score a run that has trained; save its delta and predictions, and note what it cost.

        `setup` is the seconds that its set-up took, if not all since its beginning.
        """
        clock, selection = callbacks.clock, callbacks.selection
        heartbeat.beat()
        seconds = clock.started - self.started if setup is None else setup
        recording.add_costs(self.record, clock, callbacks.meter, setup=seconds)
        if callbacks.search is not None:
            recording.add_search(self.record, components.method, callbacks.search)
        if callbacks.semi is not None:
            recording.add_self_training(self.record, components.splits, callbacks.semi)
        self.record.evaluations = selection.passes
        began = time.perf_counter()
        scoring.score(components, self.record, selection, self.directory)
        leakage.add(self.record, components)
        self.record.eval_seconds = selection.seconds + time.perf_counter() - began
        self.record.peak_memory_bytes = peak_memory()
        if self.config.forgetting:
            self.record.forgetting = forgetting.measure(components)

    def end(self, error: BaseException | None) -> None:
        """Write the record, unless the run was interrupted, and close the logger."""
        record = self.record
        (self.directory / layout.LIVE).unlink(missing_ok=True)
        if error is None:
            record.status = "ok"
        elif isinstance(error, Exception):
            record.status = "diverged" if isinstance(error, Diverged) else "failed"
            line = str(error) if isinstance(error, UserError) else refusal(error)
            record.error = line or "".join(traceback.format_exception(error))
            log.info("%s: %s", record.status, record.error)  # for run.log; the raise tells the user
        if record.status != "running" and self.spec.still_owner():
            record.finished = provenance.now()
            record.write(self.directory)
        if self.logger is not None:
            self.logger.close(record)
        if error is None:
            log.info("ok: %s", record.summary())

    def _make_logger(self) -> SafeLogger | None:
        node = self.spec.plain.get("logger")
        if not node:
            return None
        sweep, cell = self.spec.sweep or "runs", str(self.record.cell)
        info = RunInfo(self.directory, sweep, cell, self.record, dict(self.spec.plain))
        return loggers.logger(node, run=info)
