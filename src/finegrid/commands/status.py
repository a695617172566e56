"""What has become of a sweep, while it runs or later; ends with 0 if every cell is ok.

    finegrid status multirun/grid --watch

Reads DIR/.sweeps, the records and the claims; writes nothing.
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
from finegrid.grid import locks, plan
from finegrid.grid.eta import Evidence, Past, makespan, past_run
from finegrid.grid.progress import last_line
from finegrid.grid.status import ENDED, Outcome, outcome
from finegrid.runs.record import read
from finegrid.runs.text import duration, rerun_command

EVERY = 2.0  # seconds between looks
QUIET = 120.0  # seconds in which nothing runs after which a sweep is taken to have ended
SHOWN = 20  # cells of each kind, unless all are asked for


class Look:
    """What is known of the cells of a directory; records that say `ok` are read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._past: dict[str, Past] = {}
        self.found: dict[str, Outcome] = {}
        self.refresh()

    def refresh(self) -> None:
        """Bring it up to date."""
        at, before = time.time(), self.found
        self.found = {place: before.get(place, Outcome("")) for place in plan.places(self.root)}
        for place, found in self.found.items():
            if found.status != "ok":
                self.found[place] = outcome(self.root / place, at=at)
                if self.found[place].status == "ok" and (run := past_run(self.root / place)):
                    self._past[place] = run

    def of(self, *statuses: str) -> list[str]:
        """The cells with one of these statuses."""
        return [place for place, found in self.found.items() if found.status in statuses]

    def running(self) -> Mapping[str, locks.Holder]:
        """Who runs which cell."""
        holders = ((place, locks.holder(self.root / place)) for place in self.of("running"))
        return {place: holder for place, holder in holders if holder}

    def left(self) -> float | None:
        """Seconds that the cells take which have not ended, with as many at a time as run now."""
        runs = list(self._past.values())
        if not runs:
            return None
        asked = Counter((run.asked.unit, run.asked.amount) for run in runs)
        ((unit, amount), _), evidence, now = asked.most_common(1)[0], Evidence(runs), time.time()
        running, seconds = self.running(), []
        for place in self.of("running", "missing", "unreadable"):
            wanted = plan.wanted(place, unit=unit, amount=amount)
            estimate = evidence.estimate(wanted) if wanted else None
            since = running[place].since or now if place in running else now
            if estimate:
                seconds.append(max(0.0, estimate.seconds - (now - since)))
        return makespan(seconds, max(1, len(running)))


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
    sys.exit(len(look.of("ok")) < len(look.found))


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
            if look.of("running"):
                busy = time.monotonic()
            if not look.of("running", "missing") or time.monotonic() - busy > QUIET:
                break
            time.sleep(EVERY)
            look.refresh()


def _text(look: Look, most: int) -> Iterator[str]:
    counts = plan.tally(found.status for found in look.found.values())
    yield f"{look.root}: {len(look.found)} cells: {counts}{_left(look)}"
    running, failed, missing = look.running(), look.of(*ENDED[1:]), look.of("missing")
    unreadable = [
        f"  {name}: {printable(look.found[name].error)}" for name in look.of("unreadable")
    ]
    if running:
        yield from ["", "running", *_some([_at(*item) for item in running.items()], most)]
    if failed:
        yield from ["", "failed or diverged", *_some([_why(look, name) for name in failed], most)]
    if unreadable:
        yield from ["", "unreadable, to be run again", *_some(unreadable, most)]
    if missing:
        yield from ["", "missing", *_some([f"  {name}" for name in missing], most)]


def _left(look: Look) -> str:
    seconds = look.left() if look.of("running", "missing") else None
    if seconds is None:
        return ""
    many = len(look.of("running"))
    return f"; about {duration(seconds)} left" + (f", {many} at a time" if many else " if started")


def _some(items: Sequence[str], most: int) -> list[str]:
    rest = len(items) - most
    return [*items[:most], *([f"  and {rest} more (--all names them)"] if rest > 0 else [])]


def _at(place: str, holder: locks.Holder) -> str:
    host = holder.host.partition(" ")[0]
    slot = holder.slot or f"process {holder.pid}"
    since = time.strftime(" since %H:%M:%S", time.localtime(holder.since)) if holder.since else ""
    return f"  {slot} on {host}{since}: {place}"


def _why(look: Look, place: str) -> str:
    """A cell that failed: its last words, and how to run it again."""
    found, overrides = look.found[place], []
    with suppress(UserError):
        overrides = read(look.root / place).overrides
    command = rerun_command(overrides, sweep=str(look.root))
    return f"  {found.status} {place}: {last_line(found.error)}\n    {command}"
