"""One training run: prepare, train, score and record; half the rows a pass when memory ran out."""

import gc
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from finegrid.config import RunConfig
from finegrid.errors import require
from finegrid.runs.record import Record
from finegrid.tracking.loggers import Guarded
from finegrid.training import device
from finegrid.training.components import Parts
from finegrid.training.progress import BudgetBar
from finegrid.training.session import Attempt, Request

log = logging.getLogger(__name__)


Extend = Callable[[Parts], list[pl.Callback]]  # a run's parts -> further callbacks


def run_alone(request: Request, *, extend: Extend) -> Record:
    """Train and score one cell; it leaves a record whatever happens.

    Unless, by then, another process has taken the cell over. `extend` gives the callbacks of other
    ways to execute the run; they come after its own.

    Raises:
        UserError: for what the user can mend, `Diverged` for a non-finite loss; the record then
            says `failed` or `diverged` and why.
    """
    attempt = Attempt(request)
    try:
        _train_and_score(attempt, extend)
    except BaseException as error:
        attempt.end(error)
        raise
    attempt.end(None)
    return attempt.record


def _train_and_score(attempt: Attempt, extend: Extend) -> None:
    parts = attempt.prepare()
    if not _fit(attempt, parts, extend):
        whole = attempt.config.data.batch_size
        half = (whole + 1) // 2
        log.warning("out of memory with %d rows in a pass; starting over with %d", whole, half)
        del parts  # what it holds must go before the second try takes memory
        gc.collect()  # Lightning's parts refer to one another
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        parts = attempt.prepare()
        parts.module.state.micro_batch_size = half
        require(
            _fit(attempt, parts, extend),
            f"out of memory with {whole} rows in a pass, and again with {half}; set a smaller "
            "data.batch_size or data.eval_batch_size, a shorter model.max_length, or choose a "
            "smaller model or another method",
        )


def _fit(attempt: Attempt, parts: Parts, extend: Extend) -> bool:
    """False if training ran out of memory; on return nothing holds on to that memory but parts."""
    watch = attempt.watch(parts)
    callbacks = [*watch.callbacks(parts), *extend(parts)]
    if attempt.request.sweep is None:
        callbacks.append(BudgetBar(watch.clock, watch.selection))
    trainer = trainer_of(attempt.config, callbacks, attempt.tracker, attempt.directory)
    try:
        trainer.fit(parts.module, attempt.loader(parts))
    except torch.OutOfMemoryError as error:
        log.info("%s", error)
        watch.selection.curve.unlink(missing_ok=True)
        return False
    attempt.score(parts, watch)
    return True


def trainer_of(
    config: RunConfig, callbacks: Sequence[pl.Callback], tracker: Guarded | None, directory: Path
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
        logger=tracker or False,
        gradient_clip_val=config.optim.clip or None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )
