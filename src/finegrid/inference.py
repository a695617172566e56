"""Use a finished run: backbone + delta -> predictions on a user's file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from finegrid import backbone, delta, identity, metrics, stored
from finegrid.backbone import Backbone
from finegrid.config import RunConfig, bind, require
from finegrid.data import Encoded, Rows, column_texts
from finegrid.errors import UserError
from finegrid.module import predict
from finegrid.parts import build_method
from finegrid.record import Record, read
from finegrid.seeds import stream
from finegrid.sources import read_table
from finegrid.tasks import Task
from finegrid.tokens import encode


@dataclass(frozen=True)
class Restored:
    """A run's model with its delta, ready to predict."""

    config: RunConfig
    record: Record
    task: Task
    model: torch.nn.Module
    tokenizer: Any

    def logits(self, texts: tuple[list[str], ...]) -> Tensor:
        """fp32 logits (N, outputs) for texts, one list a column."""
        unknown = np.zeros(len(texts[0]), dtype=np.int64)
        rows = Rows(texts, unknown, list(range(len(unknown))))
        tokens = encode(texts, self.tokenizer, self.config.model.max_length)
        encoded = Encoded(rows, tokens)
        size = self.config.data.eval_batch_size
        precision = str(self.record.precision)
        logits = predict(self.model, encoded, batch_size=size, precision=precision)
        require_finite(logits)
        return logits


def restore(
    directory: Path,
    *,
    model_path: str | None = None,
    build: Callable[..., Backbone] = backbone.build,
) -> Restored:
    """Load a finished run; `model_path` says where its backbone lies now.

    `build` makes the frozen backbone as `backbone.build` does; others may share its memory.

    Raises:
        UserError: if the run is unfinished or unreadable, or its delta does not belong to the
            backbone or the method.
    """
    record = read(directory)
    require(record.status == "ok", f"{directory}: the run's status is {record.status}, not ok")
    cfg = stored.config(directory)
    config = _settings(directory, record, cfg)
    if model_path is not None:
        cfg.model.path = config.model.path = model_path
    labels = delta.metadata(directory / delta.FILE)["labels"]
    if record.delta_digest is not None:
        delta.verify(directory / delta.FILE, record.delta_digest)
    task = replace(bind(Task, cfg.task, "task"), labels=labels)
    method = build_method(cfg)
    seed = stream(config.seed, "init")  # some methods draw what trains
    base = build(config.model, outputs=task.outputs, seed=seed)
    method.tune(base, seed=seed)
    base.own()
    delta.load(
        directory / delta.FILE,
        base.model,
        method=str(cfg.method.name),
        fingerprint=base.fingerprint,
    )
    return Restored(config, record, task, base.model, backbone.tokenizer(config.model))


def predict_file(
    directory: Path, source: Path, target: Path, *, model_path: str | None = None
) -> int:
    """Write a file's rows with a prediction and scores beside them, as CSV; returns their number.

    Classification adds the class name and one logit a class, regression the value.
    """
    table = read_table(source)
    restored = restore(directory, model_path=model_path)
    task = restored.task
    logits = restored.logits(tuple(column_texts(table, name, str(source)) for name in task.text))
    predicted = metrics.predictions(task, logits).tolist()
    columns = {"prediction": [task.labels[i] for i in predicted] if task.labels else predicted}
    for number, name in enumerate(task.labels):
        columns[f"score_{name}"] = logits[:, number].tolist()
    for name, values in columns.items():
        require(name not in table.column_names, f"{source} already has a column {name!r}")
        table = table.append_column(name, pa.array(values))
    temporary = target.with_name(f".{target.name}")
    pa.csv.write_csv(table, temporary)
    temporary.replace(target)
    return len(table)


def require_finite(logits: Tensor) -> None:
    """Raise `UserError` unless every logit is a finite number."""
    bad = (~logits.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    require(
        not bad,
        f"the run's model gives no finite logits for {len(bad)} of {len(logits)} rows (row "
        f"{bad[0] + 1 if bad else 0} first): its weights are damaged, or too large for its "
        "precision; train it again",
    )


def _settings(directory: Path, record: Record, cfg: DictConfig) -> RunConfig:
    """A stored config as typed settings, if it is of the record's run."""
    try:
        config = RunConfig.of(cfg)
        bind(Task, cfg.task, "task")
        _same_run(directory, record, cfg)
    except (OmegaConfBaseException, LookupError, TypeError, ValueError, AttributeError) as error:
        why = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{directory / stored.FILE} is not a run's config: {why}") from error
    return config


def _same_run(directory: Path, record: Record, cfg: DictConfig) -> None:
    """Refuse a record that belongs to another config than the one beside it.

    Hydra writes the config as soon as a run starts, so the directory may have been used again.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    facts = identity.facts(plain)
    other = [name for name, value in facts.items() if getattr(record, name) != value]
    if not other and record.config_hash and record.config_hash != identity.config_hash(plain):
        other = ["settings"]
    require(
        not other,
        f"{directory}: its record is of another run than its {stored.FILE} (they differ in "
        f"{', '.join(other)}): the directory was used again or changed; run it again",
    )
