"""Live progress of a sweep while it runs, and its final summary."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finegrid.errors import printable
from finegrid.grid import locks
from finegrid.grid.expand import Cell
from finegrid.grid.status import ENDED, Outcome, Store
from finegrid.runs.text import duration, rerun_command

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
FAILURES = ("failed", "diverged")
SHARE = 0.05  # of the time may go into looking


@dataclass
class Progress:
    """How far a set of cells has come; `look` brings it up to date."""

    cells: Sequence[Cell]
    store: Store
    settled: Callable[[Cell], Outcome | None]  # how a cell ended, or None
    ends: dict[str, str] = field(default_factory=dict)  # key -> status
    running: dict[str, list[str]] = field(default_factory=dict)  # slot -> cells
    news: list[str] = field(default_factory=list)  # failures not told yet
    looked: bool = False
    fresh: int = 0  # cells that ended while we looked
    began: float = field(default_factory=time.monotonic)
    latest: float = 0.0  # when a cell was last seen to end

    def look(self) -> None:
        """Read what has changed since the last look."""
        running: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell.key in self.ends:
                continue
            if (found := self.settled(cell)) is not None:
                self.ends[cell.key] = found.status
                if self.looked:
                    self.fresh, self.latest = self.fresh + 1, time.monotonic()
                    self._tell(cell, found)
            elif holder := self._holder(cell):
                running.setdefault(holder.slot or f"process {holder.pid}", []).append(cell.name)
        self.running, self.looked = running, True

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

    def _holder(self, cell: Cell) -> locks.Holder | None:
        directory = self.store.path(cell)
        return locks.holder(directory) if locks.alive(directory) else None

    def line(self) -> str:
        """Counts and the time left, for one line."""
        counts = Counter(self.ends.values())
        ended = [f"{counts[status]} {status}" for status in ENDED if counts[status]]
        parts = [f"{len(self.ends)}/{len(self.cells)} cells", *ended]
        count = sum(map(len, self.running.values()))
        parts += [f"{count} running"] if count else []
        return ", ".join([*parts, *self._left()])

    def _left(self) -> list[str]:
        """The time left: as long a cell as those took that ended; it falls between two ends."""
        missing = len(self.cells) - len(self.ends)
        if not self.fresh or not missing:
            return []
        left = (self.latest - self.began) / self.fresh * missing
        return [f"about {duration(max(0.0, left - (time.monotonic() - self.latest)))} left"]


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
    slots = [
        Text(f"  {slot:<8} {_names(cells)}") for slot, cells in sorted(progress.running.items())
    ]
    return Group(bar, *slots)


def _names(cells: Sequence[str]) -> str:
    """The first of a slot's cells, and how many share its passes."""
    return cells[0] + (f" and {len(cells) - 1} more" if len(cells) > 1 else "")


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


def closing(store: Store, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> str:
    """The table at a sweep's end: how many ended how, what failed, and how to run it again."""
    counts = Counter(found.status for found in outcomes)
    each = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    lines = [f"{len(outcomes)} cells in {store.root}: {each}"]
    for cell, found in zip(cells, outcomes, strict=True):
        if found.status in FAILURES:
            lines.append(f"  {found.status} {store.place(cell)}: {last_line(found.error)}")
            lines.append(f"    {rerun_command(cell.overrides, sweep=str(store.root))}")
    return "\n".join(lines)


def last_line(text: str) -> str:
    """The last line of a message or traceback, which says what happened."""
    return printable(text.strip().rpartition("\n")[2])
