"""How many bytes the cells of a sweep will write, told before they are written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.grid.eta import Evidence, Wanted
from finegrid.grid.expand import Cell
from finegrid.grid.job import heavy
from finegrid.runs.text import size

SMALL = 1 << 30  # bytes up to which the largest that it can be is told, and nothing is counted
BESIDE = 50_000  # bytes of a cell beside its delta: predictions of some thousand rows, logs, config
WARNING = (
    "warning: that is more than the disk has; store=bfloat16 halves the deltas, store=none keeps "
    "none of them"
)
BYTES = {"float32": 4, "bfloat16": 2, "none": 0}  # store -> of a number


@dataclass(frozen=True)
class Disk:
    """What cells will write, and what the disk has."""

    bytes: int
    bound: bool  # they write no more; what some of them do was not counted
    free: int
    unknown: int = 0  # cells of models whose size nothing tells

    def text(self) -> str:
        """A line for people; a second one where the disk has less."""
        about = "at most" if self.bound else "about"
        more = f" and the deltas of {self.unknown} cells, of unknown size" if self.unknown else ""
        line = f"disk: {about} {size(self.bytes)}{more} to write, {size(self.free)} free"
        return line if self.bytes <= self.free else f"{line}\n{WARNING}"


def of_cells(cells: Sequence[Cell], evidence: Evidence, root: Path) -> Disk:
    """What cells will write below a directory.

    A delta is as large as those of past runs alike. Where there are none it is as large as the
    model, at most; if that comes to much, what the methods train is counted (which imports torch).
    """
    known = [_known(cell, evidence) for cell in cells]
    unknown = [cell for cell, bytes_ in zip(cells, known, strict=True) if bytes_ is None]
    sizes = [_largest(cell) for cell in unknown]
    bound = bool(sizes)
    if sum(sizes) > SMALL or not all(sizes):
        sizes, bound = _counted(unknown), False
    told = sum(bytes_ or 0.0 for bytes_ in known)
    total = int(told + sum(sizes)) + BESIDE * len(cells)
    return Disk(total, bound=bound, free=_free(root), unknown=sizes.count(0.0))


def _known(cell: Cell, evidence: Evidence) -> float | None:
    return evidence.stored(Wanted.of(cell.facts)) if cell.config["store"] != "none" else 0.0


def _largest(cell: Cell) -> float:
    return float(cell.config["model"]["parameters"] or 0) * BYTES[cell.config["store"]]


def _counted(cells: Sequence[Cell]) -> list[float]:
    """The deltas' sizes, by the shapes of what each method trains on each model."""
    counts: dict[str, float] = {}
    for cell in cells:
        what: dict[str, Any] = {key: cell.config[key] for key in ("method", "model", "store")}
        if (key := repr(what)) not in counts:
            counts[key] = _count(cell)
    return [counts[repr({k: c.config[k] for k in ("method", "model", "store")})] for c in cells]


def _count(cell: Cell) -> float:
    config = RunConfig.of(OmegaConf.create(cell.config))
    try:
        return float(heavy("training.components").stored_bytes(config, BYTES[config.store]))
    except UserError:  # an architecture that only files elsewhere tell of
        return _largest(cell)


def _free(root: Path) -> int:
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
