"""Read CSV, TSV, JSON and parquet as Arrow tables, and a column as text.

What is delimited is text, every field as written; JSON and parquet keep their types. A column
that mixes types, or holds lists or objects, is of Arrow's type for JSON. Rows count from 1, the
header and blank lines left out.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from finegrid.data import conll
from finegrid.errors import UserError, require, shown

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON = (".json", ".jsonl", ".ndjson")
ENDINGS = (*DELIMITERS, *JSON, ".parquet", *conll.ENDINGS)
MARK = b"\xef\xbb\xbf"  # which Excel puts before UTF-8
# What tells a TSV whose fields are quoted: its first line, or a doubled quote in a quoted field.
QUOTED = re.compile(r'\A"|(?m:^|\t)"[^"\t\r\n]*""')
ENCLOSED = re.compile(r'"[^"]*"')  # a field: a TSV of nothing else below its header is quoted
MIDNIGHT = re.compile(r"(?<=:\d\d)\.0+(?=Z|$)")  # fractions of a second that are none


def read_table(path: Path) -> pa.Table:
    """Read a file of rows whole, by its ending, `.gz` after it or not.

    Raises:
        UserError: if it is missing, of another kind, or not readable without loss, naming the row.
    """
    name = path.name.lower().removesuffix(".gz")
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    require(path.is_file(), f"no such file: {path}")
    if ending is None:
        raise UserError(f"{path}: unknown ending; use one of {', '.join(ENDINGS)}, or one with .gz")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.name.lower().endswith(".gz") else data
        require(bool(data.strip()), f"{path}: the file is empty")
        table = _parsed(path, data, ending)
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable as {ending[1:]}: {line}") from error
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{path}: several columns have one name: {', '.join(map(shown, twice))}")
    return table


def _parsed(path: Path, data: bytes, ending: str) -> pa.Table:
    if ending == ".parquet":
        with pq.ParquetFile(pa.BufferReader(data)) as file:  # `pq.read_table` imports pandas
            return file.read()
    data = data.removeprefix(MARK)
    if ending in DELIMITERS:
        return _delimited(path, data, DELIMITERS[ending])
    if ending in conll.ENDINGS:
        return conll.table(path, _decoded(path, data, json_lines=True))
    return _objects(path, _decoded(path, data, json_lines=True), single=ending == ".json")


def _decoded(path: Path, data: bytes, *, json_lines: bool = False) -> str:
    """The text of UTF-8; anything else is refused with its row."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        row = _row_at(data[: error.start].decode(), json_lines=json_lines)
        byte = f"byte 0x{data[error.start]:02x}"
        raise UserError(f"{path}, {row}: not UTF-8 ({byte}); save the file as UTF-8") from error
    if "\0" in text:
        row = _row_at(text[: text.index("\0")], json_lines=json_lines)
        raise UserError(f"{path}, {row}: not text (byte 0x00); save the file as UTF-8")
    return text


def _row_at(before: str, *, json_lines: bool) -> str:
    """The place that follows some text."""
    lines = io.StringIO(f"{before}x", newline="")
    number = sum(bool(row) for row in (map(str.strip, lines) if json_lines else csv.reader(lines)))
    return _place(number if json_lines else number - 1)


def _place(row: int) -> str:
    return f"row {row}" if row else "header"


def _delimited(path: Path, data: bytes, delimiter: str) -> pa.Table:
    """Every field as text; Arrow reads what leaves no doubt, since it is faster."""
    text = _decoded(path, data)
    csv.field_size_limit(2**31 - 1)
    clear = _well_quoted(data) if delimiter == "," else b'"' not in data
    if clear and (table := _by_arrow(data, delimiter, text)) is not None:
        return table
    rows = _unquoted(text) if delimiter == "\t" else None
    header, *rows = rows or _quoted(path, text, delimiter)
    for number, row in enumerate(rows, start=1):
        _require_fields(path, number, row, len(header))
    columns = zip(*rows, strict=True) if rows else ((),) * len(header)
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.Table.from_arrays(arrays, names=header)


def _kind(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def _require_fields(path: Path, number: int, row: Sequence[str], wanted: int) -> None:
    if len(row) != wanted:
        count = f"{len(row)} field{'s' if len(row) > 1 else ''} where the header has {wanted}"
        raise UserError(f"{path}, row {number}: not readable as {_kind(path)}: {count}")


def _well_quoted(data: bytes) -> bool:
    """Whether the quotes of a CSV, pair by pair, enclose fields of one line each."""
    codes = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(codes == ord('"'))
    if len(quotes) % 2:
        return False
    around = np.pad(codes, 1, constant_values=10)
    edges = np.concatenate([around[quotes[::2]], around[quotes[1::2] + 2]])
    ends = np.flatnonzero((codes == 10) | (codes == 13))
    lines = np.searchsorted(ends, quotes)
    return bool(np.isin(edges, list(b',"\r\n')).all() and (lines[::2] == lines[1::2]).all())


def _by_arrow(data: bytes, delimiter: str, text: str) -> pa.Table | None:
    """None if Arrow finds fault, or names other columns."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = next((row for row in lines if row), [])
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    quote = '"' if delimiter == "," else False
    parse = pa.csv.ParseOptions(delimiter=delimiter, quote_char=quote)
    try:
        table = pa.csv.read_csv(pa.BufferReader(data), parse_options=parse, convert_options=options)
    except pa.ArrowException:
        return None
    return table if table.schema.names == names else None


def _unquoted(text: str) -> list[list[str]] | None:
    """The rows of a TSV in which quotes are text, as in GLUE; None if it is not of this kind."""
    lines = io.StringIO(text, newline=None).read().split("\n")
    rows = [line.split("\t") for line in lines if line]
    alike = {len(row) for row in rows} == {len(rows[0])} != {1}
    enclosed = all(ENCLOSED.fullmatch(field) for row in rows[1:] for field in row)
    return rows if alike and not enclosed and not QUOTED.search(text) else None


def _quoted(path: Path, text: str, delimiter: str) -> list[list[str]]:
    """The rows of a file in which quotes enclose fields; a stray one is refused."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    spans: list[tuple[int, int, int]] = []  # row, first line, line after the last
    start = 0
    try:
        for row in reader:
            if reader.line_num > start + 1:
                spans.append((len(rows), start, reader.line_num))
            start = reader.line_num
            if row:
                rows.append(row)
    except csv.Error as error:
        _stray(path, len(rows), start, reader.line_num, error)
    if spans and len(rows[0]) > 1:
        _require_no_rows_within(path, rows, spans, text, delimiter)
    return rows


def _require_no_rows_within(
    path: Path, rows: list[list[str]], spans: list[tuple[int, int, int]], text: str, delimiter: str
) -> None:
    """Refuse a quoted field of many lines that is in truth many rows.

    Each line would be a row by its number of fields, and in some column would say what other rows
    say there, or a whole number where all of them do.
    """
    lines = io.StringIO(text, newline=None).read().split("\n")
    within = {span: [line.split(delimiter) for line in lines[span[1] : span[2]]] for span in spans}
    wide = [span for span, parts in within.items() if {len(rows[0])} == set(map(len, parts))]
    if not wide:
        return
    several = {number for number, _, _ in spans}
    others = [row for n, row in enumerate(rows[1:], start=1) if n not in several]
    known = [(set(x), all(map(str.isdecimal, x))) for x in zip(*others, strict=False)]
    for span in wide:
        for column, (values, numbers) in zip(zip(*within[span], strict=True), known, strict=False):
            if values.issuperset(column) or (numbers and all(map(str.isdecimal, column))):
                _stray(path, *span, None)


def _stray(path: Path, row: int, first: int, after: int, error: Exception | None) -> None:
    swallowed = f" takes in {after - first - 1} more lines" if after > first + 1 else " is stray"
    raise UserError(
        f"{path}, {_place(row)}: not readable as {_kind(path)}: a quote in line {first + 1}"
        f"{swallowed}; remove it, or enclose the field in quotes and double those within"
    ) from error


class _Repeated(dict[str, Any]):
    """An object that names a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else _Repeated(values)


def _objects(path: Path, text: str, *, single: bool) -> pa.Table:
    """The rows of JSON lines, or of one array of objects."""
    rows = list(_values(path, text, single=single))
    for number, row in enumerate(rows, start=1):
        require(isinstance(row, dict), f"{path}, row {number}: not an object ({shown(row)})")
        require(not isinstance(row, _Repeated), f"{path}, row {number}: a key occurs twice")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _array(path, name, [row.get(name) for row in rows]) for name in names})


def _values(path: Path, text: str, *, single: bool) -> Iterator[Any]:
    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    if text.lstrip().startswith("["):
        try:
            yield from decode(text)
            return
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not readable as json: {_first(error)}") from error
    if single and _is_object(text, decode):
        raise UserError(
            f"{path}: holds a single object; rows are an array of objects, or one a line in .jsonl"
        )
    lines = (line for line in io.StringIO(text, newline=None) if line.strip())
    for number, line in enumerate(lines, start=1):
        try:
            yield decode(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, row {number}: not readable as json: {_first(error)}"
            ) from error


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def _is_object(text: str, decode: Any) -> bool:
    try:
        return isinstance(decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _array(path: Path, name: str, values: Sequence[Any]) -> pa.Array:
    """A column of text, numbers or yes and no; else of JSON."""
    kinds = set(map(type, values)) - {type(None)}
    try:
        if not kinds or any(kinds <= alike for alike in ({str}, {bool}, {int, float})):
            return pa.array(values)
    except (pa.ArrowException, OverflowError):
        pass  # too large a number
    except UnicodeEncodeError as error:
        row = 1 + next(n for n, value in enumerate(values) if _lone_surrogate(value))
        raise UserError(
            f"{path}, row {row}: column {name!r} holds half a character ({_first(error)[-60:]})"
        ) from error
    texts = [None if value is None else json.dumps(value) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _lone_surrogate(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def column(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    """A column by its name, spaces around it left aside where that is unambiguous.

    Raises:
        UserError: if there is none.
    """
    names = [name] if name in table.column_names else []
    names = names or [other for other in table.column_names if other.strip() == name.strip()]
    if len(names) != 1:
        there = ", ".join(map(shown, table.column_names))
        signs = [sign for sign in ";|\t" if sign in there] if len(table.column_names) == 1 else []
        require(
            not signs,
            f"{where}: no column {name!r}, but one {there}; write commas in place of {signs}",
        )
        raise UserError(
            f"{where}: no column {name!r}; it has {there}; name it so there, or train with "
            "task.text=..., task.label=... (of a choice also task.choices=...)"
        )
    return table.column(names[0])


def texts(values: pa.ChunkedArray, where: str, name: str) -> list[str | None]:
    """A column's values as text; None where there is none, or a number that is none.

    Typed values read as one would write them: 1, true, 0.5, 2020-01-31. A float that is a whole
    number has no point.

    Raises:
        UserError: for lists, objects and bytes that are not UTF-8, naming the row.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_nested(kind) or isinstance(kind, pa.JsonType):
        plain: Iterable[Any] = values.to_pylist()
        if isinstance(kind, pa.JsonType):
            plain = (None if value is None else json.loads(value) for value in plain)
        return [_scalar(value, f"{where}, row {row}", name) for row, value in enumerate(plain, 1)]
    try:
        plain_text: list[str | None] = values.cast(pa.string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        for row, value in enumerate(values, start=1):
            _require_utf8(value, f"{where}, row {row}", name)
        raise UserError(f"{where}: column {name!r} of type {kind} is not text") from error
    if pa.types.is_floating(kind):
        return [None if value == "nan" else value for value in plain_text]
    if pa.types.is_temporal(kind):
        return [value and MIDNIGHT.sub("", value) for value in plain_text]
    return plain_text


def _scalar(value: Any, where: str, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        raise UserError(
            f"{where}: column {name!r} holds a list or an object ({shown(json_text(value))}); "
            "one value a row is needed"
        )
    if isinstance(value, float):
        return None if value != value else f"{value:.17g}" if value.is_integer() else repr(value)
    return json.dumps(value)


def _require_utf8(value: pa.Scalar, where: str, name: str) -> None:
    try:
        value.cast(pa.binary()).as_py().decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{where}: column {name!r} is not UTF-8 ({byte})") from error
    except (pa.ArrowException, AttributeError):
        pass  # null, or of no text at all


def json_text(value: Any) -> str:
    """A nested value as JSON; what JSON has no word for is text in it."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat(" ") if isinstance(value, datetime) else str(value)
