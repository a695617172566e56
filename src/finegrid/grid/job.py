"""A job of a sweep: the cells it is to run, how it is told of them, and how it runs them.

The sweep writes the jobs of a launch to one file, a line of JSON each. The variable `FINEGRID_JOB`
names the file and the line's first byte, whatever launcher starts the job and however many cells it
has. A cell's config travels resolved; what Hydra composes for the job serves Hydra's files alone.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from finegrid.config import TrainerConfig, bind
from finegrid.errors import one_of
from finegrid.grid import locks, status
from finegrid.grid.expand import Cell
from finegrid.grid.status import Store
from finegrid.runs import layout, saved_config
from finegrid.runs.record import clear
from finegrid.runs.spec import RunSpec
from finegrid.storage.files import content, create_once, write_atomic

VARIABLE = "FINEGRID_JOB"
PRECISIONS = ("32", "bf16-mixed")  # that `auto` may mean
SLOT = "FINEGRID_SLOT"  # name of the slot that a job runs on, for whoever looks on


@dataclass(frozen=True)
class JobCell:
    """One cell of a job."""

    directory: Path
    overrides: list[str]
    config: dict[str, Any]  # resolved
    before: str  # version of the record that was there when the sweep began


@dataclass(frozen=True)
class Job:
    """What a job is to run."""

    sweep: str  # the sweep's id, by which its locks are known
    root: Path  # the sweep's directory
    cells: list[JobCell]


def write(
    path: Path,
    groups: Sequence[Sequence[Cell]],
    store: Store,
    before: Mapping[str, str],
    *,
    sweep: str,
) -> list[str]:
    """Write the jobs of a launch; returns the value of `FINEGRID_JOB` for each.

    Args:
        path: the file.
        groups: the cells of each job.
        store: the sweep's directory.
        before: cell -> version of the record that was there when the sweep began.
        sweep: the sweep's id.
    """
    lines, starts, size = [], [], 0
    for group in groups:
        cells = [
            {
                "directory": str(store.path(cell)),
                # what the sweep was given is no part of the run, and a path of this machine
                "overrides": [line for line in cell.overrides if not line.startswith("known=")],
                "config": saved_config.with_recipe(cell.config),
                "before": before[cell.key],
            }
            for cell in group
        ]
        told = {"sweep": sweep, "root": str(store.root), "cells": cells}
        lines.append(json.dumps(told).encode() + b"\n")
        starts.append(f"{path}:{size}")
        size += len(lines[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, b"".join(lines))
    return starts


def read(told: str) -> Job:
    """The job that a value of `FINEGRID_JOB` names."""
    name, _, start = told.rpartition(":")
    with open(name, "rb") as file:
        file.seek(int(start))
        values = json.loads(file.readline())
    cells = [JobCell(**cell | {"directory": Path(cell["directory"])}) for cell in values["cells"]]
    return Job(values["sweep"], Path(values["root"]), cells)


def run(job: Job) -> None:
    """Run the cells of a job, but for those that another process holds or has ended.

    Raises:
        Exception: whatever ended a cell that is alone in its job; its record says so too.
    """
    with ExitStack() as stack:
        held = list(_held(job, stack))
        if not held:
            return
        specs = [
            RunSpec.of(
                OmegaConf.create(cell.config),
                cell.directory,
                cell.overrides,
                sweep=job.root.name,
                still_owner=lock.held,
                key=layout.cell_of(cell.directory),
                precision=decided_precision(job.root, cell.config["trainer"]),
            )
            for cell, lock in held
        ]
        if len(job.cells) == 1:
            heavy("strategies.single").run(specs[0])
        else:
            fuse = job.cells[0].config["fuse"]
            most = None if fuse == "auto" else fuse
            output = Path(HydraConfig.get().runtime.output_dir)
            heavy("strategies.fused_trainer").run_group(specs, most=most, job=output)


def decided_precision(root: Path, asked: Mapping[str, Any]) -> str:
    """The precision of a run of a sweep: what `auto` means is decided once in its directory.

    The first job chooses by what its machine is fast at; all others, on whatever machine and in
    however many resumed commands, do alike, so that a grid is never mixed.

    Args:
        root: the sweep's directory.
        asked: the run's settings of the trainer.
    """
    trainer = bind(TrainerConfig, asked, "trainer")
    if trainer.precision != "auto":
        return trainer.precision
    device = heavy("training.device")
    path = root / layout.PLANS / f"{layout.PRECISION}{device.accelerator(trainer)}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_once(path, device.precision(trainer).encode())
    choice = content(path, 100).decode()
    one_of(str(path), choice, PRECISIONS)
    return choice


def keep_precision(root: Path, precision: str) -> bool:
    """Let `auto` mean a precision in a sweep's directory; false if that was decided before."""
    if precision not in PRECISIONS:
        return False
    places = [root / layout.PLANS / f"{layout.PRECISION}{device}" for device in ("cpu", "gpu")]
    return any([create_once(path, precision.encode()) for path in places])


def _held(job: Job, stack: ExitStack) -> Iterator[tuple[JobCell, locks.CellLock]]:
    """The cells that are still to be run, each with its lock, which is released with the stack."""
    for cell in job.cells:
        if (lock := _locked(cell, job.sweep)) is not None:
            yield cell, stack.enter_context(lock)


def _locked(cell: JobCell, sweep: str) -> locks.CellLock | None:
    """The lock of a cell that is still to be run; none if another has it or has ended the cell."""
    directory, slot = cell.directory, os.environ.get(SLOT, "")
    while (lock := locks.acquire(directory, sweep=sweep, slot=slot)) is None:
        holder = locks.holder(directory)
        if holder is None or holder.sweep != sweep:
            return None
        time.sleep(1.0)  # this very job, requeued elsewhere: its first try is not stale yet
    retry = str(cell.config["retry"])
    if status.settled(status.outcome(directory), retry=retry, before=cell.before):
        lock.release()
        return None
    clear(directory)  # of an earlier try
    return lock


def heavy(name: str) -> Any:
    """A module of finegrid that imports torch and Lightning.

    Nothing that they make becomes garbage, so the collector need not look through it, neither
    meanwhile nor afterwards: that saves a tenth of the import's time.
    """
    path = f"finegrid.{name}"
    if path in sys.modules:
        return sys.modules[path]
    gc.disable()
    try:
        return import_module(path)
    finally:
        gc.freeze()
        gc.enable()
