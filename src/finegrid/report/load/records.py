"""Records as rows of a table, read from run directories or checked as a report stored them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from math import nan
from typing import Any

import pandas as pd

from finegrid.errors import UserError, printable
from finegrid.runs import layout
from finegrid.runs.record import CHECKS, REQUIRED, WANTED, Record, read_fields

NESTED = (
    "overrides",
    "metrics",
    "truncated",
    "chosen",
    "chosen_by",
    "versions",
)  # the fields of a record that are no scalars
DEFAULTS = {
    item.name: None if item.default is MISSING else item.default
    for item in fields(Record)
    if item.name not in NESTED
}
TYPES = {item.name: str(item.type) for item in fields(Record) if item.name in DEFAULTS}
FLAGS = [name for name, kind in TYPES.items() if "bool" in kind]
TEXT = [name for name, kind in TYPES.items() if "str" in kind] + [
    "directory", "overrides", "version",
]  # fmt: skip
NUMBERS = [name for name in TYPES if name not in (*TEXT, *FLAGS)]
COLUMNS = [*TYPES, "directory", "overrides", "version"]  # and `<split>/<metric>` of each score


def row(directory: str) -> dict[str, Any]:
    """A run's record without nesting; where it is unreadable why, and what its path tells."""
    try:
        values = read_fields(directory)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        values = dict.fromkeys(DEFAULTS) | {"status": "unreadable", "error": why}
        path = layout.parse(directory)
        return values | {"directory": directory, "overrides": ""} | (vars(path) if path else {})
    flat = {name: values.get(name, default) for name, default in DEFAULTS.items()}
    flat["directory"], flat["overrides"] = directory, shlex.join(values["overrides"])
    flat["version"] = (values.get("versions") or {}).get("finegrid")
    last = str(values.get("error") or "").strip().rpartition("\n")[2]  # of a traceback
    flat["error"] = printable(last) or None
    for split, scores in (values.get("metrics") or {}).items():
        flat |= {f"{split}/{name}": score for name, score in scores.items()}
    return flat


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a table: a record's columns, then the scores by name; numbers are floats."""
    table = pd.DataFrame(rows)
    scores = sorted({str(name) for name in table} - set(COLUMNS))
    table = table.reindex(columns=[*COLUMNS, *scores])
    repeated = {name for name in TEXT if 2 * table[name].nunique() <= len(table)}
    kinds = {name: "category" if name in repeated else "str" for name in TEXT}
    return table.astype(
        kinds | dict.fromkeys([*NUMBERS, *scores], "float") | dict.fromkeys(FLAGS, "object")
    )


def checked(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """A stored table's runs as `frame` has them; what no record could say makes one unreadable.

    Raises:
        UserError: if a column is of another kind than its field.
    """
    runs = runs.reset_index(drop=True)
    for name in COLUMNS:
        if name not in runs:
            runs[name] = pd.Series([DEFAULTS.get(name)] * len(runs), dtype=object)
        kind = bool if name in FLAGS else str if name in TEXT else int | float
        for value in _distinct(runs[name]):
            if not isinstance(value, kind):
                wanted = getattr(kind, "__name__", "numbers")
                raise UserError(f"{where}: column {name} holds {value!r:.40}, not {wanted}")
    runs = runs.astype(dict.fromkeys(NUMBERS, "float") | {"status": object, "error": object})
    why = pd.Series("", index=runs.index)
    for name in TYPES:
        bad = [value for value in _distinct(runs[name]) if not CHECKS[name](_plain(name, value))]
        wrong = runs[name].isin(bad)
        absent = runs[name].isna() & (name in (*REQUIRED, "status"))
        why[(wrong | absent) & why.eq("")] = f"{name} is not {WANTED[name]}"
        if bad:
            runs[name] = runs[name].where(~wrong)
    bad_rows = why.ne("") & runs["status"].ne("unreadable")
    runs.loc[bad_rows, "status"], runs.loc[bad_rows, "error"] = "unreadable", why[bad_rows]
    runs.loc[bad_rows, ["test", "validation"]] = nan
    return runs


def _distinct(column: pd.Series) -> list[Any]:
    values = column.dropna().astype(object)
    try:
        return list(values.unique())
    except TypeError:  # lists and tables
        return list(values)


def _plain(name: str, value: Any) -> Any:
    """A value of a column, which holds whole numbers as floats, as a record's field."""
    integral = name in NUMBERS and "int" in TYPES[name] and float(value).is_integer()
    return int(value) if integral else value
