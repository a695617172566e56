"""Which cells of a sweep may share passes through one backbone, and go into one job."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from finegrid.errors import require
from finegrid.grid.expand import Cell
from finegrid.models.layered import LAYERED
from finegrid.runs import settings

MOST = 8  # cells of a job: they would all be lost with it
ONE_A_PROCESS = "wandb_logger"  # W&B has one run a process
# What each run of a pass has for itself
APART = (
    "seed", "trial", "method", "tune", "tuned", "code", "optim.lr", "data.fraction", "data.rows",
)  # fmt: skip


def jobs_of(fuse: str | int, *, cells: int, slots: int | None) -> int:
    """Jobs for some cells: of `fuse` cells at most, or so many that every slot gets as many jobs.

    Raises:
        UserError: for a `fuse` that is neither `auto` nor a number from 1 on.
    """
    if fuse == "auto":
        if slots is None:
            return cells
        return min(cells, slots * max(2, -(-cells // (MOST * slots))))
    good = isinstance(fuse, int) and not isinstance(fuse, bool) and fuse > 0
    require(good, f"fuse={fuse} must be auto or a number of at least 1")
    return -(-cells // int(fuse))


def grouped(cells: Sequence[Cell], *, fuse: str | int, slots: int | None) -> list[list[Cell]]:
    """The cells by job, those that take longest first."""
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[_kind(cell)].append(cell)
    jobs: list[list[Cell]] = []
    for kind, members in alike.items():
        many, shares = len(members), kind.startswith("{")
        count = jobs_of(fuse, cells=many, slots=slots) if shares else many
        longest = sorted(members, key=lambda cell: -cell.facts["fraction"])  # stable: seeds last
        jobs += [longest[at * many // count : (at + 1) * many // count] for at in range(count)]
    return jobs


def _kind(cell: Cell) -> str:
    """What cells must have in common; a cell that shares with none gets a name of its own."""
    plain = cell.config
    shares = (
        plain["method"].get("fuses", False)
        and plain["model"]["pretrained"]
        and _layered(plain["model"])  # else a job's cells would run one after the other
        and plain["frozen_dropout"]  # without it the layers that cells would share need not run
        and plain["trainer"].get("kernels", True)  # which divide a pass among the cells
        and (plain.get("semi") or {}).get("name", "none") == "none"  # its batches change on the way
        and not plain["trainer"].get("gradient_checkpointing")  # a pass holds one cell's layers
        and plain["budget"].get("seconds") is None  # a run's seconds would be its neighbours' too
        and not str((plain.get("logger") or {}).get("_target_")).endswith(ONE_A_PROCESS)
    )
    if not shares:
        return cell.key
    return json.dumps(settings.without(plain, APART), sort_keys=True, default=str)


def _layered(model: dict[str, Any]) -> bool:
    """Whether a model's YAML leaves it open that runs can share it."""
    named = (model.get("architecture") or {}).get("model_type")
    return named is None or named in LAYERED
