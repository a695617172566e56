"""Compare the runs of a sweep; without --out the tables go to the terminal.

    finegrid report multirun/grid --out report

With --out a report is written: a page, tables, figures, and runs.parquet, which later stands for
the directories: it holds their predictions, and no text. The trials of a search, which have no row
in it, lie in trials.jsonl beside it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.report import write
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.report.load.rankings import PARQUET
from finegrid.runs import trials
from finegrid.storage.files import write_atomic

MANY = 1000  # runs from which on a terminal is told how far the reading is


def main(argv: Sequence[str] | None = None) -> None:
    """Read the records below the directories, compare, and print or write."""
    given = _parser().parse_args(argv)
    if given.format and not given.out:
        raise UserError(
            f"--format {','.join(given.format)} says what to write; name a directory with --out"
        )
    if not 0.5 < given.level < 1:
        raise UserError(f"--level {given.level:g} must lie between 0.5 and 1, such as 0.95")
    runs = rankings.load(given.directories, tell=_progress("reading"))
    made = Comparison.of(runs, mix=given.mix, level=given.level, tell=_progress("comparing"))
    if given.out is None:
        print(write.markdown(made))
        return
    written = list(write.write(made, given.out, given.format or write.USUAL))
    kept: set[str] = set()
    if PARQUET in {path.name for path in written}:
        kept = set(trials.lines(given.directories, searched=runs.attrs["trials"] > 0))
    if kept:
        written.append(given.out / trials.FILE)
        write_atomic(written[-1], "".join(f"{line}\n" for line in sorted(kept)).encode())
    first = max(written, key=lambda path: path.name == "report.html", default=None)
    print(f"wrote {first} and {len(written) - 1} other files" if first else "nothing to write")


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser("report", __doc__)
    parser.add_argument(
        "directories", type=Path, nargs="+", help="sweep or run directories, or a runs.parquet"
    )
    parser.add_argument("--out", type=Path, help="directory of the report")
    arguments.add_names(
        parser, "--format", write.FORMATS, "what to write, all but pdf unless told otherwise"
    )
    arguments.add_mixing(parser, rankings.FIELDS)
    parser.add_argument("--level", type=float, default=0.95, help="of intervals and of ties")
    return parser


def _progress(doing: str) -> Callable[[int], None]:
    """Tells a terminal how many runs are done, if there are many."""
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if done > MANY and sys.stderr.isatty() and time.monotonic() - last > 0.2:
            last = time.monotonic()
            print(f"\r{doing}: {done:,} runs", end="\033[K\r", file=sys.stderr, flush=True)

    return tell
