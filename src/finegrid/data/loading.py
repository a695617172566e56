"""Load a task's tables: from the builtin world, local files, or the hub and its cache."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from finegrid.config import DataConfig
from finegrid.data.examples import label_values
from finegrid.data.files import read_table
from finegrid.data.nested import class_names
from finegrid.errors import UserError, nearest, require
from finegrid.storage import cache, hub, paths
from finegrid.storage.hub import WAYS_OUT
from finegrid.tasks.task import Task


@dataclass(frozen=True)
class RawSplits:
    """Labelled tables of a task, before they are checked and split."""

    train: pa.Table
    dev: dict[str, pa.Table]  # the headline's first; empty: to be carved from train
    source: str  # where they come from, for messages and the record
    files: Mapping[str, str] = field(default_factory=dict)  # split -> its file, if it is one

    def where(self, split: str) -> str:
        """What to call a split in a message."""
        return self.files.get(split, f"{self.source}, {split}")


def load(task: Task, data: DataConfig) -> tuple[Task, RawSplits]:
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


def _builtin(task: Task) -> RawSplits:
    """The rows of the builtin grammar, cached on disk, since making them takes seconds."""
    from finegrid.data import builtin
    from finegrid.data.builtin import builtin_dialect

    code = paths.digest(paths.builtin_code(task.name))
    path = cache.place(f"rows/{task.name}-{code}")
    if stored := cache.read(path):
        splits = {
            name: pa.ipc.open_stream(pa.py_buffer(stored[name])).read_all() for name in stored
        }
    else:
        apart = task.name == builtin_dialect.NAME
        rows = builtin_dialect.load() if apart else builtin.load(task.name)
        splits = {name: pa.Table.from_pylist(part) for name, part in rows.items()}
        cache.keep(path, {name: _streamed(table) for name, table in splits.items()})
    return RawSplits(splits.pop("train"), splits, f"builtin {task.name}")


def _streamed(table: pa.Table) -> cache.Array:
    """A table as the bytes of Arrow's stream format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def _files(task: Task) -> RawSplits:
    """The user's own files; the test file may be missing."""
    require(
        task.train is not None,
        "task=custom needs task.train=FILE (csv, tsv, jsonl, parquet, conll)",
    )
    files = {"train": str(task.train)} | ({} if task.test is None else {"test": task.test})
    tables = {split: read_table(Path(file)) for split, file in files.items()}
    return RawSplits(tables.pop("train"), tables, f"file {Path(files['train']).name}", files)


def _glue(task: Task, data: DataConfig) -> RawSplits:
    """A hub data set: from a local root if one is given and holds it, else the hub or its cache."""
    root = data.source if data.source != "auto" else data.root
    tried = []
    if root:
        folder = paths.rows(root, vars(task))
        if folder.is_dir():
            return _folder(folder, task)
        tried.append(f"the folder {folder}")
        if data.source != "auto":
            raise UserError(f"task {task.name}: {tried[0]}, which data.source names, is not there")
    require(
        task.path != "hub", "task=hub needs task.path=DATASET, such as task.path=fancyzhx/ag_news"
    )
    tried.append(f"the hub and its cache for {task.path}")
    hub.go_offline_if_unreachable()
    pinned = {"revision": task.revision} if task.revision else {}
    try:
        from datasets import load_dataset

        dataset = load_dataset(task.path, task.subset or None, **pinned)
    except Exception as error:  # whatever the hub client raises, the way out is the same
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"task {task.name} not found; tried {' and '.join(tried)} "
            f"({type(error).__name__}: {why}). {WAYS_OUT.format(variable='FINEGRID_DATA_DIR')}"
        ) from error
    tables = {name: dataset[name].data.table for name in dataset}
    commit = hub.data_commit(dataset)
    pinned_commit = hub.COMMIT.fullmatch(task.revision or "")
    require(
        not pinned_commit or commit in (None, task.revision),
        f"task {task.name}: the hub cannot be reached, and its cache holds {task.path} at commit "
        f"{commit}, not at task.revision={task.revision}; go online, or pin the one that is there",
    )
    source = f"hub {task.path}/{task.subset}" + (f"@{commit}" if commit else "")
    return _split(tables, task, source)


def _folder(folder: Path, task: Task) -> RawSplits:
    dev = paths.dev_splits(task.dev)
    if task.dev == [paths.AUTO]:
        dev = tuple(name for name in dev if paths.shards(folder, name))
    tables = {name: _shards(folder, name) for name in ("train", *dev)}
    return _split(tables, task, f"local {task.path}/{task.subset}")


def _split(tables: dict[str, pa.Table], task: Task, source: str) -> RawSplits:
    """A data set's tables as the task names them."""
    dev = paths.dev_splits(task.dev)
    if task.dev == [paths.AUTO]:
        dev = tuple(name for name in dev if name in tables and _labelled(tables[name], task))[:1]
    for name in ("train", *dev):
        require(name in tables, f"{source}: no split {name!r}; it has {', '.join(tables)}")
    return RawSplits(tables["train"], {name: tables[name] for name in dev}, source)


def _labelled(table: pa.Table, task: Task) -> bool:
    """Whether some row has a label; hidden ones are -1, or missing."""
    hidden = {None, -1}
    names = [name for name in task.label_columns if name in table.column_names]
    return all(
        pa.types.is_nested(table.column(name).type)
        or bool(set(table.column(name).unique().to_pylist()) - hidden)
        for name in names
    )


def _shards(folder: Path, name: str) -> pa.Table:
    files = paths.shards(folder, name)
    names = [file.name for file in folder.iterdir()]
    require(bool(files), f"{folder}: no file of the split {name!r}; {nearest(name, names)}")
    try:
        return pa.concat_tables([read_table(file) for file in files])
    except pa.ArrowException as error:
        raise UserError(f"{folder}: the files of the split {name!r} differ: {error}") from error


def _with_labels(task: Task, tables: RawSplits) -> Task:
    """Fill in the class names that only the files or the training rows tell."""
    if not task.lacks_labels:
        return task
    where = tables.where("train")
    require(len(tables.train) > 0, f"{where}: no rows")
    named = task.path != "files" or "label" in task.NESTED
    if named and (names := class_names(tables.train, task.label_columns[0])):
        return task.named(names)
    return task.with_labels_of(label_values(tables.train, task, where), where)
