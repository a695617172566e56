"""Loggers: mirrors of a run for dashboards. The record is the truth; a logger may fail."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from finegrid.record import Record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What a logger may want to say about a run."""

    directory: Path
    sweep: str  # name of the sweep directory, or of the day's single runs
    cell: str
    record: Record
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Readable name of the run."""
        run = self.record
        return f"{run.method}-{run.task}-{run.model}-f{run.fraction:g}-s{run.seed}"


class Guarded(Logger):
    """Passes everything on to a logger; its first failure is a warning and ends the mirroring."""

    def __init__(self, make: Callable[[], Logger]) -> None:
        super().__init__()
        self._inner: Logger | None = None
        self._do("start", lambda: setattr(self, "_inner", make()), needs_inner=False)

    @property
    def name(self) -> str | None:
        """Name of the logger behind."""
        return self._inner.name if self._inner else None

    @property
    def version(self) -> int | str | None:
        """Version of the logger behind."""
        return self._inner.version if self._inner else None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Pass on the config."""
        self._do("log the config", lambda: self._inner.log_hyperparams(params))  # type: ignore[union-attr]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass on scores."""
        self._do("log", lambda: self._inner.log_metrics(metrics, step))  # type: ignore[union-attr]

    def close(self, record: Record) -> None:
        """Log the final scores and costs and finish, with exit code 0 for an `ok` run only."""
        self._do("finish", lambda: _finish(self._inner, record))

    def _do(self, what: str, action: Callable[[], None], *, needs_inner: bool = True) -> None:
        if needs_inner and self._inner is None:
            return
        try:
            action()
        except Exception as error:  # a mirror must never kill or change a run
            log.warning("logger failed to %s, going on without it: %r", what, error)
            self._inner = None


def csv_logger(*, run: RunInfo) -> Guarded:
    """Lightning's CSV logger: csv/metrics.csv in the run directory."""
    return Guarded(lambda: CSVLogger(run.directory, name="", version="csv"))


def wandb_logger(*, run: RunInfo, project: str, entity: str | None, group: str | None) -> Guarded:
    """Weights & Biases: one run a cell, tagged so that a sweep reads as one table."""

    def make() -> Logger:
        record = run.record
        logger = WandbLogger(
            project=project,
            entity=entity,
            name=run.name,
            id=run.cell,
            save_dir=run.directory,
            group=group or f"{run.sweep}/{record.method}-{record.task}",
            job_type="train",
            tags=[record.method, record.task, record.model, f"f{record.fraction:g}"],
            resume="allow",
        )
        logger.experiment.config.update(run.config, allow_val_change=True)
        return logger

    return Guarded(make)


def _finish(logger: Logger | None, record: Record) -> None:
    final = {name: value for name, value in vars(record).items() if _scalar(value)}
    final |= {
        f"{split}/{name}": value
        for split, scores in record.metrics.items()
        for name, value in scores.items()
    }
    if isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.summary.update(final)
        wandb.finish(exit_code=0 if record.status == "ok" else 1)
    elif logger is not None:
        numbers = {name: value for name, value in final.items() if not isinstance(value, str)}
        logger.log_metrics(numbers, step=record.steps)
        logger.finalize("success" if record.status == "ok" else "failed")


def _scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
