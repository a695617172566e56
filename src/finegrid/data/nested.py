"""Columns that may hold lists or objects, and the names of classes that a table brings along."""

import ast
import json
import re
import token
from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from tokenize import TokenError, generate_tokens
from typing import Any

import pyarrow as pa

from finegrid.data.files import column, texts
from finegrid.errors import UserError

JOINED = re.compile(r"""['"]\s+['"]""")  # as numpy writes two texts of a list
UNREADABLE = (ValueError, SyntaxError, TokenError, RecursionError, MemoryError)  # no literal


def values(table: pa.Table, name: str, where: str, *, nested: bool) -> list[Any]:
    """A column's values as text, None where there is none; lists and objects too, if `nested`.

    A text column in which every value is a list in brackets, as JSON or Python writes it, is then
    a column of lists; one in which only some are lists of texts is refused.

    Raises:
        UserError: if there is no such column, or it holds what is not asked for.
    """
    found = column(table, name, where)
    kind = found.type
    if not nested or not (pa.types.is_nested(kind) or isinstance(kind, pa.JsonType)):
        written = texts(found, where, name)
        return _written_lists(written, where, name) if nested else list(written)
    plain: list[Any] = found.to_pylist()
    if isinstance(kind, pa.JsonType):
        plain = [None if value is None else json.loads(value) for value in plain]
    return plain


def _written_lists(values: Sequence[str | None], where: str, name: str) -> list[Any]:
    """Values as they are, or the lists that all of them are written as."""
    bare = [value.strip() for value in values if value is not None]
    if not bare or not all(value.startswith("[") and value.endswith("]") for value in bare):
        _require_no_lists(values, where, name)
        return list(values)
    lists: list[Any] = []
    for row, value in enumerate(values, start=1):
        try:
            lists.append(None if value is None else _literal(value.strip()))
        except UNREADABLE as error:
            raise UserError(
                f"{where}, row {row}: column {name!r} holds no readable list ({value!r:.60}); "
                'write ["a", "b"]'
            ) from error
    return lists


def _literal(value: str) -> Any:
    """What Python or JSON writes so; not numpy's lists, whose texts Python would join."""
    if JOINED.search(value):
        kinds = (one.type for one in generate_tokens(StringIO(value).readline))
        said = [kind for kind in kinds if kind not in (token.NL, token.NEWLINE, token.COMMENT)]
        if (token.STRING, token.STRING) in pairwise(said):
            raise ValueError("no comma between two texts")
    return ast.literal_eval(value)


def _require_no_lists(values: Sequence[str | None], where: str, name: str) -> None:
    """Refuse a text that stands where other rows have a list of texts; JSON objects may."""
    lists = {row for row, value in enumerate(values) if value is not None and _lists_texts(value)}
    for row, value in enumerate(values if lists else (), start=1):
        if value is not None and row - 1 not in lists and value.strip()[:1] != "{":
            raise UserError(
                f"{where}, row {row}: column {name!r} holds {value!r:.60} where row "
                f"{min(lists) + 1} holds a list; write a list in each row"
            )


def _lists_texts(value: str) -> bool:
    """Whether a text is a list of texts, with one at least, as JSON or Python writes it."""
    value = value.strip()
    if not (value.startswith(("['", '["')) and value.endswith("]")):
        return False
    try:
        return all(isinstance(one, str) for one in _literal(value))
    except UNREADABLE:
        return False


def class_names(table: pa.Table, name: str) -> list[str]:
    """The names of a column's classes by number, where the table says them as `datasets` does."""
    try:
        told = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = told["info"]["features"][name]
        names = feature.get("names") or feature["feature"]["names"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return list(map(str, names))
