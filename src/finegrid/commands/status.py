"""What has become of a sweep, while it runs or later; ends with 0 if every cell is ok.

    finegrid status multirun/grid --watch

Reads DIR/.sweeps, the records and the locks; writes nothing.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from finegrid.commands import arguments
from finegrid.errors import UserError, printable
from finegrid.grid import plan
from finegrid.grid.eta import Wanted
from finegrid.grid.left import Countdown, Running, jobs, left
from finegrid.grid.progress import last_line
from finegrid.grid.status import ENDED, FINE, NOT_NEEDED, Outcome
from finegrid.runs.record import read
from finegrid.runs.text import rerun_command

EVERY = 2.0  # seconds between looks
QUIET = 120.0  # seconds in which nothing runs after which a sweep is taken to have ended
SHOWN = 20  # cells of each kind, unless all are asked for


class Look:
    """What is known of the cells of a directory; records that say `ok` are read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: dict[str, Outcome] = {}
        self.running: dict[str, Running] = {}
        self._countdown, self._slots = Countdown(), 0
        self.refresh()

    def refresh(self) -> None:
        """Bring it up to date."""
        now, before = time.time(), self.found
        self.found = {place: before.get(place, Outcome("")) for place in plan.places(self.root)}
        unsettled = [place for place, found in self.found.items() if found.status != "ok"]
        self.found |= dict(plan.outcomes(self.root, unsettled, at=now))
        runs = ((place, Running.of(self.root / place, at=now)) for place in self.of("running"))
        self.running = {place: run for place, run in runs if run}
        self._slots = max(self._slots, jobs(self._begun({})))

    def of(self, *statuses: str) -> list[str]:
        """The cells with one of these statuses."""
        return [place for place, found in self.found.items() if found.status in statuses]

    def left(self) -> str:
        """The time that the cells take which have not ended, if there is anything to tell it."""
        past = [found.past for found in self.found.values() if found.past]
        asked = [(run.asked.unit, run.asked.amount) for run in past]
        asked += [(run.live.unit, run.live.amount) for run in self.running.values() if run.live]
        waiting = self.of("queued", "missing", "unreadable")
        if not asked or not (waiting or self.running):
            return ""
        ((unit, amount), _), *_ = Counter(asked).most_common(1)
        wanted = {place: plan.wanted(place, unit=unit, amount=amount) for place in self.found}
        begun = self._begun(wanted)
        seconds = left(begun, [wanted[place] for place in waiting], past, slots=self._slots)
        if seconds is None:
            return ""
        many = jobs(begun)
        text = self._countdown.text(seconds, cells=len(self.found), slots=many)
        return f"; {text}" + (f", {many} at a time" if many else " if started")

    def _begun(self, wanted: Mapping[str, Wanted | None]) -> list[tuple[Wanted | None, Running]]:
        return [(wanted.get(place), run) for place, run in self.running.items()]


def main(argv: Sequence[str] | None = None) -> None:
    """Look once, or until all cells have ended, and end with whether they are all ok."""
    parser = arguments.parser("status", __doc__)
    parser.add_argument("directory", type=Path, help="a sweep's directory")
    parser.add_argument(
        "--watch", action="store_true", help="until every cell has ended, or the sweep has"
    )
    parser.add_argument("--all", action="store_true", help=f"name more than {SHOWN} cells a kind")
    given = parser.parse_args(argv)
    most = sys.maxsize if given.all else SHOWN
    look = Look(given.directory)
    if given.watch:
        _watch(look, most)
    print("\n".join(_text(look, most)))
    sys.exit(len(look.of(*FINE)) < len(look.found))


def _watch(look: Look, most: int) -> None:
    """Show the cells until they have ended, or nothing has run for a while.

    Where there is no terminal, a line is printed when something changes.
    """
    console, told, busy = Console(), "", time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            if console.is_terminal:
                live.update(Text("\n".join(_text(look, most))), refresh=True)
            elif (line := plan.tally(found.status for found in look.found.values())) != told:
                print(line, flush=True)
                told = line
            if look.of("running", "queued"):
                busy = time.monotonic()
            if not look.of("running", "queued", "missing") or time.monotonic() - busy > QUIET:
                break
            time.sleep(EVERY)
            look.refresh()


def _text(look: Look, most: int) -> Iterator[str]:
    counts = plan.tally(found.status for found in look.found.values())
    yield f"{look.root}: {len(look.found)} cells: {counts}{look.left()}"
    blocks = {
        "running": [_at(*item) for item in look.running.items()],
        "failed or diverged": [_why(look, name) for name in look.of(*ENDED[1:])],
        "unreadable, to be run again": [
            f"  {name}: {printable(look.found[name].error)}" for name in look.of("unreadable")
        ],
        NOT_NEEDED: [f"  {name}: {look.found[name].error}" for name in look.of(NOT_NEEDED)],
        "queued": [f"  {name}" for name in look.of("queued")],
        "missing": [f"  {name}" for name in look.of("missing")],
    }
    for title, lines in blocks.items():
        if lines:
            rows = (row for line in _some(lines, most) for row in line.split("\n"))
            yield from ["", title, *map(printable, rows)]  # names may be a stranger's


def _some(items: Sequence[str], most: int) -> list[str]:
    rest = len(items) - most
    return [*items[:most], *([f"  and {rest} more (--all names them)"] if rest > 0 else [])]


def _at(place: str, run: Running) -> str:
    host, when = run.holder.host.partition(" ")[0], run.holder.since
    since = time.strftime(" since %H:%M:%S", time.localtime(when)) if when else ""
    return f"  {run.slot} on {host}{since}: {place}" + (f": {run.live.text()}" if run.live else "")


def _why(look: Look, place: str) -> str:
    """A cell that failed: its last words, and how to run it again."""
    found, overrides = look.found[place], []
    with suppress(UserError):
        overrides = read(look.root / place).overrides
    began = plan.command(look.root, place)
    command = rerun_command(overrides, sweep=str(look.root), command=began)
    return f"  {found.status} {place}: {last_line(found.error)}\n    {command}"
