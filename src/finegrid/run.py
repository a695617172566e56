"""One run from config to record: the only file that knows all the parts."""

import gc
import logging
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from finegrid import backbone, delta, identity, metrics, provenance
from finegrid.bar import BudgetBar
from finegrid.budget import Clock
from finegrid.config import RunConfig, bind, require
from finegrid.data import Encoded, Rows, Splits, split, train_loader
from finegrid.errors import Diverged, UserError
from finegrid.meter import Meter, peak_memory
from finegrid.methods.base import TuningMethod
from finegrid.module import FineTuner, predict
from finegrid.predictions import write_predictions
from finegrid.record import Record
from finegrid.seeds import stream
from finegrid.selection import Selection
from finegrid.sources import load
from finegrid.tasks import Task
from finegrid.tracking import Guarded, RunInfo

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of, built and checked, before the first step."""

    config: RunConfig
    task: Task
    splits: Splits
    encoded: dict[str, Encoded]  # train, validation, test and further test splits
    module: FineTuner
    method: TuningMethod


def run(cfg: DictConfig, *, held: Callable[[], bool] = lambda: True) -> Record:
    """Train and score one cell in Hydra's output directory; it leaves a record whatever happens.

    Unless, by then, the cell is not `held` any more: another process has taken it over.

    Raises:
        UserError: for what the user can mend, `Diverged` for a non-finite loss; the record then
            says `failed` or `diverged` and why.
    """
    started = time.perf_counter()
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    config = RunConfig.of(cfg)
    record = _begin(cfg, config, list(hydra_config.overrides.task))
    tracker: Guarded | None = None
    try:
        parts = prepare(cfg, config)
        _identify(record, parts)
        tracker = _tracker(cfg, record, directory)
        alone = hydra_config.mode != RunMode.MULTIRUN
        fit_and_score = partial(
            _fit_and_score,
            record=record,
            directory=directory,
            tracker=tracker,
            started=started,
            bar=alone,
        )
        if not fit_and_score(parts):
            del parts  # what it holds must go before the second try takes memory
            _start_over(cfg, config, fit_and_score)
        record.status = "ok"
    except Exception as error:
        record.status = "diverged" if isinstance(error, Diverged) else "failed"
        record.error = str(error) if isinstance(error, UserError) else traceback.format_exc()
        log.info("%s: %s", record.status, record.error)  # for run.log; the raise tells the user
        raise
    finally:
        if record.status != "running" and held():  # an interrupt leaves no record
            record.finished = provenance.now()
            record.write(directory)
        if tracker is not None:
            tracker.close(record)
    log.info("ok: %s", record.summary())
    return record


def prepare(cfg: DictConfig, config: RunConfig) -> Parts:
    """Build every part of a run, data first, so that bad input fails before weights load."""
    method = build_method(cfg)
    task, tables = load(bind(Task, cfg.task, "task"), config.data)
    splits = split(tables, task, config.data)
    tokenizer = backbone.tokenizer(config.model)
    encoded = {
        name: Encoded(rows, tokenizer, config.model.max_length)
        for name, rows in _named_rows(splits).items()
    }
    base = backbone.build(config.model, outputs=task.outputs, seed=stream(config.seed, "init"))
    _fits(method, encoded, base, config)
    train = encoded["train"]
    module = FineTuner(base, task, config.optim, seed=config.seed, train=train)
    return Parts(config, task, splits, encoded, module, method)


def _fits(
    method: TuningMethod, encoded: dict[str, Encoded], base: backbone.Backbone, config: RunConfig
) -> None:
    """Refuse texts that leave no room for the positions that a method takes."""
    if not method.positions:
        return
    longest = max(int(rows.lengths.max()) for rows in encoded.values())
    room = base.sites.positions - method.positions
    require(
        longest <= room,
        f"the longest text has {longest} tokens and the method adds {method.positions}, but "
        f"{config.model.name} has {base.sites.positions} positions; "
        + (f"set model.max_length={room}" if room > 2 else "use a shorter prompt"),
    )


def build_method(cfg: DictConfig) -> TuningMethod:
    """Instantiate the method that a config names; only finegrid's own classes are allowed."""
    plain: Any = OmegaConf.to_container(cfg.method, resolve=True)
    try:
        method: TuningMethod = instantiate(identity.arguments(plain), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    return method


def _begin(cfg: DictConfig, config: RunConfig, overrides: list[str]) -> Record:
    """The record of a run that has just begun: what was asked for, and where."""
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return Record(
        **identity.description(plain),
        overrides=overrides,
        threads=torch.get_num_threads(),
        device=provenance.device(config.trainer),
        precision=provenance.precision(config.trainer),
        started=provenance.now(),
        **provenance.facts(),
    )


def _identify(record: Record, parts: Parts) -> None:
    """Fill in what the data and the weights turned out to be."""
    splits, base = parts.splits, parts.module.backbone
    record.data_source, record.model_revision = splits.source, base.revision
    record.fingerprint = base.fingerprint
    record.train_hash = splits.train.digest()
    record.validation_hash = splits.validation.digest()
    record.test_hash = splits.test["test"].digest()
    record.train_rows, record.validation_rows = len(splits.train), len(splits.validation)
    record.test_rows, record.test_overlap = len(splits.test["test"]), splits.overlap


def _tracker(cfg: DictConfig, record: Record, directory: Path) -> Guarded | None:
    if not cfg.get("logger"):
        return None
    require(
        str(cfg.logger.get("_target_")).startswith("finegrid.tracking."),
        f"logger._target_={cfg.logger.get('_target_')!r} must be in finegrid.tracking",
    )
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    sweep = Path(str(HydraConfig.get().sweep.dir)).name
    alone = HydraConfig.get().mode != RunMode.MULTIRUN
    info = RunInfo(directory, "runs" if alone else sweep, str(record.cell), record, config)
    tracker: Guarded = instantiate(cfg.logger, run=info, _convert_="object", _recursive_=False)
    return tracker


def _fit_and_score(
    parts: Parts,
    *,
    record: Record,
    directory: Path,
    tracker: Guarded | None,
    started: float,
    bar: bool,
) -> bool:
    """False if training ran out of memory; on return nothing holds on to that memory but parts."""
    config = parts.config
    record.micro_batch_size = parts.module.micro_batch_size or config.data.batch_size
    clock = Clock(config.budget, config.optim, rows=len(parts.splits.train))
    meter = Meter(parts.encoded["train"], config.data.batch_size)
    selection = Selection(
        clock,
        parts.encoded["validation"],
        evaluations=config.evaluations,
        batch_size=config.data.eval_batch_size,
        curve=directory / "curve.csv",
    )
    # The clock counts a step before the method acts on it and the selection looks at the outcome.
    callbacks = [meter, clock, parts.method, selection, *([BudgetBar(clock, selection)] * bar)]
    trainer = _trainer(config, callbacks, tracker, directory)
    loader = train_loader(
        parts.encoded["train"],
        batch_size=config.data.batch_size,
        seed=stream(config.seed, "order"),
    )
    try:
        trainer.fit(parts.module, loader)
    except torch.OutOfMemoryError as error:
        log.info("%s", error)
        selection.curve.unlink(missing_ok=True)
        return False
    _cost(record, clock, meter, setup=clock.started - started)
    began = time.perf_counter()
    _score(parts, record, selection, directory)
    record.eval_seconds = selection.seconds + time.perf_counter() - began
    record.peak_memory_bytes = peak_memory()
    return True


def _start_over(cfg: DictConfig, config: RunConfig, fit_and_score: Callable[[Parts], bool]) -> None:
    """Run once more from the start, half of a batch's rows at a time.

    Raises:
        UserError: if that is out of memory too.
    """
    whole = config.data.batch_size
    half = (whole + 1) // 2
    log.warning("out of memory with %d rows in a pass; starting over with %d", whole, half)
    gc.collect()  # Lightning's parts refer to one another
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    parts = prepare(cfg, config)
    parts.module.micro_batch_size = half
    require(
        fit_and_score(parts),
        f"out of memory with {whole} rows in a pass, and again with {half}; set a smaller "
        "data.batch_size or data.eval_batch_size, a shorter model.max_length, or choose a smaller "
        "model or another method",
    )


def _trainer(
    config: RunConfig, callbacks: list[pl.Callback], tracker: Guarded | None, directory: Path
) -> pl.Trainer:
    """One device; the clock ends the run, and the delta file replaces Lightning's checkpoints."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return pl.Trainer(
        accelerator=provenance.accelerator(config.trainer),
        devices=1,
        precision=provenance.precision(config.trainer),  # type: ignore[arg-type]
        max_epochs=-1,
        callbacks=callbacks,
        logger=tracker or False,
        gradient_clip_val=config.optim.clip or None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )


def _cost(record: Record, clock: Clock, meter: Meter, *, setup: float) -> None:
    record.steps, record.epochs = clock.steps, clock.epochs
    record.setup_seconds, record.train_seconds = setup, clock.seconds
    record.examples_per_second = clock.examples / clock.seconds
    record.tokens_per_second = clock.tokens / clock.seconds
    record.train_flops = meter.flops_per_token * clock.tokens
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
        record.degenerate = metrics.degenerate(task, logits["test"])
        write_predictions(directory, task, parts.splits.test, logits)
    record.delta_bytes = delta.save(
        directory / delta.FILE,
        parts.module.model,
        method=record.method,
        fingerprint=str(record.fingerprint),
        labels=task.labels,
        dtype=dtype,
    )
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
            precision=provenance.precision(parts.config.trainer),
        )
        for name in parts.splits.test
        if parts.config.trial is None
    }


def _scores(parts: Parts, logits: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    return {
        name: metrics.score(parts.task, values, parts.encoded[name].labels)
        for name, values in logits.items()
    }


def _named_rows(splits: Splits) -> dict[str, Rows]:
    return {"train": splits.train, "validation": splits.validation, **splits.test}
