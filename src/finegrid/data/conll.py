"""CoNLL files as tables: a word and its tag in a line, a blank line after each sentence."""

import re
from pathlib import Path

import pyarrow as pa

from finegrid.errors import UserError

ENDINGS = (".conll", ".bio", ".iob2")
WORDS, TAGS = "tokens", "tags"  # the columns
LINE_END = re.compile(r"\r\n|\r|\n")  # no other: a word may hold what Unicode calls one
STARTS = "-DOCSTART-"  # of a document, between two sentences


def table(path: Path, text: str) -> pa.Table:
    """Columns `tokens` and `tags`, lists of text: of each line the first field and the last.

    Fields are divided by tabs or, where there is none, by spaces; no other space divides them.

    Raises:
        UserError: naming row and line, for a line of one field.
    """
    rows: list[tuple[list[str], list[str]]] = [([], [])]
    for number, line in enumerate(LINE_END.split(text), start=1):
        fields = [field.strip(" ") for field in line.split("\t")]
        if len(fields) == 1:
            fields = fields[0].split(" ")
        if not any(fields):
            rows.append(([], []))
        elif fields[0] != STARTS:
            if len(fields) < 2 or not fields[0] or not fields[-1]:
                row = sum(bool(words) for words, _ in rows[:-1]) + 1
                raise UserError(
                    f"{path}, row {row}: line {number} is {line!r:.40}, not a word and its tag"
                )
            rows[-1][0].append(fields[0])
            rows[-1][1].append(fields[-1])
    columns = zip(*(row for row in rows if row[0]), strict=True)
    lists = [pa.array(column, pa.list_(pa.string())) for column in columns]
    return pa.table(dict(zip((WORDS, TAGS), lists, strict=False)))
