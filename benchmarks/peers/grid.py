"""A whole grid on two cores: one sweep of ours against a process a cell of the peers."""

import itertools
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from peers import cell, page, rows
from peers.processes import Cost, environment, measured, note, output

SLOTS = 2


@dataclass(frozen=True)
class Way:
    """How many of a peer's cells run at a time, with how many threads each."""

    processes: int
    threads: int

    @classmethod
    def of(cls, text: str) -> "Way":
        """Read `2x1`."""
        processes, threads = text.split("x")
        return cls(int(processes), int(threads))

    def __str__(self) -> str:
        return f"{self.processes} at a time, {self.threads} thread{'s' * (self.threads > 1)} each"


Spent = dict[tuple[str, str], list[Cost]]  # (contender, way) -> what its grids cost


def table(given: Namespace) -> str:
    """Measure and describe."""
    spent: Spent = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        place = {"task": given.task, "model": given.model}
        shared = {f: rows.fraction(work / f, share=f, **place) for f in given.fraction}
        for _ in range(given.rounds):
            for options in given.ours:
                cost = _sweep(given, options, work)
                spent.setdefault((cell.ours(options), f"one sweep, {SLOTS} slots"), []).append(cost)
            for name, way in itertools.product(given.peers, map(Way.of, given.ways)):
                cost = _peers(given, shared, name, way, work)
                spent.setdefault((name, str(way)), []).append(cost)
    return _table(given, spent)


def _sweep(given: Namespace, options: str, work: Path) -> Cost:
    """One multirun of ours."""
    axes = {"method": given.method, "data.fraction": given.fraction, "seed": given.seed}
    env = environment(1, work / "cache")
    with tempfile.TemporaryDirectory(dir=work) as directory:
        line = ["train.py", "-m", *(f"{key}={','.join(values)}" for key, values in axes.items())]
        line += [
            f"hydra.launcher.cpu_slots={SLOTS}",
            f"hydra.sweep.dir={directory}",
            "report=false",
        ]
        with measured() as cost:
            output([sys.executable, *line, *cell.common(given, options)], env)
        found = [json.loads(path.read_text()) for path in Path(directory).rglob("record.json")]
    good = [record for record in found if record["status"] == "ok"]
    assert len(good) == cells(given), f"{len(good)} cells are ok"
    note(f"{cell.ours(options)}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU-s")
    return cost


def _peers(
    given: Namespace, shared: dict[str, rows.Shared], name: str, way: Way, work: Path
) -> Cost:
    """A peer's cells, or a sample of their seeds, whose cost is then scaled up.

    A sample's wall time is the sum of its cells' over those at a time, as if they packed perfectly.
    """
    seeds = given.seed[: given.peer_sample]
    env = environment(way.threads, work / "cache")
    commands = [
        cell.trainer(given, shared[fraction], name, method, seed)
        for fraction, method, seed in itertools.product(given.fraction, given.method, seeds)
    ]
    with measured() as cost, ThreadPoolExecutor(way.processes) as pool:
        walls = list(pool.map(lambda command: _timed(command, env), commands))
    note(f"{name}, {way}: {len(commands)} cells, {cost.wall:.1f} s, {cost.cpu:.1f} CPU-s")
    if len(seeds) == len(given.seed):
        return cost
    scale = len(given.seed) / len(seeds)
    return Cost(scale * sum(walls) / way.processes, scale * cost.cpu)


def _timed(command: Sequence[str], env: dict[str, str]) -> float:
    began = time.monotonic()
    output(command, env)
    return time.monotonic() - began


def cells(given: Namespace) -> int:
    """How many cells the grid has."""
    return len(given.method) * len(given.fraction) * len(given.seed)


def _table(given: Namespace, spent: Spent) -> str:
    variants = [(name, way) for name, way in spent if name not in given.peers]
    faster = [f"{name} faster, wall" for name, _ in variants]
    lines = []
    for (name, way), costs in spent.items():
        walls = [cost.wall for cost in costs]
        over = [page.spread(page.ratios(walls, [c.wall for c in spent[v]])) for v in variants]
        own = [page.middle(walls), page.middle([cost.cpu for cost in costs])]
        lines.append([name, way, *own, *(over if name in given.peers else ["" for _ in over])])
    titles = ["contender", "way", "wall s", "CPU s", *faster]
    return f"{_about(given)}:\n\n{page.table(titles, lines)}"


def _about(given: Namespace) -> str:
    run = len(given.seed[: given.peer_sample])
    axes = f"{', '.join(given.method)} x {', '.join(given.fraction)} x {len(given.seed)} seeds"
    lacking = [method for method in given.method if cell.stand_in(given, method) != method]
    return (
        f"{given.task}, {cells(given)} cells ({axes}), {given.epochs} epochs, {SLOTS} cores"
        + (f"; peers: {run} of the seeds ran, scaled up" if run < len(given.seed) else "")
        + (f"; peers' {lacking[0]} is their bitfit" if lacking else "")
    )
