"""The state of each cell of a sweep, read from its directory: ok, failed, running, queued, missing.

The records are the truth. The index is made from the directories' names whenever it is needed.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finegrid.grid import locks
from finegrid.grid.eta import Past
from finegrid.grid.expand import Cell
from finegrid.grid.known import Known, readable
from finegrid.runs import layout, settings
from finegrid.runs.record import Record, read_fields

if TYPE_CHECKING:
    import pandas as pd

ENDED = ("ok", "failed", "diverged")
NOT_NEEDED = "not needed"  # a race was decided without it
# queued: in a sweep that runs
STATUSES = (*ENDED, NOT_NEEDED, "unreadable", "running", "queued", "missing")
FINE = ("ok", NOT_NEEDED)
KNOWN = "known"  # version of an outcome that was given from outside
AGAIN: dict[str, tuple[str, ...]] = {  # retry -> the ends that do not count as an end
    "failed": ("failed", "diverged"),
    "none": (),
    "all": ENDED,
}


@dataclass(frozen=True)
class Outcome:
    """What a cell's directory says: one of STATUSES.

    What is missing, queued or unreadable is still to be run.
    """

    status: str
    error: str = ""
    version: str = ""  # tells the record from one written over it, whatever the clock says
    past: Past | None = None  # the time that it took, if it ended well
    trial: bool = False  # of a search for a learning rate

    @property
    def fine(self) -> bool:
        """Whether nothing is to be mended: a trial that diverged has said what it was asked."""
        return self.status in FINE or (self.trial and self.status == "diverged")


class Store:
    """A sweep's directory, and the results that it was given from outside."""

    def __init__(self, root: Path, known: Known | None = None) -> None:
        self.root, self.known = root, known or Known()
        self._places = {layout.cell_of(name): name for name in layout.sweep_directories(root)}

    def place(self, cell: Cell) -> str:
        """The cell's directory below the root: where it already lies, else its own name."""
        return self._places.get(cell.key, cell.directory)

    def path(self, cell: Cell) -> Path:
        """The cell's directory."""
        return self.root / self.place(cell)

    def outcome(self, cell: Cell) -> Outcome:
        """What is known of a cell; its own directory comes before what was given."""
        return self.or_given(cell, outcome(self.path(cell)))

    def or_given(self, cell: Cell, found: Outcome) -> Outcome:
        """What a cell's directory says, or what was given where that says nothing."""
        given = found.status in ("missing", "unreadable") and cell.key in self.known
        return Outcome("ok", version=KNOWN) if given else found

    def record(self, cell: Cell) -> Record | None:
        """A cell's record, if one is there that can be read."""
        elsewhere = self.known.directories.get(cell.key)
        return readable(self.path(cell)) or (
            readable(elsewhere) if elsewhere else self.known.trials.get(cell.key)
        )

    def frame(self, cells: Sequence[Cell]) -> "pd.DataFrame":
        """A row for each of some cells that has a record, as `rankings.load` gives them."""
        import pandas as pd

        from finegrid.report.load import rankings

        here = [path for cell in cells if ((path := self.path(cell)) / layout.RECORD).is_file()]
        frames = [*([rankings.load(here)] if here else []), *self.given(cells)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def given(self, cells: Sequence[Cell]) -> "list[pd.DataFrame]":
        """Rows of the cells that have no record here and were given from elsewhere.

        With what this sweep's own search took, where it began with one: whoever gave them may have
        found the same rate in another way.
        """
        lie = (cell for cell in cells if not (self.path(cell) / layout.RECORD).is_file())
        facts = {cell.key: cell.facts for cell in lie}
        return [_with_costs(rows, facts) for rows in self.known.rows(facts)]


def _with_costs(rows: "pd.DataFrame", facts: Mapping[str, Mapping[str, Any]]) -> "pd.DataFrame":
    own = {
        name: rows["cell"].map({key: of_cell.get(name) for key, of_cell in facts.items()})
        for name in settings.NOTED
        if name in rows
    }
    return rows.assign(**{name: found.fillna(rows[name]) for name, found in own.items()})


def outcome(directory: Path, *, at: float | None = None) -> Outcome:
    """What a run directory says; half a record counts as none. `at` is that of `locks.alive`."""
    why = ""
    try:
        values, facts = read_fields(directory), directory.joinpath(layout.RECORD).stat()
    except FileNotFoundError:
        values = {}
    except (OSError, ValueError) as error:
        values, why = {}, str(error)
    if (status := values.get("status")) not in ENDED:
        gone = "unreadable" if why else "missing"
        return Outcome("running" if locks.alive(directory, at=at) else gone, why)
    version = f"{facts.st_mtime_ns:x}-{facts.st_ino:x}-{zlib.crc32(repr(values).encode()):x}"
    trial = values.get("trial") is not None
    return Outcome(status, values.get("error") or "", version, Past.of_record(values), trial)


def settled(found: Outcome, *, retry: str, before: str) -> bool:
    """Whether a cell needs no run: it ended as `retry` accepts, or its record is a new one.

    `before` is the version of the record that the sweep met at its start: what replaces it was
    written meanwhile. No clock is asked, since clocks step back.
    """
    again = found.status in AGAIN[retry] and (retry == "all" or not found.fine)
    return found.status in ENDED and (found.version != before or not again)
