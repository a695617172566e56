"""Restore a finished run (backbone and delta) and predict the rows of a file with it."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch
from torch import Tensor

from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples, attributes_of, column_texts
from finegrid.data.files import json_text, read_table, texts
from finegrid.data.tokenization import encode
from finegrid.errors import UserError, require
from finegrid.methods.base import TuningMethod
from finegrid.methods.modules.switch import switches, turn
from finegrid.models import backbone, heads
from finegrid.models.backbone import Backbone
from finegrid.runs import delta, saved_config
from finegrid.runs.record import Record, read
from finegrid.seeds import stream
from finegrid.storage.files import FORMULA, whole
from finegrid.tasks.task import NUMBER, Task
from finegrid.training.components import build_method, load_backbone, tokenizer_fingerprint
from finegrid.training.limits import Limits
from finegrid.training.module import predict

FORMULA_START = f"^({FORMULA})"


@dataclass(frozen=True)
class Restored:
    """A run's model with its delta, ready to predict."""

    config: RunConfig
    record: Record
    task: Task
    model: torch.nn.Module
    tokenizer: Any
    method: TuningMethod | None = None

    @property
    def auto_class(self) -> str:
        """The class of transformers that its model is of."""
        head = heads.of(self.config.head)
        return head.auto_class(self.task, backbone.is_decoder(self.config.model))

    def outputs(
        self, texts: tuple[Sequence[Any], ...], attributes: Sequence[str | None] = ()
    ) -> Any:
        """What the task keeps of each row of texts, one list a column; see `Task.infer`.

        `attributes` are the rows' of a task that has one.
        """
        model, task = self.config.model, self.task
        unknown = task.unknown_labels(texts)
        numbers = list(range(len(texts[0])))
        rows = Examples(tuple(map(list, texts)), unknown, numbers, list(attributes))
        decoder = backbone.is_decoder(model)
        tokens = encode(
            texts,
            self.tokenizer,
            model.max_length,
            task=heads.of(self.config.head).reader(task),
            labels=unknown,
            decoder=decoder,
        )
        limits = Limits.of(self.model, model.name)
        encoded = TokenizedDataset(
            rows,
            limits.fit({"rows": tokens})["rows"],
            collate=task.collate,
            tokenizer=lambda: self.tokenizer,
        )
        if self.method is not None:
            self.method.add_inputs(encoded)
        size = self.config.data.eval_batch_size
        precision = str(self.record.precision)
        outputs = predict(self.model, encoded, batch_size=size, precision=precision, task=task)
        require_finite(outputs)
        return outputs

    def switch_off(self) -> None:
        """Predict without what the method can switch off from now on.

        Raises:
            UserError: if that is nothing.
        """
        require(
            bool(switches(self.model)),
            f"method={self.record.method} has nothing to switch off; debias_diff does",
        )
        turn(self.model, on=False)

    def logits(self, texts: tuple[Sequence[Any], ...]) -> Tensor:
        """fp32 logits (N, outputs) for texts, one list a column, of a kind that keeps these."""
        logits: Tensor = self.outputs(texts)
        return logits


def restore(
    directory: Path,
    *,
    model_path: str | None = None,
    allow: Collection[str] = (),
    build: Callable[..., Backbone] = backbone.build,
) -> Restored:
    """Load a finished run; `model_path` says where its backbone lies now.

    `allow` names packages besides finegrid from which its method and its kind of task may come.
    `build` makes the frozen backbone as `backbone.build` does; others may share its memory.

    Raises:
        UserError: if the run is unfinished or unreadable, or its delta does not belong to the
            backbone or the method.
    """
    record, config, task = _opened(directory, allow)
    if model_path is not None:
        config = replace(config, model=replace(config.model, path=model_path))
    require(
        record.tokenizer in (None, tokenizer_fingerprint(config.model)),
        f"{directory} was trained with another tokenizer than lies in "
        f"{backbone.locate(config.model)} now; put back the one it was trained with",
    )
    method = build_method(config.method)
    method.read_task(task)
    base, _ = load_backbone(config, task, build=build)
    method.tune(base, seed=stream(config.seed, "init"))  # some methods draw what trains
    base.own()
    delta.load(
        directory / delta.FILE,
        base.model,
        method=config.method.name,
        fingerprint=base.fingerprint,
        recall=partial(method.recall, base.model.base_model),
    )
    reader = backbone.tokenizer(config.model)
    return Restored(config, record, task, base.model, reader, method)


def predict_file(
    directory: Path,
    source: Path,
    target: Path,
    *,
    model_path: str | None = None,
    allow: Collection[str] = (),
    raw: bool = False,
    off: bool = False,
) -> int:
    """Write a file's rows with a prediction and scores beside them, as CSV; returns their number.

    A class is written by its name, with one logit a class beside it, a value as a number; nested
    values are written as JSON. Text that a spreadsheet would run as a formula gets an apostrophe
    before it, unless it is a number or `raw` asks for what the file holds. `off` predicts without
    what the run's method can switch off.

    Raises:
        UserError: for an unusable run, input or output, before the model is loaded; after it, if
            there is nothing to switch off, or the method reads an attribute that the file lacks.
    """
    *_, task = _opened(directory, allow)
    _require_writable(target, source)
    table = read_table(source)
    require(len(table) > 0, f"{source}: no rows")
    columns = tuple(column_texts(table, task, name, str(source)) for name in task.text_columns)
    for name in ("prediction", *(f"score_{label}" for label in task.scored)):
        require(name not in table.column_names, f"{source} already has a column {name!r}")
    names = table.column_names
    told = task.attribute in names  # most methods predict without it
    attributes = attributes_of(table, task, str(source)) if told else []
    table = pa.table({x: _writable(table.column(x), str(source), x) for x in names})
    run = restore(directory, model_path=model_path, allow=allow)
    if off:
        run.switch_off()
    for name, values in _added(run.task, run.outputs(columns, attributes)).items():
        table = table.append_column(name, pa.array(values))
    with whole(target) as draft:
        pa.csv.write_csv(table if raw else _without_formulas(table), draft)
    return len(table)


def _added(task: Task, outputs: Any) -> dict[str, list[Any]]:
    written = task.written(task.predictions(outputs))
    columns = {"prediction": [json_text(x) if isinstance(x, list) else x for x in written]}
    return columns | {f"score_{x}": outputs[:, n].tolist() for n, x in enumerate(task.scored)}


def _require_writable(target: Path, source: Path) -> None:
    """Refuse a file that cannot be written, or is the input, before there is something to lose."""
    require(not target.is_dir(), f"{target} is a directory; name a file")
    same = target.exists() and source.exists() and target.samefile(source)
    require(not same, f"{target} is the input; name another file")
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"{target} cannot be written: it is read-only")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error


def _writable(values: pa.ChunkedArray, where: str, name: str) -> pa.ChunkedArray:
    """A column as CSV can hold it: text, numbers, yes and no as they are, the rest as text."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return values
    if not pa.types.is_nested(kind) and not isinstance(kind, pa.JsonType):
        return pa.chunked_array([pa.array(texts(values, where, name), pa.string())])
    plain = values.to_pylist()
    if isinstance(kind, pa.JsonType):
        plain = [None if value is None else json.loads(value) for value in plain]
    cells = [v if v is None or isinstance(v, str) else json_text(v) for v in plain]
    return pa.chunked_array([pa.array(cells, pa.string())])


def _without_formulas(table: pa.Table) -> pa.Table:
    """The same table, but text and names that begin like a formula have an apostrophe before."""
    columns = []
    for values in table.columns:
        if pa.types.is_string(values.type):
            quoted = pc.replace_substring_regex(values, FORMULA_START, r"'\1")
            number = pc.match_substring_regex(values, f"^{NUMBER.pattern}$")
            values = pc.if_else(number, values, quoted)
        columns.append(values)
    names = [re.sub(FORMULA_START, r"'\1", name) for name in table.column_names]
    return pa.table(columns, names=names)


def _opened(directory: Path, allow: Collection[str]) -> tuple[Record, RunConfig, Task]:
    """A finished run's record, its config, and its task with the run's class names."""
    record = read(directory)
    require(record.status == "ok", f"{directory}: the run's status is {record.status}, not ok")
    require(
        record.stored,
        f"{directory}: the run kept no delta (store=none), so its model cannot be loaded; run it "
        "again with store=float32 retry=all",
    )
    config = saved_config.of_run(directory, record, allow=allow)
    about = delta.metadata(directory / delta.FILE)
    task = config.task.named(about["labels"])
    if record.delta_digest is not None:
        delta.verify(directory / delta.FILE, record.delta_digest)
    task = replace(task, attribute_values=about.get(delta.VALUES) or [])
    return record, config, task.of_record(vars(record))


def require_finite(outputs: Any) -> None:
    """Raise `UserError` unless every logit is a finite number."""
    if isinstance(outputs, Tensor):
        finite = outputs.isfinite().flatten(1).all(1).tolist()
    else:
        finite = [not isinstance(x, Tensor) or bool(x.isfinite().all()) for x in outputs]
    bad = [row for row, fine in enumerate(finite, start=1) if not fine]
    require(
        not bad,
        f"the run's model gives no finite logits for {len(bad)} of {len(finite)} rows (row "
        f"{bad[0] if bad else 0} first): its weights are damaged, or too large for its "
        "precision; train it again",
    )
