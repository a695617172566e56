"""What races decided, read from `race.jsonl`, as columns of the runs and for each ranking.

A race leaves its decisions in the sweep's directory; they hold for the cells that it names by hash,
wherever these lie. Columns, empty for runs of no race: `race_level`, the level of the last look at
the run's ranking; `race_stopped`, the seeds at which its method was stopped; `race_seeds`, those
declared at the start.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.errors import UserError
from finegrid.runs import layout
from finegrid.storage.files import content

COLUMNS = ["race_level", "race_stopped", "race_seeds"]
SCHEMA = 1
LARGEST = 1 << 25  # bytes of a file: a look at 34 methods takes some thousand
LIVE = "live"  # a method that goes on; all other states are ends
Key = tuple[Any, ...]  # a ranking, as rankings.RANKING names it


class Mark(NamedTuple):
    """What a race says of one cell, in the order of `COLUMNS`."""

    level: float
    stopped: float  # nan: its method was not stopped
    seeds: float


@dataclass(frozen=True)
class Raced:
    """What a race says of one ranking."""

    level: float  # of its last look
    seeds: int  # declared
    run: int  # seeds that there are
    stopped: Mapping[str, int] = field(default_factory=dict)  # method -> seeds, if it has no more

    def dropped(self, methods: Collection[str]) -> set[str]:
        """Those of some methods that were stopped while others went on: none of them leads."""
        last = max(self.stopped.get(name, self.seeds) for name in methods)
        return {name for name in methods if self.stopped.get(name, last) < last}


def marked(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Runs with the columns of `COLUMNS`, and a note on each file that is not readable.

    runs: with `directory` and `cell`.
    """
    marks: dict[str, Mark] = {}
    notes = []
    for path in _files(runs["directory"].dropna().astype(str)):
        try:
            marks |= _read(path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            notes.append(
                f"{path} cannot be read as the decisions of a race ({why}): its runs are compared "
                "as if there had been none."
            )
    none = Mark(nan, nan, nan)
    rows = [marks.get(cell, none) for cell in runs["cell"].astype(object)] if marks else none
    return runs.assign(**dict(zip(COLUMNS, _columns(rows), strict=True))), notes


def _columns(rows: Mark | list[Mark]) -> Iterable[Any]:
    return rows if isinstance(rows, Mark) else zip(*rows, strict=True)


def checked(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """A stored table's runs with numbers in the columns of `COLUMNS`; of an older one none.

    Raises:
        UserError: if one of them holds what no race says.
    """
    runs = runs.assign(**{name: runs.get(name, nan) for name in COLUMNS})
    for name in COLUMNS:
        known = runs[name].dropna()
        numbers = pd.to_numeric(known, errors="coerce")
        fine = numbers.between(0, 1) if name == "race_level" else numbers.ge(1)
        if not fine.all():
            raise UserError(f"{where}: column {name} holds {known[~fine].iloc[0]}, as no race does")
    return runs.astype(dict.fromkeys(COLUMNS, float))


def by_ranking(runs: pd.DataFrame, ranking: list[str]) -> dict[Key, Raced]:
    """The rankings that were raced; of two races of one the stricter level counts.

    runs: of `rankings.gather`.
    """
    raced = {}
    known = runs.dropna(subset=["race_level", "race_seeds"])
    for key in known[ranking].drop_duplicates().itertuples(index=False, name=None):
        rows = runs[(runs[ranking] == key).all(axis=1)]
        present = rows.groupby("method")["seed"].nunique().to_dict()
        stops = rows.groupby("method")["race_stopped"].max().dropna().astype(int)
        raced[key] = Raced(
            float(rows["race_level"].min()),
            int(rows["race_seeds"].min()),
            int(rows["seed"].nunique()),
            {str(name): stop for name, stop in stops.items() if present[name] <= stop},
        )
    return raced


def needed(
    lacks: pd.DataFrame, runs: pd.DataFrame, raced: Mapping[Key, Raced]
) -> NDArray[np.bool_]:
    """Whether runs that are not there are missing: not those after a method was stopped.

    Args:
        lacks: columns of `rankings.CELL`, method last, and the seed.
        runs: that are there.
        raced: of `by_ranking`.
    """
    cell = list(lacks.columns[:-1])
    there = runs.groupby(cell, observed=True).size()
    nth = lacks.groupby(cell, observed=True).cumcount()
    keys = lacks[cell].itertuples(index=False, name=None)
    wanted = []
    for (*ranking, method), at in zip(keys, nth, strict=True):
        one = raced.get(tuple(ranking))
        stop = one.stopped.get(method) if one else None
        wanted.append(stop is None or at < stop - there[(*ranking, method)])
    return np.array(wanted, bool)


def _files(directories: Iterable[str]) -> Iterator[str]:
    """The files above some runs, not farther up than a sweep's directory is."""
    level = set(map(os.path.abspath, directories))
    seen: set[str] = set()
    for _ in range(layout.DEPTH):
        level = {os.path.dirname(path) for path in level} - seen
        seen |= level
    paths = (os.path.join(path, layout.RACE) for path in sorted(seen))
    return (path for path in paths if os.path.lexists(path))


def _read(path: str) -> dict[str, Mark]:
    """Hash of a cell -> what a race says of it.

    Raises:
        OSError: if the file cannot be read.
        ValueError: saying what is wrong, if no race wrote it.
    """
    try:
        header, *looks = map(json.loads, content(path, LARGEST).decode("utf-8").splitlines())
        if header["schema"] != SCHEMA:
            raise ValueError(f"schema {header['schema']!r:.20}, this version reads {SCHEMA}")
        seeds = _number(header["max_seeds"], 1, 1e6)
        rankings: dict[str, list[Any]] = {}
        for look in looks:
            rankings.setdefault(json.dumps(look["ranking"], sort_keys=True), []).append(look)
        each = (_marks(several, _declared(several, seeds)) for several in rankings.values())
        return {cell: mark for marks in each for cell, mark in marks.items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no line of a race: {error!r:.60}") from error


def _declared(looks: list[Any], seeds: float) -> float:
    """The fewest seeds that were declared for a ranking's cells: what follows is no fresh test."""
    return min(_number(one, 1, 1e6) for look in looks for one in look.get("declared", [seeds]))


def _marks(looks: list[Any], seeds: float) -> dict[str, Mark]:
    """The cells of one ranking, by its looks."""
    stopped: dict[str, float] = {}
    cells: dict[str, set[str]] = {}
    for look in sorted(looks, key=lambda look: _number(look["look"], 0, 1e6)):
        at, level = _number(look["seeds"], 1, 1e6), _number(look["level"], 0, 1)
        for method in look["methods"]:
            name = str(method["method"])
            cells.setdefault(name, set()).update(map(str, method["cells"]))
            if method["state"] != LIVE or (look["decided"] and at < seeds):
                stopped.setdefault(name, at)
    return {
        cell: Mark(level, stopped.get(name, nan), seeds)
        for name, several in cells.items()
        for cell in several
    }


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{value!r:.20} is no number from {low:g} to {high:g}")
    return float(value)
