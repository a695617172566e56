"""One run from config to record: the only file that knows all the parts."""

import logging
import time
import traceback
import warnings
from dataclasses import dataclass
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

from finegrid import __version__, backbone, delta, metrics, provenance
from finegrid.bar import BudgetBar
from finegrid.budget import Clock
from finegrid.config import RunConfig, bind, require
from finegrid.data import Encoded, Rows, Splits, split, train_loader
from finegrid.errors import Diverged, UserError
from finegrid.meter import Meter, peak_memory
from finegrid.methods.base import TuningMethod
from finegrid.module import FineTuner, predict
from finegrid.predictions import write_predictions
from finegrid.record import SCHEMA, Record, cell_hash
from finegrid.seeds import stream
from finegrid.selection import Selection
from finegrid.sources import load
from finegrid.tasks import Task
from finegrid.tracking import Guarded, RunInfo

log = logging.getLogger(__name__)
# Settings of the machine and of speed alone: they do not make another cell.
VOLATILE = {
    "data": ("source", "root", "eval_batch_size"),
    "model": ("path", "revision", "architecture", "parameters", "head_lr"),
    "task": ("path", "train", "test"),
}
NOT_ARGUMENTS = ("name", "recipe")  # of a method's YAML, for people and for the optimizer
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


def run(cfg: DictConfig) -> Record:
    """Train and score one cell in Hydra's output directory; it leaves a record whatever happens.

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
        _identify(record, parts, cfg)
        tracker = _tracker(cfg, record, directory)
        alone = hydra_config.mode != RunMode.MULTIRUN
        _fit_and_score(parts, record, directory, tracker, started=started, bar=alone)
        record.status = "ok"
    except Exception as error:
        record.status = "diverged" if isinstance(error, Diverged) else "failed"
        record.error = str(error) if isinstance(error, UserError) else traceback.format_exc()
        log.info("%s: %s", record.status, record.error)  # for run.log; the raise tells the user
        raise
    finally:
        if record.status != "running":  # an interrupt leaves no record
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
        method: TuningMethod = instantiate(_arguments(plain, "method"), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    return method


def _arguments(node: dict[str, Any], where: str) -> dict[str, Any]:
    """A method's node without what is no argument of its class; a composition's members alike."""
    target = str(node.get("_target_", ""))
    require(
        target.startswith("finegrid.methods."),
        f"{where}._target_={target!r} must be a class in finegrid.methods",
    )
    arguments = {key: value for key, value in node.items() if key not in NOT_ARGUMENTS}
    if "members" in arguments:
        members = arguments["members"].items()
        arguments["members"] = {k: _arguments(v, f"{where}.members.{k}") for k, v in members}
    return arguments


def _begin(cfg: DictConfig, config: RunConfig, overrides: list[str]) -> Record:
    """The record of a run that has just begun: what was asked for, and where."""
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    return Record(
        method=str(cfg.method.name),
        task=str(cfg.task.name),
        model=config.model.name,
        pretrained=config.model.pretrained,
        fraction=config.data.fraction,
        budget_unit=config.budget.unit,
        budget=config.budget.amount,
        seed=config.seed,
        protocol=config.data.protocol,
        select=config.select,
        overrides=overrides,
        threads=torch.get_num_threads(),
        device=provenance.device(config.trainer),
        precision=provenance.precision(config.trainer),
        started=provenance.now(),
        **provenance.facts(),
    )


def _identify(record: Record, parts: Parts, cfg: DictConfig) -> None:
    """Fill in what the data and the weights turned out to be, and the hash of it all."""
    splits, base = parts.splits, parts.module.backbone
    record.data_source, record.model_revision = splits.source, base.revision
    record.fingerprint = base.fingerprint
    record.train_hash = splits.train.digest()
    record.validation_hash = splits.validation.digest()
    record.test_hash = splits.test["test"].digest()
    record.train_rows, record.validation_rows = len(splits.train), len(splits.validation)
    record.test_rows, record.test_overlap = len(splits.test["test"]), splits.overlap
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    plain["method"] = {"name": record.method} | _arguments(plain["method"], "method")
    for group, keys in VOLATILE.items():
        plain[group] = {key: value for key, value in plain[group].items() if key not in keys}
    record.cell = cell_hash(
        {name: plain[name] for name in ("method", "task", "model", "data", "optim", "budget")}
        | {name: plain[name] for name in ("seed", "select", "evaluations", "store")}
        | {name: getattr(record, name) for name in ("train_hash", "validation_hash", "test_hash")}
        | {"fingerprint": base.fingerprint, "precision": record.precision}
        | {"schema": SCHEMA, "code": __version__}
    )


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
    record: Record,
    directory: Path,
    tracker: Guarded | None,
    *,
    started: float,
    bar: bool,
) -> None:
    config = parts.config
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
    trainer.fit(parts.module, loader)
    _cost(record, clock, meter, setup=clock.started - started)
    began = time.perf_counter()
    _score(parts, record, selection, directory)
    record.eval_seconds = selection.seconds + time.perf_counter() - began
    record.peak_memory_bytes = peak_memory()


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
    record.test_last = _scores(parts, logits)["test"][headline]
    chosen, record.best_step = selection.last, selection.best.step
    if parts.config.select == "best" and selection.best.step != selection.last.step:
        chosen = selection.best
        selection.restore(parts.module)
    if chosen is not selection.last or dtype != torch.float32:
        delta.round_to(parts.module.model, dtype)
        logits = _predict_tests(parts)
    scores = _scores(parts, logits)
    record.metric, record.test = headline, scores["test"][headline]
    record.validation = chosen.scores[headline]
    record.metrics = {"validation": chosen.scores, **scores}
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
    return {
        name: predict(
            parts.module.model,
            parts.encoded[name],
            batch_size=parts.config.data.eval_batch_size,
            precision=provenance.precision(parts.config.trainer),
        )
        for name in parts.splits.test
    }


def _scores(parts: Parts, logits: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    return {
        name: metrics.score(parts.task, values, parts.encoded[name].labels)
        for name, values in logits.items()
    }


def _named_rows(splits: Splits) -> dict[str, Rows]:
    return {"train": splits.train, "validation": splits.validation, **splits.test}
