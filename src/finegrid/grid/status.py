"""The state of each cell of a sweep, read from its directory: ok, failed, running, queued, missing.

The records are the truth. The index is made from the directories' names whenever it is needed.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

from finegrid.grid import locks
from finegrid.grid.eta import Past
from finegrid.grid.expand import Cell
from finegrid.runs import layout
from finegrid.runs.record import read_fields

ENDED = ("ok", "failed", "diverged")
STATUSES = (*ENDED, "unreadable", "running", "queued", "missing")  # queued: in a sweep that runs
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


class Store:
    """A sweep's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._places = {layout.cell_of(name): name for name in layout.sweep_directories(root)}

    def place(self, cell: Cell) -> str:
        """The cell's directory below the root: where it already lies, else its own name."""
        return self._places.get(cell.key, cell.directory)

    def path(self, cell: Cell) -> Path:
        """The cell's directory."""
        return self.root / self.place(cell)

    def outcome(self, cell: Cell) -> Outcome:
        """What is known of a cell."""
        return outcome(self.path(cell))


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
    return Outcome(status, values.get("error") or "", version, Past.of_record(values))


def settled(found: Outcome, *, retry: str, before: str) -> bool:
    """Whether a cell needs no run: it ended as `retry` accepts, or its record is a new one.

    `before` is the version of the record that the sweep met at its start: what replaces it was
    written meanwhile. No clock is asked, since clocks step back.
    """
    return found.status in ENDED and (found.version != before or found.status not in AGAIN[retry])
