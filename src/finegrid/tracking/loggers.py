"""Loggers of live runs, all of them Lightning's. The record is the truth; a logger may fail."""

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from inspect import signature
from typing import Any

from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from finegrid.errors import UserError, one_of, require
from finegrid.runs.record import Record
from finegrid.tracking.run_info import RunInfo, summary

log = logging.getLogger(__name__)


class SafeLogger(Logger):
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


def logger(node: Mapping[str, Any], *, run: RunInfo) -> SafeLogger:
    """The logger that a config names, which is one of `LOGGERS`.

    Raises:
        UserError: if it is none of them, or does not take the node's other values.
    """
    told = dict(node)
    target = str(told.pop("_target_", ""))
    one_of("logger._target_", target, tuple(LOGGERS))
    try:
        signature(LOGGERS[target]).bind(run=run, **told)
    except TypeError as error:
        raise UserError(f"logger: {target}: {error}") from error
    return LOGGERS[target](run=run, **told)


def csv_logger(*, run: RunInfo) -> SafeLogger:
    """Lightning's CSV logger: csv/metrics.csv in the run directory."""
    return SafeLogger(lambda: CSVLogger(run.directory, name="", version="csv"))


def wandb_logger(
    *, run: RunInfo, project: str, entity: str | None, group: str | None
) -> SafeLogger:
    """Weights & Biases: one run a cell, tagged so that a sweep reads as one table."""

    def make() -> Logger:
        told = run.arguments(project=project, entity=entity, group=group)
        logger = WandbLogger(save_dir=run.directory, **told)
        logger.experiment.config.update(run.config, allow_val_change=True)
        return logger

    return SafeLogger(make)


def tensorboard_logger(*, run: RunInfo) -> SafeLogger:
    """TensorBoard: event files in the run directory; `tensorboard --logdir` a sweep shows all."""

    def make() -> Logger:
        logger = TensorBoardLogger(
            run.directory, name="", version="tensorboard", default_hp_metric=False
        )
        logger.log_hyperparams(run.config)
        return logger

    return SafeLogger(make)


def mlflow_logger(*, run: RunInfo, experiment: str, tracking_uri: str | None) -> SafeLogger:
    """MLflow: one run a cell, where `tracking_uri` or MLflow's own settings say."""

    def make() -> Logger:
        import mlflow

        logger = MLFlowLogger(
            experiment,
            run_name=run.name,
            tracking_uri=tracking_uri or mlflow.get_tracking_uri(),
            tags={"group": run.group, "cell": run.cell},
        )
        logger.log_hyperparams(run.config)
        return logger

    return SafeLogger(make)


LOGGERS: dict[str, Callable[..., SafeLogger]] = {
    f"{module}.{made.__name__}": made
    for module in (__name__, __package__)  # the package is what configs of 0.6 name
    for made in (csv_logger, wandb_logger, tensorboard_logger, mlflow_logger)
}
EXTRAS = {"tensorboard_logger": "tensorboard", "mlflow_logger": "mlflow"}  # what they import


def require_installed(node: Mapping[str, Any] | None) -> None:
    """Raise `UserError` if the package behind a config's logger is missing."""
    package = EXTRAS.get(str((node or {}).get("_target_", "")).rpartition(".")[2])
    require(
        package is None or find_spec(package) is not None,
        f"logger={package} needs a package: pip install 'finegrid[loggers]'",
    )


def _finish(logger: Logger | None, record: Record) -> None:
    final = summary(record)
    if isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.summary.update(final)
        wandb.finish(exit_code=0 if record.status == "ok" else 1)
    elif logger is not None:
        numbers = {k: v + 0 for k, v in final.items() if not isinstance(v, str)}  # true is 1
        if isinstance(logger, MLFlowLogger):  # in its stores of files `test` would hide `test/f1`
            folders = {name.partition("/")[0] for name in numbers if "/" in name}
            numbers = {name: value for name, value in numbers.items() if name not in folders}
        logger.log_metrics(numbers, step=record.steps)
        logger.finalize("success" if record.status == "ok" else "failed")
