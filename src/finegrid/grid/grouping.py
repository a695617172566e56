"""Which cells of a sweep may share passes through one backbone, and go into one job."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finegrid.errors import require
from finegrid.grid.expand import Cell
from finegrid.grid.status import Store
from finegrid.storage.files import write_atomic

MOST = 8  # cells of a job: they would all be lost with it
# W&B has one run a process
LOGGERS = (None, "finegrid.tracking.loggers.csv_logger", "finegrid.tracking.csv_logger")
FREE = {"seed": "", "trial": "", "method": "", "tuned": "", "code": ""}  # what may differ in a pass


def size_of(fuse: str | int, *, cells: int, slots: int | None) -> int:
    """Cells of a job: as asked for, or so that every slot gets some and losses stay small.

    Raises:
        UserError: for a `fuse` that is neither `auto` nor a number from 1 on.
    """
    if fuse == "auto":
        return 1 if slots is None else max(1, min(MOST, -(-cells // (2 * slots))))
    good = isinstance(fuse, int) and not isinstance(fuse, bool) and fuse > 0
    require(good, f"fuse={fuse} must be auto or a number of at least 1")
    return int(fuse)


def grouped(cells: Sequence[Cell], *, fuse: str | int, slots: int | None) -> list[list[Cell]]:
    """The cells by job, those that take longest first."""
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[_kind(cell)].append(cell)
    jobs: list[list[Cell]] = []
    for kind, members in alike.items():
        size = size_of(fuse, cells=len(members), slots=slots) if kind.startswith("{") else 1
        longest = sorted(members, key=lambda cell: -cell.facts["fraction"])  # stable: seeds last
        jobs += [longest[start : start + size] for start in range(0, len(longest), size)]
    return jobs


def _kind(cell: Cell) -> str:
    """What cells must have in common; a cell that shares with none gets a name of its own."""
    plain = cell.config
    shares = (
        plain["method"].get("fuses", False)
        and plain["model"]["pretrained"]
        and plain["frozen_dropout"]  # without it the layers that cells would share need not run
        and plain["trainer"].get("kernels", True)  # which divide a pass among the cells
        and plain["budget"].get("seconds") is None  # a run's seconds would be its neighbours' too
        and (plain.get("logger") or {}).get("_target_") in LOGGERS
    )
    if not shares:
        return cell.key
    optim = {key: value for key, value in plain["optim"].items() if key != "lr"}
    data = {key: value for key, value in plain["data"].items() if key != "fraction"}
    return json.dumps({**plain, "optim": optim, "data": data, **FREE}, sort_keys=True, default=str)


def write(path: Path, cells: Iterable[Cell], store: Store, before: Mapping[str, str]) -> None:
    """Say what the cells of a job are, and of each key which record was there `before`."""
    told = [
        {
            "directory": str(store.path(cell)),
            "overrides": list(cell.overrides),
            "config": _told(cell.config),
            "before": before[cell.key],
        }
        for cell in cells
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(told).encode())


def read(path: Path) -> Iterator[tuple[Path, list[str], dict[str, Any], str]]:
    """(directory, overrides, config, record before) of each cell of a job."""
    for cell in json.loads(path.read_text(encoding="utf-8")):
        yield Path(cell["directory"]), cell["overrides"], cell["config"], cell["before"]


def _told(plain: dict[str, Any]) -> dict[str, Any]:
    """A resolved config, in which a trial still has to refer to the recipe for its rate."""
    if plain["trial"] is None:
        return plain
    return plain | {"optim": plain["optim"] | {"lr": "${recipe:lr}"}}
