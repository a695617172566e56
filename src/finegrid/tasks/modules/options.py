"""The options of questions and the right answers among them, as tables hold them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from finegrid.errors import UserError, require, shown

MOST = 255  # options of a question
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LISTED = 'a list of texts, or {"text": [..], "label": [..]}'
Options = tuple[str, ...]
Row = tuple[Options, Options | None]  # texts and names


def rows(values: Sequence[Any], name: str, where: str) -> list[Row]:
    """The options of each row and, if they have any, their names.

    Raises:
        UserError: naming `where`, the row and the column.
    """
    return [
        _options(value, f"{where}, row {row}: column {name!r}")
        for row, value in enumerate(values, start=1)
    ]


def _options(value: Any, where: str) -> Row:
    """Texts and names of one question's options; text, as in a CSV, is read as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(f"{where}: {shown(value)} is not JSON; options are {LISTED}") from None
    listed: Any = value.get("text") if isinstance(value, Mapping) else value
    require(isinstance(listed, list), f"{where}: {shown(value)} holds no options: {LISTED}")
    options = tuple(map(_text, listed))
    require(
        2 <= len(options) <= MOST, f"{where}: {len(options)} options; from 2 to {MOST} are possible"
    )
    require(all(text.strip() for text in options), f"{where}: an option is empty")
    if not isinstance(value, Mapping) or value.get("label") is None:
        return options, None
    names = tuple(_text(name).strip() for name in value["label"])
    require(
        len(names) == len(options) == len({*names}),
        f"{where}: {len(options)} options need as many names, each once",
    )
    return options, names


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def places(answers: Sequence[Any], rows: Sequence[Row], name: str, where: str) -> list[int]:
    """The place of each row's right option, from 0 on.

    An answer is one of the names that the options have; where they have none, all answers are an
    option's text, or its letter (A, B, ..), or its place from 0 on.

    Raises:
        UserError: naming `where`, the row and the column `name`, where no reading fits all rows, or
            several do that differ.
    """
    for row, answer in enumerate(answers, start=1):
        there = answer is not None and str(answer).strip()
        require(bool(there), f"{where}, row {row}: column {name!r}: answer is missing")
    pairs = list(zip([str(answer).strip() for answer in answers], rows, strict=True))
    named = all(names is not None for _, names in rows)
    readings = [_by_name] if named else [_by_text, _by_letter, _by_place]
    tried = [[read(answer, *row) for answer, row in pairs] for read in readings]
    fits = [[place for place in found if place is not None] for found in tried if None not in found]
    if not fits:
        row = max(found.index(None) for found in tried)
        answer, (options, names) = pairs[row]
        raise UserError(
            f"{where}, row {row + 1}: column {name!r}: answer {shown(answer)} is none of the "
            f"{len(options)} options {', '.join(map(shown, names or options))}"
        )
    differ = (row for row, found in enumerate(zip(*fits, strict=True)) if len({*found}) > 1)
    if (row := next(differ, -1)) >= 0:
        raise UserError(
            f"{where}, row {row + 1}: column {name!r}: answer {shown(pairs[row][0])} is one "
            f"option's text and another's letter or place; name the options: {LISTED}"
        )
    return fits[0]


def _by_name(answer: str, options: Options, names: Options | None) -> int | None:
    return names.index(answer) if names and answer in names else None


def _by_text(answer: str, options: Options, names: Options | None) -> int | None:
    texts = [option.strip() for option in options]
    return texts.index(answer) if texts.count(answer) == 1 else None


def _by_letter(answer: str, options: Options, names: Options | None) -> int | None:
    place = LETTERS.find(answer) if len(answer) == 1 else -1
    return place if 0 <= place < len(options) else None


def _by_place(answer: str, options: Options, names: Options | None) -> int | None:
    digits = answer.isascii() and answer.isdecimal()
    return int(answer) if digits and int(answer) < len(options) else None
