"""The trials of a search in one file, a record a line, beside a report that has no row for them.

What a report keeps stands for a sweep whose directories are gone, so that another sweep can take up
its cells (`known=`); with this file it takes up the search too.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from finegrid.errors import UserError
from finegrid.runs import layout
from finegrid.runs.record import Record, of_text, read_fields

FILE = "trials.jsonl"
ENDED = ("ok", "diverged")  # what failed is run again


def beside(path: Path) -> Path:
    """Where the trials of a report lie, given its directory or its table."""
    return (path if path.is_dir() else path.parent) / FILE


def lines(roots: Iterable[Path], *, searched: bool) -> Iterator[str]:
    """The record of each trial of some sweeps or reports, on one line.

    `searched`: whether the sweeps' records hold any, so that no record is read again for nothing.
    """
    for root in roots:
        if (kept := beside(root)).is_file():
            yield from kept.read_text(encoding="utf-8").splitlines()
        for directory in layout.run_directories(root) if searched else ():
            try:
                values = read_fields(directory)
            except (OSError, ValueError):  # a report says so
                continue
            if values.get("trial") is not None:
                yield json.dumps(values, separators=(",", ":"))


def read(path: Path) -> dict[str, Record]:
    """Hash of the cell -> record of each trial of such a file; of several tries one that ended.

    Raises:
        UserError: if it cannot be read as one.
    """
    try:
        texts = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    records: dict[str, Record] = {}
    for number, text in enumerate(texts, start=1):
        try:
            record = of_text(text)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a readable record: {error}") from error
        if record.cell and record.trial is not None:
            before = records.get(record.cell)
            if before is None or before.status not in ENDED:
                records[record.cell] = record
    return records
