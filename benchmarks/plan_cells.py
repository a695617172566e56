"""What it takes to plan, resume and look at a grid of 10,000 cells of which half are done.

python benchmarks/plan_cells.py

The directories are made up, in a temporary folder. `plan` is finegrid plan, `status` is
finegrid status, and `resume` is what train.py -m does before its first job: each in a process of
its own, imports included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from finegrid.config import register_resolvers
from finegrid.grid.expand import Cell
from finegrid.grid.plan import planned
from finegrid.runs.layout import PLANS
from finegrid.runs.record import Record
from finegrid.storage.paths import CONF

ROOT = Path(__file__).parents[1]
GRID = ["method=glob(*)", "task=glob(*,exclude=custom)", "model=tiny", "data.fraction=0.1,0.3,1"]
RESUME = """
import sys
from pathlib import Path
from finegrid.storage.paths import CONF
from finegrid.config import register_resolvers
from finegrid.grid.plan import planned
from finegrid.grid.sweep import Sweep
register_resolvers()
plan = planned(sys.argv[1:], conf=CONF)
sweep = Sweep(plan.stages, plan.store, retry=plan.retry, fail_fast=None)
print(len(sweep.unsettled()), "to run")
"""


def main() -> None:
    """Make the directories, then time each command and print one Markdown row for it."""
    register_resolvers()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*GRID, "seed=range(9)", f"hydra.sweep.dir={folder}"]
        plan = planned(overrides, conf=CONF)
        for number, cell in enumerate(plan.cells):
            if number % 2:
                _write(cell, plan.root / cell.directory)
        listed = {"command": "", "cells": [cell.directory for cell in plan.cells]}
        (plan.root / PLANS).mkdir()
        (plan.root / PLANS / "made_up.json").write_text(json.dumps(listed), encoding="utf-8")
        print(f"{len(plan.cells)} cells, {len(plan.cells) // 2} done\n")
        print("| command | wall s | CPU s | peak MiB |\n|---|---:|---:|---:|")
        _row("plan", ["-m", "finegrid", "plan", *overrides])
        _row("resume", ["-c", RESUME, *overrides])
        _row("status", ["-m", "finegrid", "status", folder])


def _write(cell: Cell, directory: Path) -> None:
    """A record as a run leaves it."""
    record = Record(**cell.facts, overrides=list(cell.overrides), status="ok", device="made up")
    record.train_rows, record.steps, record.epochs = 3000, 300, 3.0
    record.setup_seconds, record.train_seconds, record.eval_seconds = 2.0, 60.0, 8.0
    record.metrics = {split: {"accuracy": 0.8, "f1": 0.8} for split in ("validation", "test")}
    directory.mkdir(parents=True)
    record.write(directory)


def _row(name: str, arguments: Sequence[str]) -> None:
    """Run a command and print what it took."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    said = process.stdout.read().splitlines()
    _, _, used = os.wait4(process.pid, 0)
    wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
    print(f"| {name} | {wall:.1f} | {cpu:.1f} | {used.ru_maxrss / 1024:.0f} |", flush=True)
    print("\n".join(said[:1]), file=sys.stderr)


if __name__ == "__main__":
    main()
