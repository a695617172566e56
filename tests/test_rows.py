"""Rows and labels are read as what they are, from every kind of file, or refused in one line."""

import codecs
import gzip
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import composed, run_cell

from finegrid import inference
from finegrid.config import RunConfig, bind_task
from finegrid.data.examples import Examples, read_rows
from finegrid.data.files import read_table, texts
from finegrid.data.loading import load
from finegrid.data.splits import Splits, split
from finegrid.errors import UserError
from finegrid.runs import identity
from finegrid.runs.record import Record
from finegrid.tasks.classification import Classification
from finegrid.tasks.task import Task

WORDS = ("good", "bad", "fine", "sad", "new")


def lines(
    labels: list[str], count: int = 60, form: str = "a {word} film on day {n},{label}"
) -> str:
    """Rows of a CSV file, the labels in turn."""
    rows = (
        form.format(word=WORDS[n % 5], n=n, label=labels[n % len(labels)]) for n in range(count)
    )
    return "".join(f"{row}\n" for row in rows)


def saved(path: Path, content: str | bytes | list[Any] | dict[str, Any] | pa.Table) -> Path:
    """A file of this content: text, bytes, rows of JSON, or columns of a parquet file."""
    if isinstance(content, dict):
        content = pa.table(content)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
        return path
    if isinstance(content, list):
        content = "".join(f"{json.dumps(row)}\n" for row in content)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def splits_of(*overrides: str) -> tuple[Task, Splits]:
    """Load and split as a run would."""
    cfg = composed("task=custom", *overrides)
    config = RunConfig.of(cfg)
    task, tables = load(bind_task(cfg.task), config.data)
    return task, split(tables, task, config.data)


def read(path: Path, *overrides: str) -> tuple[Task, Examples]:
    """A training file's rows, as its task sees them."""
    cfg = composed("task=custom", f"task.train={path}", *overrides)
    task, tables = load(bind_task(cfg.task), RunConfig.of(cfg).data)
    return task, read_rows(tables.train, task, tables.where("train"))


HEAD = "text,label\n"
TWO = [{"text": "a b", "label": "x"}, {"text": "c", "label": "y"}]
TEXTS = ["a", "b", "c"]

# file name, content, class names, labels by number (None: any), first text
READ = {
    "leading zeros": ("r.csv", HEAD + lines(["01", "02", "0A"]), ["01", "02", "0A"]),
    "numbers with zeros": ("r.csv", HEAD + lines(["01", "10"]), ["01", "10"]),
    "yes and no": ("r.csv", HEAD + lines(["true", "false"]), ["false", "true"]),
    "True of Python": ("r.csv", HEAD + lines(["True", "False"]), ["False", "True"]),
    "names of nothing": (
        "r.csv",
        HEAD + lines(["NA", "null", "nan", "None", "N/A"]),
        ["N/A", "NA", "None", "nan", "null"],
    ),
    "dates": ("r.csv", HEAD + lines(["2020-01-01", "2021-12-31"]), ["2020-01-01", "2021-12-31"]),
    "whole floats": ("r.csv", HEAD + lines(["1.0", "2.0"]), ["1.0", "2.0"]),
    "numbers in order": ("r.csv", HEAD + lines(["9", "10", "2"]), ["2", "9", "10"]),
    "huge numbers": (
        "r.csv",
        HEAD + lines(["9007199254740993", "9007199254740992"]),
        ["9007199254740992", "9007199254740993"],
    ),
    "dates in JSON": (
        "r.jsonl",
        [{"text": "a", "label": f"2020-01-0{n}"} for n in (1, 2)],
        ["2020-01-01", "2020-01-02"],
    ),
    "ints in JSON": ("r.jsonl", [{"text": "a", "label": n} for n in (2**70, 1)], ["1", str(2**70)]),
    "bools in JSON": (
        "r.jsonl",
        [{"text": "a", "label": n} for n in (True, False)],
        ["false", "true"],
    ),
    "mixed in JSON": (
        "r.jsonl",
        [{"text": "a", "label": n} for n in (True, 1, "01", 2.0)],
        ["01", "1", "2", "true"],
    ),
    "an array": ("r.json", json.dumps(TWO, indent=1), ["x", "y"]),
    "lines in .json": ("r.json", TWO, ["x", "y"]),
    "ndjson": ("r.ndjson", TWO, ["x", "y"]),
    "keys in another order": (
        "r.jsonl",
        [TWO[0], {"label": "y", "more": 1, "text": "c"}],
        ["x", "y"],
    ),
    "capitals": ("R.CSV", "text,label\na,x\nb,y\n", ["x", "y"]),
    "csv.gz": ("r.csv.gz", "text,label\na,x\nb,y\n", ["x", "y"]),
    "tsv.gz": ("r.tsv.gz", "text\tlabel\na\tx\nb\ty\n", ["x", "y"]),
    "jsonl.gz": ("r.jsonl.gz", TWO, ["x", "y"]),
    "byte order mark": ("r.csv", codecs.BOM_UTF8 + b"text,label\na,x\nb,y\n", ["x", "y"]),
    "byte order mark, JSON": (
        "r.jsonl",
        codecs.BOM_UTF8 + b'{"text":"a","label":"x"}\n{"text":"a","label":"y"}',
        ["x", "y"],
    ),
    "CRLF": ("r.csv", "text,label\r\na,x\r\nb,y\r\n", ["x", "y"]),
    "CR alone": ("r.csv", "text,label\ra,x\rb,y\r", ["x", "y"]),
    "CR alone, quoted": ("r.csv", 'text,label\r"a, b",x\rb,y\r', ["x", "y"]),
    "blank lines": ("r.csv", "\ntext,label\n\na,x\n\n\nb,y\n\n", ["x", "y"]),
    "no last line end": ("r.csv", "text,label\na,x\nb,y", ["x", "y"]),
    "spaces in the header": ("r.csv", "text , label\na,x\nb,y\n", ["x", "y"]),
    "quoted header": ("r.csv", '"text","label"\n"a","x"\n"b","y"\n', ["x", "y"]),
    "a nameless column": ("r.csv", ",text,label\n0,a,x\n1,b,y\n", ["x", "y"]),
    "ints": ("r.parquet", {"text": TEXTS, "label": [1, 2, 2**62 + 1]}, ["1", "2", str(2**62 + 1)]),
    "floats": ("r.parquet", {"text": TEXTS, "label": [1.0, 2.0, 3.0]}, ["1", "2", "3"]),
    "bools": ("r.parquet", {"text": TEXTS, "label": [True, False, True]}, ["false", "true"]),
    "decimals": (
        "r.parquet",
        {"text": TEXTS, "label": [Decimal("1.0"), Decimal("2.0"), Decimal("2.0")]},
        ["1.0", "2.0"],
    ),
    "categories": (
        "r.parquet",
        {
            "text": pa.array(TEXTS).dictionary_encode(),
            "label": pa.array(["x", "y", "y"]).dictionary_encode(),
        },
        ["x", "y"],
    ),
    "categories of ints": (
        "r.parquet",
        {"text": TEXTS, "label": pa.array([1, 2, 2]).dictionary_encode()},
        ["1", "2"],
    ),
    "large strings": (
        "r.parquet",
        {
            "text": pa.array(TEXTS, pa.large_string()),
            "label": pa.array(["x", "y", "y"], pa.large_string()),
        },
        ["x", "y"],
    ),
    "bytes": ("r.parquet", {"text": [b"a", b"b", b"c"], "label": [b"x", b"y", b"y"]}, ["x", "y"]),
    "days": (
        "r.parquet",
        {"text": TEXTS, "label": [date(2020, 1, 2), date(2020, 1, 1), date(2020, 1, 2)]},
        ["2020-01-01", "2020-01-02"],
    ),
}


@pytest.mark.parametrize(("name", "content", "names"), READ.values(), ids=READ)
def test_labels_are_text(name: str, content: Any, names: list[str], tmp_path: Path) -> None:
    task, rows = read(saved(tmp_path / name, content))
    assert task.labels == names
    assert len(rows) == read_table(tmp_path / name).num_rows


COLUMNS = {
    "numbers": ([1, 2**53 + 1], ["1", str(2**53 + 1)]),
    "floats": ([1.0, 0.1, -2.5], ["1", "0.1", "-2.5"]),
    "short floats": (pa.array([0.1, 3.0], pa.float32()), ["0.1", "3"]),
    "no number": ([float("nan"), 1.0], [None, "1"]),
    "times": (
        [datetime(2020, 1, 1), datetime(2020, 1, 1, 2, 3, 4, 500000)],
        ["2020-01-01 00:00:00", "2020-01-01 02:03:04.500000"],
    ),
    "nothing": ([None, None], [None, None]),
    "zones": (pa.array([datetime(2020, 1, 1)], pa.timestamp("s", "UTC")), ["2020-01-01 00:00:00Z"]),
}


@pytest.mark.parametrize(("values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_typed_columns_as_text(values: Any, expected: list[str | None]) -> None:
    assert texts(pa.table({"x": values}).column("x"), "here", "x") == expected


MANY = lines(["x", "y"])
STRAY = MANY.replace("a sad film on day 13", '"a sad film on day 13')
TABS = STRAY.replace(",", "\t")
PAIR = STRAY.replace("a sad film on day 43", '"a sad film on day 43')
CLOSED = STRAY.replace("a sad film on day 43", 'a sad film on day 43"')

# What quotes do: file, content, rows, a text that must be there as it is
QUOTES = {
    "one in a TSV": ("r.tsv", f"text\tlabel\n{TABS}", 60, '"a sad film on day 13'),
    "two in a TSV": (
        "r.tsv",
        "text\tlabel\n" + PAIR.replace(",", "\t"),
        60,
        '"a sad film on day 43',
    ),
    "a pair in a TSV": (
        "r.tsv",
        "text\tlabel\n" + CLOSED.replace(",", "\t"),
        60,
        'a sad film on day 43"',
    ),
    "a quoted text in a TSV": (
        "r.tsv",
        'text\tlabel\n"Great" film\tx\n"Good film"\ty\n',
        2,
        '"Good film"',
    ),
    "a TSV of quoted fields": ("r.tsv", '"text"\t"label"\n"a\tb"\t"x"\n"c"\t"y"\n', 2, "a\tb"),
    "a TSV that doubles": ("r.tsv", 'text\tlabel\n"a ""b"""\tx\nc\ty\n', 2, 'a "b"'),
    "a TSV of many lines": ("r.tsv", 'text\tlabel\n"a\nb"\tx\nc\ty\n', 2, "a\nb"),
    "many lines": ("r.csv", 'text,label\n"a\nb, and\n\nc",x\nd,y\n', 2, "a\nb, and\n\nc"),
    "a comma a line": (
        "r.csv",
        f'text,label\n"dear sir, \nso, bye",x\n{MANY}',
        61,
        "dear sir, \nso, bye",
    ),
    "doubled": ("r.csv", 'text,label\n"a ""b"", c",x\nd,y\n', 2, 'a "b", c'),
    "within a field": ("r.csv", 'text,label\na 5" disk,x\nd,y\n', 2, 'a 5" disk'),
    "one column": ("r.csv", 'label,text\nx,"a\nb"\ny,c\n', 2, "a\nb"),
}


@pytest.mark.parametrize(("name", "content", "count", "text"), QUOTES.values(), ids=QUOTES)
def test_no_quote_takes_a_row(
    name: str, content: str, count: int, text: str, tmp_path: Path
) -> None:
    _, rows = read(saved(tmp_path / name, content))
    assert len(rows) == count
    assert text in rows.texts[0]


GOOD = HEAD + lines(["x", "y"])
LONG = HEAD + lines(["x", "y"], 90_000)  # several blocks of the reader
GRADED = ("task.kind=regression", "task.metrics=[pearson]")


def graded(label: str, name: str = "r.csv") -> tuple[str, str]:
    """A regression's file whose third row has this label."""
    return name, HEAD + f"a,1\nb,2.5\nc,{label}\n" + lines(["1", "3"])


# file, content, message, overrides
REFUSED: dict[str, tuple[Any, ...]] = {
    "one stray quote": ("r.csv", HEAD + STRAY, r"r\.csv, row 14: .*quote in line 15"),
    "two stray quotes": ("r.csv", HEAD + PAIR, r"row 14: .*quote in line 15"),
    "a stray pair": ("r.csv", HEAD + CLOSED, r"row 14: .*takes in 30 more lines"),
    "a stray pair, ids": ("r.csv", 'text,label\n"a,1\nb",2\nc,3\nd,4\n', "row 1: .*1 more lines"),
    "text after a quote": ("r.csv", GOOD + '"a" b,x\n', "row 61: .*is stray"),
    "latin-1": (
        "r.csv",
        (GOOD + "café,x\n").encode("latin-1"),
        r"r\.csv, row 61: not UTF-8 \(byte 0xe9\)",
    ),
    "latin-1 below many lines": (
        "r.csv",
        (HEAD + '"a\nb\nc",x\ncafé,x\n').encode("latin-1"),
        r"row 2: not UTF-8",
    ),
    "latin-1 in the header": ("r.csv", "texté,label\na,b\n".encode("latin-1"), "header: not UTF-8"),
    "latin-1 in JSON": (
        "r.jsonl",
        b'{"text":"a"}\n\n{"text":"\xe9"}\n',
        r"row 2: not UTF-8 \(byte 0xe9\)",
    ),
    "UTF-16": ("r.csv", GOOD.encode("utf-16"), r"header: not UTF-8 \(byte 0xff\)"),
    "UTF-16 without a mark": ("r.csv", GOOD.encode("utf-16-le"), r"header: not text \(byte 0x00\)"),
    "a NUL": ("r.csv", GOOD + "a\0b,x\n", r"row 61: not text \(byte 0x00\)"),
    "an empty file": ("r.csv", "", "the file is empty"),
    "blank lines alone": ("r.csv", "\n\n", "the file is empty"),
    "an empty JSON": ("r.jsonl", "", "the file is empty"),
    "an empty array": ("r.json", "[]", "no rows"),
    "a header only": ("r.csv", HEAD, "no rows"),
    "an empty parquet": (
        "r.parquet",
        {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())},
        "no rows",
    ),
    "two columns of a name": (
        "r.csv",
        "text,label,text\na,x,b\n",
        "several columns have one name: text",
    ),
    "two in parquet": (
        "r.parquet",
        pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]),
        "one name: text",
    ),
    "two in JSON": (
        "r.jsonl",
        '{"text":"a","label":"x","label":"y"}\n',
        "row 1: a key occurs twice",
    ),
    "two in an array": (
        "r.json",
        '[{"text":"a","label":"x"},{"text":"a","text":"b"}]',
        "row 2: a key occurs twice",
    ),
    "no such column": ("r.jsonl", [{"text": "a"}], "no column 'label'; it has text"),
    "too many fields": ("r.csv", GOOD + "a,b,x\n", "row 61: .*3 fields where the header has 2"),
    "too few fields": ("r.csv", GOOD + "a\n", "row 61: .*1 field where the header has 2"),
    "too many, quoted": ("r.csv", 'text,label\n"a\nb",x\n"a",b,x\n', "row 2: .*3 fields where"),
    "too many in a TSV": ("r.tsv", "text\tlabel\na\tx\na\tb\tx\n", "row 2: .*3 fields where"),
    "far down": ("r.csv", f"{LONG}a,\n", r"r\.csv, row 90001: label is missing"),
    "an empty text": ("r.csv", GOOD + ",x\n", "row 61: column 'text' is empty"),
    "a text of spaces": ("r.csv", GOOD + "  ,x\n", "row 61: column 'text' is empty"),
    "a missing key": ("r.jsonl", [*TWO, {"text": "a"}], "row 3: label is missing"),
    "null for a label": (
        "r.jsonl",
        [*TWO, {"text": "a", "label": None}],
        "row 3: label is missing",
    ),
    "null for a text": (
        "r.jsonl",
        [*TWO, {"text": None, "label": "x"}],
        "row 3: column 'text' is empty",
    ),
    "no number for a label": (
        "r.parquet",
        {"text": TEXTS, "label": [1.0, None, 2.0]},
        "row 2: label is missing",
    ),
    "lists": (
        "r.jsonl",
        [*TWO, {"text": "a", "label": ["x"]}],
        r"row 3: column 'label' holds a list or an object \(\[\"x\"\]\)",
    ),
    "objects": (
        "r.jsonl",
        [{"text": "a", "label": {"name": "x"}}],
        "row 1: column 'label' holds a list or an object",
    ),
    "lists of text": (
        "r.jsonl",
        [{"text": ["a"], "label": "x"}, *TWO],
        "row 1: column 'text' holds a list",
    ),
    "lists in parquet": (
        "r.parquet",
        {"text": TEXTS, "label": [None, ["x"], ["y"]]},
        "row [12]: .*label",
    ),
    "a single object": ("r.json", '{"text": ["a"],\n "label": ["x"]}', "holds a single object"),
    "no objects": ("r.jsonl", "1\n2\n", r"row 1: not an object \(1\)"),
    "an array of arrays": ("r.json", '[["a", "x"]]', "row 1: not an object"),
    "broken JSON": ("r.jsonl", [*TWO, "x"], "row 3: not an object"),
    "half a line": ("r.jsonl", '{"text":"a","label":"x"}\n{"text":', "row 2: not readable as json"),
    "half an array": ("r.json", '[{"text":"a"},', "not readable as json"),
    "half a character": (
        "r.jsonl",
        '{"text":"a\\ud800","label":"x"}\n',
        "row 1: column 'text' holds half a character",
    ),
    "bytes": (
        "r.parquet",
        {"text": [b"a", b"caf\xe9"], "label": ["x", "y"]},
        r"row 2: column 'text' is not UTF-8 \(byte 0xe9\)",
    ),
    "no parquet": ("r.parquet", b"PAR0", "not readable as parquet"),
    "no gzip": ("r.csv.zip", b"x", "unknown ending"),
    "one class": ("r.csv", HEAD + lines(["x"]), "holds one class only: x"),
    "spaces tell apart": (
        "r.csv",
        HEAD + lines(["x", "x ", "y"]),
        "holds labels that look alike: 'x', 'x '; write them in one way",
    ),
    "what is not seen tells apart": (
        "r.csv",
        HEAD + lines(["x\u200b", "x", "y"]),
        r"labels that look alike: 'x', 'x\\u200b'",
    ),
    "rare classes": (
        "r.csv",
        HEAD + lines([str(n) for n in range(60)]),
        r"too few rows .*of class \(rows\): 0 \(1\), 1 \(1\).*merge",
    ),
    "graded by mistake": (
        "r.csv",
        HEAD + lines(["1", "2.5"]),
        "row 2: label 2.5 is not a class; use task.kind=regression",
    ),
    "graded in parquet": (
        "r.parquet",
        {"text": TEXTS, "label": [1.0, 2.5, 3.0]},
        "row 2: label 2.5 is not a class",
    ),
    "a number too large": (
        *graded("1e400"),
        "row 3: label '1e400' .*must be a number below",
        *GRADED,
    ),
    "too large for fp32": (*graded("1e39"), "row 3: .*must be a number below", *GRADED),
    "an int too large": (*graded(str(2**63)), "row 3: .*must be a number below", *GRADED),
    "infinite": (*graded("inf"), "row 3: label 'inf' in column 'label' must be a number", *GRADED),
    "nan": (*graded("nan"), "row 3: .*must be a number", *GRADED),
    "a comma": (*graded('"1,5"'), "row 3: label '1,5' .*must be a number", *GRADED),
    "underscores": (*graded("1_000"), "row 3: .*must be a number", *GRADED),
    "a bool": (*graded("true"), "row 3: .*must be a number", *GRADED),
    "no label": (*graded(""), "row 3: .*must be a number", *GRADED),
    "bools, typed": (
        "r.jsonl",
        [{"text": "a", "label": True}],
        "row 1: .*must be a number",
        *GRADED,
    ),
    "huge in JSON": (
        "r.jsonl",
        [{"text": "a", "label": 2**70}],
        "row 1: .*must be a number below",
        *GRADED,
    ),
    "an unknown class of F1": ("r.csv", GOOD, "task.positive=z is unknown", "task.positive=z"),
    "F1 of a regression": (*graded("1"), "task.positive names a class", "task.positive=x", *GRADED),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(case: tuple[Any, ...], tmp_path: Path) -> None:
    name, content, message, *overrides = case
    path = saved(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        splits_of(f"task.train={path}", *overrides)
    assert "\n" not in str(caught.value)
    if "task.positive" not in str(caught.value):
        assert str(caught.value).startswith(str(path))


TRAIN = HEAD + lines(["1", "2", "3"])

# training rows, name of the test file, its content, its labels by number or the refusal, overrides
TESTED: dict[str, tuple[Any, ...]] = {
    "by name": (TRAIN, "t.csv", "text,label\na,3\nb,1\n", [2, 0]),
    "never by place": (
        TRAIN,
        "t.csv",
        "text,label\na,1\nb,0\n",
        r"t\.csv, row 2: label 0 must be one of 1, 2, 3$",
    ),
    "nor where given": (
        TRAIN,
        "t.csv",
        "text,label\na,0\n",
        "label 0 must be one of 1, 2, 3",
        "task.labels=[1,2,3]",
    ),
    "by place where given": (
        HEAD + lines(["no", "yes"]),
        "t.csv",
        "text,label\na,1\nb,no\n",
        [1, 0],
        "task.labels=[no,yes]",
    ),
    "beyond the places": (
        HEAD + lines(["0", "1"]),
        "t.csv",
        "text,label\na,2\n",
        "row 1: label 2 must be",
        "task.labels=[no,yes]",
    ),
    "no zeros are added": (TRAIN, "t.csv", "text,label\na,01\n", "label 01 must be one of 1, 2, 3"),
    "no number for a name": (
        HEAD + lines(["01", "02"]),
        "t.csv",
        "text,label\na,02\nb,1\n",
        "row 2: label 1 must be one of 01, 02",
    ),
    "another case": (
        HEAD + lines(["yes", "no"]),
        "t.csv",
        "text,label\na,Yes\n",
        "label Yes must be one of no, yes",
    ),
    "spaces": (
        HEAD + lines(["yes", "no"]),
        "t.csv",
        "text,label\na, yes\n",
        "label ' yes' must be one of no, yes",
    ),
    "ints of parquet": (TRAIN, "t.parquet", {"text": ["a", "b"], "label": [3, 1]}, [2, 0]),
    "floats of parquet": (TRAIN, "t.parquet", {"text": ["a", "b"], "label": [3.0, 1.0]}, [2, 0]),
    "floats as pandas writes": (
        HEAD + lines(["1.0", "2.0"]),
        "t.parquet",
        {"text": ["a", "b"], "label": [2.0, 1.0]},
        [1, 0],
    ),
    "ints of JSON": (
        TRAIN,
        "t.jsonl",
        [{"text": "a", "label": 2}, {"text": "b", "label": "3"}],
        [1, 2],
    ),
    "bools of JSON": (
        HEAD + lines(["true", "false"]),
        "t.jsonl",
        [{"text": "a", "label": True}],
        [1],
    ),
    "bools as pandas writes": (
        HEAD + lines(["True", "False"]),
        "t.parquet",
        {"text": ["a"], "label": [True]},
        [1],
    ),
    "zeros in a parquet": (
        HEAD + lines(["01", "02"]),
        "t.parquet",
        {"text": ["a"], "label": ["02"]},
        [1],
    ),
    "hidden": (
        TRAIN,
        "t.csv",
        "text,label\na,-1\n",
        "label -1 must be one of 1, 2, 3; GLUE's test splits hide",
    ),
    "missing": (TRAIN, "t.csv", "text,label\na,\n", r"t\.csv, row 1: label is missing"),
    "far down": (
        HEAD + lines(["x", "y"]),
        "t.csv",
        f"{LONG}a,z\n",
        "row 90001: label z must be one of x, y",
    ),
    "sixty classes": (
        HEAD + lines([f"c{n}" for n in range(60)], 600),
        "t.csv",
        "text,label\na,d\n",
        "must be one of c0, c1, c10.* or 40 more",
    ),
}


@pytest.mark.parametrize("case", TESTED.values(), ids=TESTED)
def test_test_rows_use_the_names_of_train(case: tuple[Any, ...], tmp_path: Path) -> None:
    train, name, content, expected, *overrides = case
    files = (
        f"task.train={saved(tmp_path / 'train.csv', train)}",
        f"task.test={saved(tmp_path / name, content)}",
    )
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            splits_of(*files, *overrides)
    else:
        assert splits_of(*files, *overrides)[1].test["test"].labels.tolist() == expected


def test_ids_may_be_text(tmp_path: Path) -> None:
    rows = {"text": TEXTS, "label": ["x", "y", "x"]}
    assert read(saved(tmp_path / "t.parquet", rows | {"idx": ["a0", "7", "x"]}))[1].idx == [
        "a0",
        "7",
        "x",
    ]
    assert read(saved(tmp_path / "n.csv", "idx,text,label\n7,a,x\n9,b,y\n"))[1].idx == [7, 9]


def test_a_class_without_test_rows_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits_of(f"task.train={saved(tmp_path / 'r.csv', GOOD + 'a lonely row,z' + chr(10))}")
    assert "no test row is of class (rows): z (1)" in caplog.text


def scored(positive: str | None, *, classes: int = 2, name: str = "f1") -> float:
    """F1 where class 0 is found in 1 of 2 rows, class 1 in 3 of 3."""
    import torch

    labels = ["defect", "ok", "other"][:classes]
    task = Classification(name="t", text=["x"], metrics=[name], labels=labels, positive=positive)
    predicted, truth = torch.tensor([0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
    logits = torch.nn.functional.one_hot(predicted, classes).float()
    return task.score(logits, truth)[name]


def test_f1_is_of_the_class_that_is_asked_for() -> None:
    assert scored(None) == scored("ok") == pytest.approx(6 / 7)
    assert scored("defect") == scored("defect", classes=3) == pytest.approx(2 / 3)
    assert scored(None, classes=3) == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert scored("defect", name="accuracy") == pytest.approx(0.8)


def test_resampled_f1_is_of_that_class_too() -> None:
    import numpy as np

    from finegrid.report.stats.bootstrap import Resampler

    labels, predicted = np.array([0, 0, 1, 1, 1]), np.array([[0, 1, 1, 1, 1]])
    assert Resampler(labels, ["f1"], positive=0).scores(predicted)[0] == pytest.approx(2 / 3)
    assert Resampler(labels, ["f1"], positive=1).scores(predicted)[0] == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (("task.positive=x", "task.metrics=[f1]"), False),
        (("task.positive=x",), True),
        (("task.positive=b", "task.metrics=[f1]", "task.labels=[a,b]"), True),
        (("task.positive=a", "task.metrics=[f1]", "task.labels=[a,b]"), False),
    ],
)
def test_the_class_is_in_the_hash_where_it_decides(
    overrides: tuple[str, ...], same: bool, tmp_path: Path
) -> None:
    from omegaconf import OmegaConf

    path = saved(tmp_path / "r.csv", GOOD)
    cells = [
        identity.cell(
            OmegaConf.to_container(
                composed("task=custom", f"task.train={path}", *some), resolve=True
            )
        )  # type: ignore[arg-type]
        for some in (overrides, overrides[1:])
    ]
    assert (cells[0] == cells[1]) is same


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A finished run on a file with the labels 01 and 02."""
    place = tmp_path_factory.mktemp("rows")
    path = saved(place / "r.csv", HEAD + lines(["01", "02"]))
    record = run_cell(
        place / "run",
        "task=custom",
        f"task.train={path}",
        "budget=steps",
        "budget.steps=2",
        "method=head",
        "task.metrics=[f1,accuracy]",
        "task.positive='01'",
        "evaluations=1",
        "trainer=cpu",
    )
    return place / "run", record


def test_a_record_says_which_class_f1_is_of(run: tuple[Path, Record]) -> None:
    from finegrid.report.formatting import of_class
    from finegrid.report.load.rankings import gather, load

    assert (run[1].positive, run[1].positive_class) == ("01", 0)
    assert "f1 of 01" in run[1].summary()
    assert of_class(gather(load([run[0]])).runs) == " of 01"


PREDICTED = {
    "numbers and dates": ("p.csv", "text\n1\n2020-01-01\n01\n", ["1", "2020-01-01", "01"]),
    "one object": (
        "p.jsonl",
        [{"text": "a good film", "tags": ["x", "é"], "meta": {"a": 1}}],
        ["a good film"],
    ),
    "nested in parquet": ("p.parquet", {"text": ["a"], "tags": [["x", None]]}, ["a"]),
    "zeros, signs": ("p.csv", "text,code,cash,sum\na,007,-5,=1+1\nb,1.50,+1e3,-x\n", ["a", "b"]),
    "gzip": ("p.csv.gz", "text\na\n", ["a"]),
}
OUT = {
    "one object": {"tags": ['["x", "é"]'], "meta": ['{"a": 1}']},
    "nested in parquet": {"tags": ['["x", null]']},
    "zeros, signs": {"code": ["007", "1.50"], "cash": ["-5", "+1e3"], "sum": ["'=1+1", "'-x"]},
}


@pytest.mark.parametrize("case", PREDICTED)
def test_predicted_rows_come_out_as_they_went_in(
    case: str, run: tuple[Path, Record], tmp_path: Path
) -> None:
    name, content, wanted = PREDICTED[case]
    target = tmp_path / "out.csv"
    rows = inference.predict_file(run[0], saved(tmp_path / name, content), target)
    found = read_table(target).to_pydict()
    assert found["text"] == wanted
    assert rows == len(wanted)
    assert set(found["prediction"]) <= {"01", "02"}
    assert {"score_01", "score_02"} <= set(found)
    for column, values in OUT.get(case, {}).items():
        assert found[column] == values
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out.csv"])


def test_raw_text_on_request(run: tuple[Path, Record], tmp_path: Path) -> None:
    source = saved(tmp_path / "p.csv", "text,=sum\na,@x\n")
    inference.predict_file(run[0], source, tmp_path / "a.csv")
    inference.predict_file(run[0], source, tmp_path / "b.csv", raw=True)
    assert read_table(tmp_path / "a.csv").column("'=sum").to_pylist() == ["'@x"]
    assert read_table(tmp_path / "b.csv").column("=sum").to_pylist() == ["@x"]


UNPREDICTED = {
    "a column of that name": (
        "p.csv",
        "text,prediction\na,b\n",
        "out.csv",
        "already has a column 'prediction'",
    ),
    "a score of that name": (
        "p.csv",
        "text,score_01\na,b\n",
        "out.csv",
        "already has a column 'score_01'",
    ),
    "no rows": ("p.csv", "text\n", "out.csv", "no rows"),
    "an empty text": (
        "p.csv",
        "text,x\na,1\n,2\n",
        "out.csv",
        r"p\.csv, row 2: column 'text' is empty",
    ),
    "lists": ("p.jsonl", [{"text": ["a"]}], "out.csv", "row 1: column 'text' holds a list"),
    "no such column": ("p.csv", "words\na\n", "out.csv", "no column 'text'; it has words"),
    "the input": ("p.csv", "text\na\n", "p.csv", "is the input"),
    "no directory": ("p.csv", "text\na\n", "no/out.csv", "cannot be written: No such file"),
    "a directory": ("p.csv", "text\na\n", ".", "is a directory"),
}


@pytest.mark.parametrize("case", UNPREDICTED.values(), ids=UNPREDICTED)
def test_predict_checks_before_it_loads(
    case: tuple[Any, ...], run: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content, target, message = case
    monkeypatch.setattr(inference, "restore", lambda *_, **__: pytest.fail("the model was loaded"))
    source = saved(tmp_path / name, content)
    before = source.read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        inference.predict_file(run[0], source, tmp_path / target)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert source.read_bytes() == before
