"""Run directories to rows: every scalar of a record, its metrics, and where it lies."""

from array import array
from dataclasses import MISSING, fields
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from finegrid.errors import UserError, printable
from finegrid.report.load import variants
from finegrid.runs import layout
from finegrid.runs.record import CHECKS, REQUIRED, WANTED, Record, read_fields

NESTED = ("overrides", "metrics", "versions")  # the fields of a record that are no scalars
DEFAULTS = {
    item.name: None if item.default is MISSING else item.default
    for item in fields(Record)
    if item.name not in NESTED
}
TYPES = {item.name: str(item.type) for item in fields(Record) if item.name in DEFAULTS}
TEXT = [name for name, kind in TYPES.items() if "str" in kind]
FLAGS = [name for name, kind in TYPES.items() if "bool" in kind]
NUMBERS = [name for name in TYPES if name not in (*TEXT, *FLAGS)]


class Rows:
    """Columns that grow by a run at a time; strings that repeat are held once."""

    def __init__(self) -> None:
        self.numbers = {name: array("d") for name in NUMBERS}
        self.flags: dict[str, list[bool | None]] = {name: [] for name in FLAGS}
        self.text: dict[str, list[str | None]] = {
            name: [] for name in (*TEXT, "directory", "overrides", "version")
        }
        self.metrics: dict[str, dict[int, float]] = {}  # column -> row -> value
        self._known: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.text["directory"])

    def add(self, directory: str) -> bool:
        """Read a run's record; false if it is a tuning trial's, which is left out."""
        values = _read(directory)
        if values.get("trial") is not None:
            return False
        for name, value in values["metrics"].items():
            self.metrics.setdefault(name, {})[len(self)] = value
        for name, column in self.numbers.items():
            column.append(_number(values.get(name, DEFAULTS[name])))
        for name, flags in self.flags.items():
            flags.append(values.get(name, DEFAULTS[name]))
        for name, texts in self.text.items():
            text = values.get(name, DEFAULTS.get(name))
            texts.append(None if text is None else self._known.setdefault(str(text), str(text)))
        return True

    def frame(self) -> pd.DataFrame:
        """All rows, the columns in the record's order and then the others."""
        columns: dict[str, Any] = {name: np.asarray(v) for name, v in self.numbers.items()}
        columns |= {name: np.array(v, dtype=object) for name, v in self.flags.items()}  # or None
        columns |= {name: _text(v) for name, v in self.text.items()}
        for name, sparse in sorted(self.metrics.items()):
            columns[name] = np.full(len(self), nan)
            columns[name][list(sparse)] = list(sparse.values())
        order = [*TYPES, *(name for name in columns if name not in TYPES)]
        return pd.DataFrame({name: columns[name] for name in order})


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else nan


def _text(values: list[str | None]) -> Any:
    """As a category where values repeat."""
    distinct = len(set(values))
    return pd.array(values, dtype="category" if 2 * distinct <= len(values) else "str")


def _read(directory: str) -> dict[str, Any]:
    """A record's values; where it is not readable what the directory's name tells, and why not."""
    try:
        values = read_fields(directory)
        return values | _flat(directory, values)
    except (OSError, ValueError) as error:
        return _unreadable(directory, getattr(error, "strerror", None) or str(error))


def _flat(directory: str, values: dict[str, Any]) -> dict[str, Any]:
    """What a record nests, as one column each; of a traceback its last line."""
    metrics = values.get("metrics") or {}
    return {
        "directory": directory,
        "overrides": variants.joined(values["overrides"]),
        "version": (values.get("versions") or {}).get("finegrid"),
        "metrics": {f"{k}/{name}": v for k, found in metrics.items() for name, v in found.items()},
        "error": printable(str(values.get("error") or "").strip().rpartition("\n")[2]) or None,
    }


def _unreadable(directory: str, why: str) -> dict[str, Any]:
    known: dict[str, Any] = dict.fromkeys(DEFAULTS) | {"status": "unreadable", "error": why}
    known |= {"directory": directory, "overrides": "", "version": None, "metrics": {}}
    if path := layout.parse(directory):
        known |= vars(path)
    return known


def checked(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """A stored table's runs as `Rows` would have them; what no record could say is unreadable.

    Raises:
        UserError: if a column is of another kind than its field.
    """
    runs = runs.reset_index(drop=True)
    for name in [name for name in (*TYPES, "overrides", "version") if name not in runs]:
        runs[name] = pd.Series([DEFAULTS.get(name)] * len(runs), dtype=object)
    for name in NUMBERS:
        runs[name] = _amounts(runs[name], f"{where}: column {name}")
    for name in (*TEXT, *FLAGS, "overrides", "version"):
        kind = bool if name in FLAGS else str
        wrong = [value for value in _distinct(runs[name]) if not isinstance(value, kind)]
        if wrong:
            raise UserError(f"{where}: column {name} holds {wrong[0]!r:.40}, not {kind.__name__}")
    why = pd.Series([""] * len(runs))
    for name in TYPES:
        bad = [value for value in _distinct(runs[name]) if not CHECKS[name](_plain(name, value))]
        lost = runs[name].isin(bad)
        absent = runs[name].isna() if name in (*REQUIRED, "status") else False
        why[(lost | absent) & why.eq("")] = f"{name} is not {WANTED[name]}"
        if bad:
            runs[name] = runs[name].astype(object).where(~lost, None)
            runs[name] = runs[name].astype(float) if name in NUMBERS else runs[name]
    return _marked(runs, why.where(runs["status"].ne("unreadable"), ""))


def _amounts(column: pd.Series, what: str) -> pd.Series:
    """A column of numbers, some of which may be missing."""
    if not all(isinstance(value, int | float) for value in _distinct(column)):
        raise UserError(f"{what} holds {column.dtype}, not numbers")
    return column.astype(float)


def _distinct(column: pd.Series) -> list[Any]:
    values = column.dropna().astype(object)
    try:
        return list(values.unique())
    except TypeError:  # lists and tables
        return list(values)


def _plain(name: str, value: Any) -> Any:
    """A value of a column, which holds whole numbers as floats, as a record's field."""
    whole = "int" in TYPES[name] and name in NUMBERS and float(value).is_integer()
    return int(value) if whole else value


def _marked(runs: pd.DataFrame, why: pd.Series) -> pd.DataFrame:
    """The same with rows that no record could say unreadable, and what is wrong with them."""
    bad = why.ne("")
    for name in ("status", "error"):
        runs[name] = runs[name].astype(object)
    runs.loc[bad, "status"], runs.loc[bad, "error"] = "unreadable", why[bad]
    runs.loc[bad, ["test", "validation"]] = nan
    return runs
