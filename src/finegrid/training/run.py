"""One run from its spec to its record.

Builds the components, trains, scores and writes record.json, also on failure.
"""

import gc
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from finegrid.config import RunConfig
from finegrid.errors import require
from finegrid.runs.record import Record
from finegrid.runs.spec import RunSpec
from finegrid.tracking.loggers import SafeLogger
from finegrid.training import device
from finegrid.training.components import RunComponents
from finegrid.training.progress import BudgetProgressBar
from finegrid.training.session import RunCallbacks, RunSession

log = logging.getLogger(__name__)


Extend = Callable[[RunComponents], list[pl.Callback]]


def run(spec: RunSpec, *, extend: Extend) -> Record:
    """Train and score one run; it leaves a record whatever happens.

    Unless, by then, another process has taken the run over. `extend` gives the callbacks of other
    ways to execute the run; they come after its own.

    Raises:
        UserError: for what the user can mend, `Diverged` for a non-finite loss; the record then
            says `failed` or `diverged` and why.
    """
    session = RunSession(spec)
    try:
        _train_and_score(session, extend)
    except BaseException as error:
        session.end(error)
        raise
    session.end(None)
    return session.record


def _train_and_score(session: RunSession, extend: Extend) -> None:
    components = session.prepare()
    if not _fit(session, components, extend):
        rows = session.config.data.batch_size
        half = (rows + 1) // 2
        log.warning("out of memory with %d rows in a pass; starting over with %d", rows, half)
        del components  # what it holds must go before the second try takes memory
        gc.collect()  # Lightning's parts refer to one another
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        components = session.prepare()
        components.module.state.micro_batch_size = half
        require(
            _fit(session, components, extend),
            f"out of memory with {rows} rows in a pass, and again with {half}; set a smaller "
            "data.batch_size or data.eval_batch_size, a shorter model.max_length, or choose a "
            "smaller model or another method",
        )


def _fit(session: RunSession, components: RunComponents, extend: Extend) -> bool:
    """False if training ran out of memory; what it took is free then, but for `components`."""
    watch = session.callbacks(components)
    if not len(components.splits.train):
        _score_untrained(session, components, watch)
        return True
    callbacks = [*watch.in_order(components), *extend(components)]
    if session.spec.sweep is None:
        callbacks.append(BudgetProgressBar(watch.clock, watch.selection))
    trainer = trainer_of(session.config, callbacks, session.logger, session.directory)
    try:
        trainer.fit(components.module, session.loader(components))
    except torch.OutOfMemoryError as error:
        log.info("%s", error)
        watch.selection.curve.unlink(missing_ok=True)
        return False
    trainer.optimizers = []  # what they hold is for scoring and for the delta's file
    components.module.zero_grad()
    session.score(components, watch)
    return True


def _score_untrained(session: RunSession, components: RunComponents, watch: RunCallbacks) -> None:
    """Score a model without training rows as it is, with what the method adds to it."""
    module = components.module
    components.method.tune(components.module.backbone, seed=module.init_seed)
    gpu = device.accelerator(session.config.trainer) == "gpu"
    module.to("cuda" if gpu else "cpu")
    watch.meter.count(module)
    watch.selection.validate(module, precision=str(session.record.precision))
    session.score(components, watch, setup=time.perf_counter() - session.started)


def trainer_of(
    config: RunConfig, callbacks: Sequence[pl.Callback], logger: SafeLogger | None, directory: Path
) -> pl.Trainer:
    """One device; the clock ends the run, and the delta file replaces Lightning's checkpoints."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return pl.Trainer(
        accelerator=device.accelerator(config.trainer),
        devices=1,
        precision=device.precision(config.trainer),  # type: ignore[arg-type]
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=logger or False,
        gradient_clip_val=config.optim.clip or None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )
