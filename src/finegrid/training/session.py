"""A cell on its way to a record: asked for, prepared, watched while it trains, scored, recorded."""

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from finegrid.config import RunConfig
from finegrid.data.batching import train_loader
from finegrid.errors import Diverged, UserError, refusal, require
from finegrid.models import backbone
from finegrid.models.backbone import Backbone, drawn_pooler
from finegrid.runs import delta, identity, layout, provenance
from finegrid.runs.predictions import write_predictions
from finegrid.runs.record import Record, clear
from finegrid.seeds import stream
from finegrid.tracking import loggers
from finegrid.tracking.loggers import Guarded
from finegrid.tracking.run_info import RunInfo
from finegrid.training import device, heartbeat
from finegrid.training.budget import BudgetTimer
from finegrid.training.checkpoint import Selection
from finegrid.training.components import Parts, prepare
from finegrid.training.cost import Meter, peak_memory
from finegrid.training.module import predict

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Request:
    """A cell that somebody wants run."""

    cfg: DictConfig
    directory: Path
    overrides: list[str]
    sweep: str | None = None  # name of the sweep's directory; None: a run on its own
    held: Callable[[], bool] = lambda: True  # whether no other process has taken the cell over
    key: str | None = None  # the hash by which the sweep knows the cell

    @classmethod
    def of_hydra(
        cls, cfg: DictConfig, held: Callable[[], bool], key: str | None = None
    ) -> "Request":
        """What Hydra's present job asks for."""
        hydra = HydraConfig.get()
        sweep = Path(str(hydra.sweep.dir)).name if hydra.mode == RunMode.MULTIRUN else None
        place, lines = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        return cls(cfg, place, lines, sweep, held, key)

    def unchanged(self) -> None:
        """Refuse a cell whose files are others by now than those that the sweep named it by."""
        if self.key is None:
            return
        plain: Any = OmegaConf.to_container(self.cfg, resolve=True)
        now = identity.cell(plain)
        require(
            now == self.key,
            "the rows, the weights or the code changed after the sweep had begun (cell "
            f"{self.key}, now {now}); run the same command again",
        )


@dataclass(frozen=True)
class Watch:
    """The callbacks that watch one run."""

    clock: BudgetTimer
    meter: Meter
    selection: Selection

    def callbacks(self, parts: Parts) -> list[pl.Callback]:
        """All of a run's callbacks in their order.

        The clock counts a step before the method acts on it and the selection looks at the outcome.
        """
        return [self.meter, *parts.kernels, self.clock, parts.method, self.selection]


class Attempt:
    """A run's record from its beginning to its end, whatever the end."""

    def __init__(self, request: Request) -> None:
        self.request, self.directory = request, request.directory
        self.started = time.perf_counter()
        self.config = RunConfig.of(request.cfg)
        clear(self.directory)  # of what an earlier run left there
        self.record = _begin(request, self.config)
        self.tracker: Guarded | None = None

    def prepare(self, *, build: Callable[..., Backbone] = backbone.build) -> Parts:
        """Build the run's parts and note what the data and the weights turned out to be."""
        parts = prepare(self.request.cfg, self.config, build=build)
        self.request.unchanged()
        heartbeat.beat()
        _identify(self.record, parts)
        if self.tracker is None:
            self.tracker = self._tracker()
        return parts

    def watch(self, parts: Parts, *, timer: type[BudgetTimer] = BudgetTimer) -> Watch:
        """The clock, the meter and the selection of a run that is about to train."""
        config = self.config
        self.record.micro_batch_size = parts.module.state.micro_batch_size or config.data.batch_size
        clock = timer(config.budget, config.optim, rows=len(parts.splits.train))
        selection = Selection(
            clock,
            parts.encoded["validation"],
            evaluations=config.evaluations,
            batch_size=config.data.eval_batch_size,
            curve=self.directory / layout.CURVE,
        )
        meter = Meter(parts.encoded["train"], config.trainer)
        return Watch(clock, meter, selection)

    def loader(self, parts: Parts) -> Any:
        """Batches of the run's training rows, in the order of its own seed."""
        seed = stream(self.config.seed, "order")
        size = self.config.data.batch_size
        return train_loader(parts.encoded["train"], batch_size=size, seed=seed)

    def score(self, parts: Parts, watch: Watch, *, setup: float | None = None) -> None:
        """Score a run that has trained; save its delta and predictions, and note what it cost.

        `setup` is the seconds that its set-up took, if not all since its beginning.
        """
        alone = watch.clock.started - self.started
        heartbeat.beat()
        _cost(self.record, watch, setup=alone if setup is None else setup)
        began = time.perf_counter()
        _score(parts, self.record, watch.selection, self.directory)
        self.record.eval_seconds = watch.selection.seconds + time.perf_counter() - began
        self.record.peak_memory_bytes = peak_memory()

    def end(self, error: BaseException | None) -> None:
        """Write the record, unless the run was interrupted, and close the logger."""
        record = self.record
        if error is None:
            record.status = "ok"
        elif isinstance(error, Exception):
            record.status = "diverged" if isinstance(error, Diverged) else "failed"
            told = str(error) if isinstance(error, UserError) else refusal(error)
            record.error = told or "".join(traceback.format_exception(error))
            log.info("%s: %s", record.status, record.error)  # for run.log; the raise tells the user
        if record.status != "running" and self.request.held():
            record.finished = provenance.now()
            record.write(self.directory)
        if self.tracker is not None:
            self.tracker.close(record)
        if error is None:
            log.info("ok: %s", record.summary())

    def _tracker(self) -> Guarded | None:
        cfg = self.request.cfg
        if not cfg.get("logger"):
            return None
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        sweep = self.request.sweep or "runs"
        info = RunInfo(self.directory, sweep, str(self.record.cell), self.record, config)
        return loggers.logger(config["logger"], run=info)


def _begin(request: Request, config: RunConfig) -> Record:
    """The record of a run that has just begun: what was asked for, and where."""
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    plain: Any = OmegaConf.to_container(request.cfg, resolve=True)
    asked = identity.description(plain)
    return Record(
        **asked | {"cell": request.key or asked["cell"]},
        config_hash=identity.config_hash(plain),
        overrides=request.overrides,
        threads=torch.get_num_threads(),
        device=device.device(config.trainer),
        precision=device.precision(config.trainer),
        started=provenance.now(),
        **provenance.facts(request.overrides if request.sweep else None),
    )


def _identify(record: Record, parts: Parts) -> None:
    """Fill in what the data and the weights turned out to be."""
    splits, base = parts.splits, parts.module.backbone
    record.positive_class = of = parts.task.positive_class
    record.positive = None if of is None else parts.task.labels[of]
    record.data_source, record.model_revision = splits.source, base.revision
    record.fingerprint = base.fingerprint
    record.drawn_pooler = bool(drawn_pooler(base.model))
    record.train_hash = splits.train.digest()
    record.validation_hash = splits.validation.digest()
    record.test_hash = splits.test["test"].digest()
    record.train_rows, record.validation_rows = len(splits.train), len(splits.validation)
    record.test_rows, record.test_overlap = len(splits.test["test"]), splits.overlap


def _cost(record: Record, watch: Watch, *, setup: float) -> None:
    clock, meter = watch.clock, watch.meter
    record.steps, record.epochs = clock.steps, clock.epochs
    record.setup_seconds, record.train_seconds = setup, clock.seconds
    record.train_cpu_seconds = clock.cpu_seconds
    record.examples_per_second = clock.examples / clock.seconds
    record.tokens_per_second = clock.tokens / clock.seconds
    record.train_flops = meter.flops_per_token * clock.tokens
    record.matmul_rate = meter.matmul_rate
    record.mfu = meter.mfu(clock.tokens, clock.seconds)
    for name, count in meter.parameters.items():
        setattr(record, name, count)


def _score(parts: Parts, record: Record, selection: Selection, directory: Path) -> None:
    """Score the last and the selected weights on the test splits; save delta and predictions."""
    task, headline = parts.task, parts.task.headline
    dtype = DTYPES[parts.config.store]
    logits = _predict_tests(parts)
    record.test_last = _scores(parts, logits).get("test", {}).get(headline)
    chosen, record.best_step = selection.last, selection.best.step
    if parts.config.select == "best" and selection.best.step != selection.last.step:
        chosen = selection.best
        selection.restore(parts.module)
    if chosen is not selection.last or dtype != torch.float32:
        delta.round_to(parts.module.model, dtype)
        logits = _predict_tests(parts)
    scores = _scores(parts, logits)
    record.metric, record.test = headline, scores.get("test", {}).get(headline)
    record.validation = chosen.scores[headline]
    record.metrics = {"validation": chosen.scores, **scores}
    if logits:
        record.degenerate = task.degenerate(logits["test"])
        write_predictions(directory, task, parts.splits.test, logits)
    record.delta_bytes = delta.save(
        directory / delta.FILE,
        parts.module.model,
        method=record.method,
        fingerprint=str(record.fingerprint),
        labels=task.labels,
        dtype=dtype,
    )
    record.delta_digest = delta.digest(directory / delta.FILE)
    trained = (record.params_delta or 0) + (record.params_pooler or 0) + (record.params_head or 0)
    record.delta_bits_per_trainable = 8 * record.delta_bytes / trained
    record.delta_bound_bytes = delta.bound(delta.state(parts.module.model), dtype)


def _predict_tests(parts: Parts) -> dict[str, Tensor]:
    """Logits of every test split; of none in a trial, which must not know them."""
    return {
        name: predict(
            parts.module.model,
            parts.encoded[name],
            batch_size=parts.config.data.eval_batch_size,
            precision=device.precision(parts.config.trainer),
        )
        for name in parts.splits.test
        if parts.config.trial is None
    }


def _scores(parts: Parts, logits: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    return {
        name: parts.task.score(values, parts.encoded[name].labels)
        for name, values in logits.items()
    }
