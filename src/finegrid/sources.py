"""Where rows come from: the builtin grammar, local files, or the hub and its cache."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from finegrid import cache, hub, places
from finegrid.config import DataConfig, require
from finegrid.errors import UserError, nearest
from finegrid.tasks import Task

WAYS_OUT = (
    "Ways out: go online; point {variable} at a local copy; "
    "or use task=builtin_paraphrase model=tiny, which need no files"
)


@dataclass(frozen=True)
class Tables:
    """Labelled tables of a task, as they were found."""

    train: pa.Table
    dev: dict[str, pa.Table]  # the headline's first; empty: to be carved from train
    source: str  # where they were found, for messages and the record


def load(task: Task, data: DataConfig) -> tuple[Task, Tables]:
    """Load a task's tables; the task comes back with its label names filled in.

    Raises:
        UserError: if a file is missing or unreadable, naming what was tried.
    """
    if task.path == "builtin":
        tables = _builtin(task)
    elif task.path == "files":
        tables = _files(task)
    else:
        tables = _glue(task, data)
    return _with_labels(task, tables), tables


def read_table(path: Path) -> pa.Table:
    """Read a CSV, JSON-lines or parquet file whole, by its ending."""
    readers = {
        ".csv": partial(_read_delimited, delimiter=","),
        ".tsv": partial(_read_delimited, delimiter="\t"),
        ".jsonl": pa.json.read_json,
        ".json": pa.json.read_json,
        ".parquet": _read_parquet,
    }
    require(path.is_file(), f"no such file: {path}")
    require(path.suffix in readers, f"{path}: unknown ending; use one of {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable as {path.suffix[1:]}: {line}") from error


def _read_parquet(path: Path) -> pa.Table:
    """A whole file; `pq.read_table` would first import pandas."""
    with pq.ParquetFile(path) as file:
        return file.read()


def _read_delimited(path: Path, *, delimiter: str) -> pa.Table:
    options = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    return pa.csv.read_csv(path, parse_options=options)


def _builtin(task: Task) -> Tables:
    """The rows of the builtin grammar; kept, since making them takes a while."""
    from finegrid import builtin

    code = places.digest(places.code(builtin.MODEL_DIR.parent))
    path = cache.place(f"rows/{task.name}-{code}")
    if kept := cache.read(path):
        splits = {name: pa.ipc.open_stream(pa.py_buffer(kept[name])).read_all() for name in kept}
    else:
        rows = builtin.load(task.name)
        splits = {name: pa.Table.from_pylist(part) for name, part in rows.items()}
        cache.keep(path, {name: _streamed(table) for name, table in splits.items()})
    return Tables(splits.pop("train"), splits, f"builtin {task.name}")


def _streamed(table: pa.Table) -> cache.Array:
    """A table as the bytes of Arrow's stream format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def _files(task: Task) -> Tables:
    """The user's own files; the test file may be missing."""
    require(task.train is not None, "task=custom needs task.train=FILE (csv, tsv, jsonl, parquet)")
    train = read_table(Path(str(task.train)))
    dev = {} if task.test is None else {"test": read_table(Path(task.test))}
    return Tables(train, dev, f"file {Path(str(task.train)).name}")


def _glue(task: Task, data: DataConfig) -> Tables:
    """A hub data set: from a local root if one is given and holds it, else the hub or its cache."""
    root = data.source if data.source != "auto" else data.root
    tried = []
    if root:
        folder = Path(root) / task.subset
        if folder.is_dir():
            return _folder(folder, task)
        tried.append(f"the folder {folder}")
        if data.source != "auto":
            raise UserError(f"task {task.name}: no {tried[0]}; data.source names no data there")
    tried.append(f"the hub and its cache for {task.path}")
    hub.settle()
    try:
        from datasets import load_dataset

        found = load_dataset(task.path, task.subset)
    except Exception as error:  # whatever the hub client raises, the way out is the same
        raise UserError(
            f"task {task.name} not found; tried {' and '.join(tried)} "
            f"({type(error).__name__}). {WAYS_OUT.format(variable='FINEGRID_DATA_DIR')}"
        ) from error
    pick = {name: found[name].data.table for name in ("train", *task.dev)}
    return Tables(pick.pop("train"), pick, f"hub {task.path}/{task.subset}")


def _folder(folder: Path, task: Task) -> Tables:
    tables = {name: _shards(folder, name) for name in ("train", *task.dev)}
    return Tables(tables.pop("train"), tables, f"local {task.path}/{task.subset}")


def _shards(folder: Path, name: str) -> pa.Table:
    files = places.shards(folder, name)
    names = [file.name for file in folder.iterdir()]
    require(bool(files), f"{folder}: no file of the split {name!r}; {nearest(name, names)}")
    return pa.concat_tables([read_table(file) for file in files])


def _with_labels(task: Task, tables: Tables) -> Task:
    """Fill in the label names of a custom classification task from its training rows."""
    if task.kind == "regression" or task.labels:
        return task
    if task.label not in tables.train.column_names:
        return replace(task, labels=["?"])  # reading the rows reports the missing column
    values = tables.train.column(task.label).to_pylist()
    return replace(task, labels=_class_names(values, task, tables.source))


def _class_names(values: Sequence[object], task: Task, where: str) -> list[str]:
    for row, value in enumerate(values):
        missing = value is None or value != value or value == ""
        require(not missing, f"{where}, train, row {row + 1}: label is missing")
        fraction = isinstance(value, float) and not value.is_integer()
        require(
            not fraction,
            f"{where}, train, row {row + 1}: label {value!r} is not a class; "
            "use task.kind=regression for graded labels",
        )
    names = sorted({str(int(v)) if isinstance(v, float) else str(v) for v in values})
    require(len(names) > 1, f"{where}: column {task.label!r} holds one class only: {names}")
    require(
        len(names) <= 1000,
        f"{where}: column {task.label!r} holds {len(names)} classes; is it text?",
    )
    return sorted(names, key=lambda name: (len(name), name)) if _all_digits(names) else names


def _all_digits(names: Sequence[str]) -> bool:
    return all(name.isdigit() for name in names)
