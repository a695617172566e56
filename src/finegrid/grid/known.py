"""Finished cells that are given to a sweep from outside: `known=[FILE|DIR,...]`."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finegrid.errors import UserError, require
from finegrid.runs import layout, trials
from finegrid.runs.record import Record, read

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Known:
    """Cells by their hash: rows of tables, and directories of records."""

    tables: "tuple[pd.DataFrame, ...]" = ()  # as `rankings.load` gives them
    directories: dict[str, Path] = field(default_factory=dict)  # hash -> where its record lies
    trials: dict[str, Record] = field(default_factory=dict)  # of searches, by hash
    hashes: frozenset[str] = frozenset()  # of all of them

    @classmethod
    def of(cls, paths: str | Sequence[str]) -> "Known":
        """Read what is given; the hash of each result says which cell it is.

        Raises:
            UserError: if a path is no such file or directory, or nothing is in it.
        """
        tables: list[pd.DataFrame] = []
        directories: dict[str, Path] = {}
        searched: dict[str, Record] = {}
        for path in map(Path, [paths] if isinstance(paths, str) else paths):
            require(path.exists(), f"known={path}: no such file or directory")
            if (beside := trials.beside(path)).is_file():
                kept = trials.read(beside).items()
                searched |= {key: one for key, one in kept if one.status in trials.ENDED}
            if records := dict(_finished(path)):
                directories |= records
            else:
                tables.append(_table(path))
        of_tables = (str(key) for table in tables for key in table["cell"])
        hashes = frozenset([*directories, *of_tables, *searched])
        return cls(tuple(tables), directories, searched, hashes)

    def __contains__(self, key: str) -> bool:
        return key in self.hashes

    def rows(self, keys: Iterable[str]) -> "list[pd.DataFrame]":
        """A row for each of some cells that were given, as `rankings.load` gives them."""
        from finegrid.report.load import rankings

        wanted = set(keys)
        lie = [path for key, path in self.directories.items() if key in wanted]
        stored = (table[table["cell"].isin(wanted - {*self.directories})] for table in self.tables)
        return [*([rankings.load(lie)] if lie else []), *(table for table in stored if len(table))]

    def precision(self, keys: Collection[str]) -> str | None:
        """That of all results given for some cells; None if there are none, or of several."""
        tables = (table for table in self.tables if "precision" in table)
        columns = (table.loc[table["cell"].isin(keys), "precision"].dropna() for table in tables)
        lie = (readable(path) for key, path in self.directories.items() if key in keys)
        searched = (record for key, record in self.trials.items() if key in keys)
        names = [record.precision for record in (*lie, *searched) if record]
        found = {*names, *(name for column in columns for name in column)} - {None}
        return found.pop() if len(found) == 1 else None


def readable(directory: Path) -> Record | None:
    """The record of a directory; None if there is none that can be read, as a report says."""
    try:
        return read(directory)
    except UserError:
        return None


def _finished(root: Path) -> Iterable[tuple[str, Path]]:
    for directory in layout.run_directories(root):
        record = readable(directory)
        if record and record.status == "ok" and record.cell:
            yield record.cell, directory


def _table(path: Path) -> "pd.DataFrame":
    """The finished runs of a report's table, or of the one in a report's directory."""
    from finegrid.report.load import rankings

    file = path / rankings.PARQUET if path.is_dir() else path
    why = f"known={path}: no finished run, and no {rankings.PARQUET}, lies there"
    require(file.is_file(), why)
    runs = rankings.load([file])
    return runs[runs["status"].eq("ok") & runs["cell"].notna()]
