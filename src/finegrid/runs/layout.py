"""A run's directory: how it is named, which files it holds, how runs are found below a directory.

A run of a sweep lies in `<task>/<model>/<method>/f<fraction>-s<seed>[-<axis><value>...]-<cell>`
below the sweep's directory, a run by itself wherever Hydra's output directory is.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrid.errors import is_name, slug

# Files of a run
RECORD = "record.json"
DELTA = "delta.safetensors"
PREDICTIONS = "predictions.parquet"
STATISTIC = "stat_"  # begins the names of its columns of numbers whose sums decide a metric
CURVE = "curve.csv"
LIVE = "live.json"  # while it trains: step, loss, last score; see runs/live
DISTANCES = "distances.csv"  # of finegrid analyse --beside
CONFIG = ".hydra/config.yaml"
OVERRIDES = ".hydra/overrides.yaml"
LOG = "run.log"
OUTPUT = "output.log"  # what a job of a sweep prints
LOCK = ".claim-"  # and a number: a lock file, see grid/locks
SYNCED = ".wandb-synced"
# Without the record, which comes first, the rest is nothing
RESULTS = (RECORD, DELTA, PREDICTIONS, CURVE, LIVE)
# Of a sweep
RACE = "race.jsonl"  # who was stopped when, by which numbers; see report/load/races
PLANS = ".sweeps"  # each sweep's command and cells
JOBS = ".groups"  # what each job is to run
PRECISION = "precision-"  # and a device: a file of PLANS, what `trainer.precision=auto` means

FOREIGN = "wandb"  # directory of W&B's own copies of a run's files
LONGEST = 200  # bytes of a directory's name without the cell's hash
DEPTH = 4  # of a run's directory below its sweep's
PATH = re.compile(r"([^/]+)/([^/]+)/([^/]+)/f([0-9.e-]+)-s(\d{1,9})[^/]*$")


@dataclass(frozen=True)
class RunPath:
    """What the path of a sweep's run tells of the run."""

    task: str
    model: str
    method: str
    fraction: float
    seed: int


def run_name(facts: Mapping[str, Any], labels: Iterable[str] = ()) -> str:
    """A run's directory below its sweep's, without the cell's hash.

    Args:
        facts: fields of a record.
        labels: values of axes that the fields do not tell, such as `lr0.001`.
    """
    last = "-".join([f"f{facts['fraction']:g}", f"s{facts['seed']}", *labels])
    return f"{facts['task']}/{facts['model']}/{facts['method']}/{slug(last, LONGEST)}"


def with_cell(name: str, cell: str) -> str:
    """A run's directory below its sweep's: its name and the cell's hash."""
    return f"{name}-{cell}"


def cell_of(directory: str | Path) -> str:
    """The cell's hash, which ends the name of a sweep's run."""
    return str(directory).rpartition("-")[2]


def parse(directory: str | Path) -> RunPath | None:
    """What a path tells of its run; None if it is not one of a sweep's run."""
    if not (match := PATH.search(str(directory))):
        return None
    task, model, method, fraction, seed = match.groups()
    try:
        path = RunPath(task, model, method, float(fraction), int(seed))
    except ValueError:
        return None
    return path if all(map(is_name, (task, model, method))) else None


def run_directories(
    root: Path | str, *, begun: bool = False, leave_out: Collection[Path] = ()
) -> Iterator[Path]:
    """The directories that hold a record, `root` included and those below it, in order of name.

    Hidden directories are not entered, nor are links. One that may not be looked into counts among
    the runs: its record is not readable.

    Args:
        root: where to begin; nothing is found in what is not there.
        begun: count directories with a lock file but no record too.
        leave_out: directories that are not entered.
    """
    apart = {os.path.realpath(path) for path in leave_out}
    yield from map(Path, _run_directories(str(root), begun, apart))


def _run_directories(root: str, begun: bool, apart: set[str]) -> Iterator[str]:
    if apart and os.path.realpath(root) in apart:
        return
    try:
        with os.scandir(root) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:
        yield root
        return
    except (FileNotFoundError, NotADirectoryError):
        return
    if any(entry.name == RECORD or (begun and entry.name.startswith(LOCK)) for entry in entries):
        yield root
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name == FOREIGN
        if not hidden and entry.is_dir(follow_symlinks=False):
            yield from _run_directories(entry.path, begun, apart)


def sweep_directories(root: Path, below: str = "", depth: int = DEPTH) -> Iterator[str]:
    """Names relative to a sweep's directory of all that stands where its runs do.

    They are not looked into, so that 10,000 are listed within a second.
    """
    try:
        entries = list(os.scandir(root / below))
    except OSError:
        return
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if depth == 1:
            yield name
        elif entry.is_dir():
            yield from sweep_directories(root, name, depth - 1)
