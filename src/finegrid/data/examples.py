"""Examples: the texts and labels of a table's rows, checked, with the row named in every error."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from finegrid.data.files import column, texts
from finegrid.data.nested import class_names, values
from finegrid.errors import UserError
from finegrid.tasks.task import Task


@dataclass(frozen=True)
class Examples:
    """Checked rows of one split: texts, one list a column, labels and the source's row ids.

    A text is a string, of some kinds a tuple. Labels are an array of any shape that begins with N,
    or N objects. Attributes are what `task.attribute` says of each row, none without it.
    """

    texts: tuple[list[Any], ...]
    labels: np.ndarray[Any, np.dtype[Any]]
    idx: list[Any]  # numbers or text
    attributes: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.idx)

    def take(self, index: np.ndarray[Any, Any]) -> "Examples":
        """The rows at these positions, in this order."""
        texts = tuple([column[i] for i in index] for column in self.texts)
        attributes = [self.attributes[i] for i in index] if self.attributes else []
        return Examples(texts, self.labels[index], [self.idx[i] for i in index], attributes)

    def labelled(self, index: Sequence[int], labels: np.ndarray[Any, Any]) -> "Examples":
        """The rows at these positions with other labels."""
        return replace(self.take(np.asarray(index, dtype=np.int64)), labels=labels)

    def digest(self) -> str:
        """Hash of what the rows say, in their order."""
        digest = hashlib.sha256()
        for *row, label in zip(*self.texts, self.labels.tolist(), strict=True):
            digest.update(repr((*row, label)).encode())
        return digest.hexdigest()[:16]


def read_rows(table: pa.Table, task: Task, where: str) -> Examples:
    """Check a table's columns, texts and labels and take them out."""
    if len(table) == 0:
        raise UserError(f"{where}: no rows")
    columns = tuple(column_texts(table, task, name, where) for name in task.text_columns)
    attributes = attributes_of(table, task, where)
    rows = Examples(columns, _labels(table, task, where), _ids(table, where), attributes)
    task.check_rows(rows.texts, rows.labels, where)
    units = task.units(rows.texts, rows.labels)
    return rows if units is None else rows.labelled(*units)


def column_texts(table: pa.Table, task: Task, name: str, where: str) -> list[Any]:
    """A text column's values; a missing column or an empty text is a `UserError`."""
    return task.read_text(name, values(table, name, where, nested=task.nested(name)), where)


def attributes_of(table: pa.Table, task: Task, where: str) -> list[str | None]:
    """What the attribute's column says of each row, None for an empty field; [] without one."""
    if task.attribute is None:
        return []
    told = texts(column(table, task.attribute, where), where, task.attribute)
    return [value if value and value.strip() else None for value in told]


def _ids(table: pa.Table, where: str) -> list[Any]:
    """The rows' ids: of the column idx, whole numbers where all are; else their places."""
    if "idx" not in table.column_names:
        return list(range(len(table)))
    ids = [value or "" for value in texts(table.column("idx"), where, "idx")]
    numbers = all(value.isdecimal() and value.isascii() and len(value) < 19 for value in ids)
    return [int(value) for value in ids] if numbers else ids


def _labels(table: pa.Table, task: Task, where: str) -> np.ndarray[Any, np.dtype[Any]]:
    columns = task.label_columns
    typed = not all(pa.types.is_string(column(table, name, where).type) for name in columns)
    return task.read_labels(label_values(table, task, where), where, typed=typed)


def label_values(table: pa.Table, task: Task, where: str) -> list[Any]:
    """What the label column says of each row, or a tuple of what several columns say."""
    names = task.label_columns
    columns = [values(table, name, where, nested=task.nested(name)) for name in names]
    if task.CLASSES_BY_NAME:
        known = (class_names(table, name) for name in names)
        columns = [_named(*pair) for pair in zip(columns, known, strict=True)]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _named(values: list[Any], names: list[str]) -> list[Any]:
    """Class numbers, and lists of them, by their names where these are known."""
    known = {str(number): name for number, name in enumerate(names)}
    return [
        [known.get(str(one), one) for one in value]
        if isinstance(value, list)
        else known.get(str(value), value)
        for value in values
    ]
