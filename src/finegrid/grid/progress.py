"""Live progress of a sweep while it runs, and its final summary."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finegrid.errors import printable
from finegrid.grid.eta import Past, Wanted
from finegrid.grid.expand import Cell
from finegrid.grid.left import Countdown, Running, jobs, left
from finegrid.grid.status import KNOWN, NOT_NEEDED, STATUSES, Outcome, Store
from finegrid.runs.live import LiveRun
from finegrid.runs.text import rerun_command

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
FAILURES = ("failed", "diverged")
SHARE = 0.05  # of the time may go into looking


@dataclass
class Progress:
    """How far a set of cells has come; `look` brings it up to date."""

    cells: Sequence[Cell]
    store: Store
    settled: Callable[[Cell], Outcome | None]  # how a cell ended, or None
    most: Callable[[], int] | None = None  # cells at most, where records decide how many
    ends: dict[str, str] = field(default_factory=dict)  # key -> status
    running: dict[str, Running] = field(default_factory=dict)  # key -> who runs it
    past: list[Past] = field(default_factory=list)  # of cells that ended
    news: list[str] = field(default_factory=list)  # failures not told yet
    looked: bool = False
    slots: int = 0  # jobs that were seen at one time, at most
    countdown: Countdown = field(default_factory=Countdown)

    def look(self) -> None:
        """Read what has changed since the last look."""
        running: dict[str, Running] = {}
        for cell in list(self.cells):  # more may come meanwhile
            if cell.key in self.ends:
                continue
            if (found := self.settled(cell)) is not None:
                self.ends[cell.key] = found.status
                self.past += [found.past] if found.past else []
                if self.looked:
                    self._tell(cell, found)
            elif run := Running.of(self.store.path(cell)):
                running[cell.key] = run
        self.running, self.looked = running, True
        self.slots = max(self.slots, jobs(self._begun()))

    def _tell(self, cell: Cell, found: Outcome) -> None:
        if found.status not in FAILURES:
            return
        bad = sum(status in FAILURES for status in self.ends.values())
        cause = last_line(found.error)
        self.news.append(f"{found.status}: {self.store.place(cell)}: {cause} ({bad} so far)")

    def told(self) -> Iterator[str]:
        """The failures since the last call, a line each."""
        while self.news:
            yield self.news.pop(0)

    def line(self) -> str:
        """Counts and the time left, for one line."""
        counts = Counter(self.ends.values())
        running, queued = len(self.running), len(self._queued())
        counts |= {"running": running, "queued": queued}
        each = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
        most = f" (at most {self.most()})" if self.most else ""
        total = f"{len(self.ends)}/{len(self.cells)} cells{most}"
        return ", ".join([total, *each, *self._left()])

    def slot_lines(self) -> list[str]:
        """What each slot is at: its cell, how many share its passes, how far they have come."""
        slots: dict[str, list[tuple[str, LiveRun | None]]] = {}
        for cell in self.cells:
            if run := self.running.get(cell.key):
                slots.setdefault(run.slot, []).append((cell.name, run.live))
        return [f"{slot:<8} {_at(cells)}" for slot, cells in sorted(slots.items())]

    def _queued(self) -> list[Cell]:
        return [c for c in self.cells if c.key not in self.ends and c.key not in self.running]

    def _begun(self) -> list[tuple[Wanted | None, Running]]:
        facts = {cell.key: cell.facts for cell in self.cells if cell.key in self.running}
        return [(Wanted.of(facts[key]), run) for key, run in self.running.items()]

    def _left(self) -> list[str]:
        """The time left, if there is anything to tell it from."""
        waiting: list[Wanted | None] = [Wanted.of(cell.facts) for cell in self._queued()]
        begun = self._begun()
        seconds = left(begun, waiting, self.past, slots=self.slots) if begun else None
        if seconds is None:
            return []
        return [self.countdown.text(seconds, cells=len(self.cells), slots=jobs(begun))]


def _at(cells: Sequence[tuple[str, LiveRun | None]]) -> str:
    """The first of a slot's cells, preferably one that trains, and how many share its job."""
    name, live = next((one for one in cells if one[1]), cells[0])
    more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
    return f"{name}{more}" + (f": {live.text()}" if live else "")


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Show a sweep's progress on stderr while the block runs, from a thread of its own."""
    over = threading.Event()
    console = Console(stderr=True)
    show = _live if console.is_terminal else _plain
    thread = threading.Thread(target=show, args=(progress, console, over), daemon=True, name="view")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _looks(progress: Progress, over: threading.Event, least: float) -> Iterator[None]:
    """Look now, again and again, and once more at the end; seldom, where looking is slow."""
    ending = False
    while True:
        began = time.monotonic()
        progress.look()
        yield
        if ending:
            return
        ending = over.wait(max(least, (time.monotonic() - began) / SHARE))


def _live(progress: Progress, console: Console, over: threading.Event) -> None:
    with Live(console=console, auto_refresh=False) as live:
        for _ in _looks(progress, over, 0.5):
            for line in progress.told():
                console.print(line, markup=False, highlight=False)
            live.update(_block(progress), refresh=True)


def _block(progress: Progress) -> Group:
    """A bar with counts, and below it what each slot is at."""
    bar = Table.grid(padding=(0, 1))
    total, done = len(progress.cells), len(progress.ends)
    bar.add_row(ProgressBar(total=total, completed=done, width=30), progress.line())
    return Group(bar, *(Text(f"  {line}") for line in progress.slot_lines()))


def _plain(progress: Progress, console: Console, over: threading.Event) -> None:
    told, when = "", 0.0
    for _ in _looks(progress, over, 1.0):
        for failure in progress.told():
            print(failure, file=sys.stderr, flush=True)
        line = progress.line()
        due = over.is_set() or time.monotonic() - when >= LINE_EVERY
        if due and line != told:
            print(line, file=sys.stderr, flush=True)
            told, when = line, time.monotonic()


def closing(
    store: Store,
    cells: Sequence[Cell],
    outcomes: Sequence[Outcome],
    *,
    command: str,
    spared: Mapping[str, str],
) -> str:
    """The table at a sweep's end: how many ended how, what failed, and how to run it again."""
    counts = Counter(found.status for found in outcomes)
    counts |= Counter(f"{NOT_NEEDED} ({why})" for why in spared.values())
    counts |= {"ok (known)": sum(found.version == KNOWN for found in outcomes)}
    counts["ok"] -= counts["ok (known)"]
    each = ", ".join(f"{count} {end}" for end, count in sorted(counts.items()) if count)
    lines = [f"{len(outcomes) + len(spared)} cells in {store.root}: {each}"]
    for cell, found in zip(cells, outcomes, strict=True):
        if found.status in FAILURES and not found.fine:
            lines.append(f"  {found.status} {store.place(cell)}: {last_line(found.error)}")
            again = rerun_command(cell.overrides, sweep=str(store.root), command=command)
            lines.append(f"    {again}")
    return "\n".join(lines)


def last_line(text: str) -> str:
    """The last line of a message or traceback, which says what happened."""
    return printable(text.strip().rpartition("\n")[2])
