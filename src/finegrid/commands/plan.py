"""What a sweep would run, and for how long. Starts nothing and writes nothing.

    finegrid plan method=full,bitfit,lora seed=0,1,2

Prints which cells are done, the time left and the bytes to write, estimated from the records in
the sweep's own directory, in known=, below multirun/ and below every --records, or from the
runs.parquet of a report.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrid.commands import arguments, overrides
from finegrid.errors import require
from finegrid.grid import disk, eta, refusals
from finegrid.grid.disk import Disk
from finegrid.grid.eta import Estimate, Evidence, Past, Wanted, past
from finegrid.grid.expand import Cell
from finegrid.grid.left import engines
from finegrid.grid.plan import Plan, planned, tally
from finegrid.grid.status import STATUSES
from finegrid.runs.text import aligned, duration
from finegrid.storage.paths import CONF

ROWS = 60  # a longer table counts the methods and does not name them


@dataclass(frozen=True)
class Line:
    """A cell, what is known of it, whether the sweep would run it and what it would take."""

    cell: Cell
    directory: str
    status: str
    todo: bool
    estimate: Estimate | None


def main(argv: Sequence[str] | None = None) -> None:
    """Compose the cells, look at their directories, print."""
    given = _arguments(argv)
    full = overrides.complete(given.overrides, folder=given.config_dir or "")
    plan = planned([*full, *_searched(given.config_dir)], conf=CONF)
    known = eta.of_known(plan.store.known)
    evidence = Evidence(past(plan.root), known, _elsewhere(plan.root, given.records))
    lines = list(_lines(plan, evidence))
    refusals.check([line.cell.config for line in lines if line.todo])
    times = engines([line.estimate.seconds for line in lines if line.estimate], plan.slots)
    space = disk.of_cells([line.cell for line in lines if line.todo], evidence, plan.root)
    if given.json:
        print(json.dumps(_plain(plan, lines, times, space), indent=1))
        return
    left = _left(plan, lines, times, evidence)
    print("\n".join([*_head(plan, lines), "", *_table(lines), "", *left]))
    if space.bytes:
        print(space.text())
    if given.list:
        print("\n".join(["", *(f"{line.status:<8} {line.directory}" for line in lines)]))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("plan", __doc__)
    parser.add_argument("overrides", nargs="*", help="as for finegrid sweep: method=full seed=0,1")
    parser.add_argument("-m", "--multirun", action="store_true", help="understood, not needed")
    parser.add_argument("--list", action="store_true", help="print every cell as well")
    parser.add_argument("--json", action="store_true", help="print all of it for machines")
    parser.add_argument(
        "--records", type=Path, action="append", default=[], help="more results: directory, table"
    )
    parser.add_argument("--config-dir", "-cd", type=Path, help="more options, as for train")
    given, more = parser.parse_known_intermixed_args(argv)
    given.overrides += more  # `--method=full`, which is told what it should be
    return given


def _searched(folder: Path | None) -> list[str]:
    """What Hydra makes of --config-dir, as an override."""
    return [f"hydra.searchpath=['file://{folder.resolve()}']"] if folder else []


def _elsewhere(root: Path, named: Sequence[Path]) -> list[Past]:
    """Past runs outside the sweep's directory, each once."""
    found = past(Path("multirun"), but=[root, *named])
    for path in named:
        require(path.exists(), f"--records {path}: no such file or directory")
        found += past(path, but=[root]) or eta.of_tables(path)
    return found


def _lines(plan: Plan, evidence: Evidence) -> Iterator[Line]:
    """Every cell; those that the sweep would not run take no time."""
    for cell, place, found in plan.found():
        todo = plan.todo(found)
        estimate = evidence.estimate(Wanted.of(cell.facts)) if todo else None
        yield Line(cell, place, found.status, todo, estimate)


def _head(plan: Plan, lines: Sequence[Line]) -> list[str]:
    counts = tally((line.status for line in lines), missing="to run")
    todo = sum(line.todo for line in lines)
    head = f"{plan.root}: {len(lines)} cells: {counts}"
    if not plan.stages.adaptive:
        return [head, f"this command would run {todo} of them (retry={plan.retry})"]
    return [
        f"{plan.root}: at most {plan.stages.most} cells, likely {plan.stages.likely}; by now:",
        head,
        f"this command would begin with {todo} of them (retry={plan.retry})",
    ]


def _table(lines: Sequence[Line]) -> list[str]:
    """Done and all cells of each task, model and method."""
    groups = _grouped(lines, ("task", "model", "method"))
    if len(groups) > ROWS:
        groups = _grouped(lines, ("task", "model"))
    others = [status for status in STATUSES[1:-1] if any(line.status == status for line in lines)]
    rows = [["task", "model", "method", "done", *others, "left"]]
    for (task, model, *method), group in groups.items():
        counts = Counter(line.status for line in group)
        named = method or [f"{len({line.cell.facts['method'] for line in group})} methods"]
        cells = [f"{counts['ok']}/{len(group)}", *(str(counts[status]) for status in others)]
        rows.append([task, model, *named, *cells, _sum(group)])
    return list(_columns(rows, left=3))


def _grouped(lines: Iterable[Line], keys: Sequence[str]) -> dict[tuple[str, ...], list[Line]]:
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(line.cell.facts[key] for key in keys), []).append(line)
    return groups


def _sum(group: Sequence[Line]) -> str:
    """The time of a group's cells one by one."""
    todo = [line for line in group if line.todo]
    known = [line.estimate.seconds for line in todo if line.estimate]
    if not todo:
        return "-"
    return duration(sum(known)) + (" + ?" if len(known) < len(todo) else "") if known else "?"


def _columns(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Rows as lines whose columns line up."""
    return ("  ".join(row).rstrip() for row in aligned(rows, left=left))


def _left(
    plan: Plan, lines: Sequence[Line], times: dict[str, float], evidence: Evidence
) -> Iterator[str]:
    """The time left with each engine, and what that is told from."""
    todo = [line for line in lines if line.todo]
    kinds = Counter(line.estimate.kind for line in todo if line.estimate)
    unknown = len(todo) - kinds.total()
    if times:
        yield "time left, about"
        rows = [(f"  {_named(name, plan)}", duration(time)) for name, time in times.items()]
        yield from _columns(rows, left=1)
        runs = ", ".join(f"{count} on {device}" for device, count in evidence.devices.items())
        cells = ", ".join(f"{kind} for {count}" for kind, count in kinds.most_common())
        yield f"told from past runs ({runs or 'none'}): {cells}"
    if unknown:
        yield f"unknown: {unknown} cells, as there is no past run of their model; see --records"
    elif not todo:
        yield "nothing is left to run"


def _named(engine: str, plan: Plan) -> str:
    return f"{engine}: {plan.slots[engine]}" if engine in plan.slots else engine


def _plain(
    plan: Plan, lines: Sequence[Line], times: dict[str, float], space: Disk
) -> dict[str, Any]:
    """All of it for machines."""
    todo = [line for line in lines if line.todo]
    counts = Counter(line.status for line in lines)
    kinds = Counter(line.estimate.kind if line.estimate else "unknown" for line in todo)
    return {
        "directory": str(plan.root),
        "retry": plan.retry,
        "total": len(lines),
        "most": plan.stages.most,
        "likely": plan.stages.likely,
        "counts": {status: counts[status] for status in STATUSES},
        "todo": len(todo),
        "seconds": times,
        "slots": plan.slots,
        "evidence": dict(kinds),
        "disk": {"bytes": space.bytes, "at_most": space.bound, "free": space.free},
        "cells": [_plain_cell(line) for line in lines],
    }


def _plain_cell(line: Line) -> dict[str, Any]:
    estimate = line.estimate
    return {
        "cell": line.cell.key,
        "directory": line.directory,
        "status": line.status,
        "todo": line.todo,
        "seconds": estimate.seconds if estimate else None,
        "evidence": estimate.kind if estimate else None,
        "overrides": line.cell.overrides,
    }
