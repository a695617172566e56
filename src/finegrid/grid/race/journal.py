"""race.jsonl: what a race decided, by which numbers; a header, then a line a ranking and look.

A directory may hold several sweeps: what is there of rankings that share no cell with this race
stays. `declared` lists every `max_seeds` that was declared for some of a ranking's cells, the last
one last: more seeds after a look at all of them are no fresh test.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from finegrid.errors import UserError
from finegrid.grid.race.decide import Rule
from finegrid.grid.race.track import Look, Track
from finegrid.grid.stages import RANKING
from finegrid.report.load.races import LARGEST, SCHEMA
from finegrid.runs import layout
from finegrid.storage.files import content, write_atomic


def write(root: Path, rule: Rule, tracks: Sequence[Track]) -> None:
    """Write the file whole, unless it says the same already.

    Raises:
        UserError: if one is there that no race wrote.
    """
    path = root / layout.RACE
    before, there = _read(path)
    ours = {key for track in tracks for key in _keys(track)}
    lines = [line for line in there if ours.isdisjoint(_cells(line))]
    declared = {rule.looks[-1]: None}
    for track in tracks:
        so_far = _declared(rule, track, there)
        declared |= dict.fromkeys(so_far)
        lines += [line | {"declared": so_far} for line in _lines(rule, track)]
    header = {
        "schema": SCHEMA, "question": rule.question, "alpha": rule.alpha, "margin": rule.margin,
        "futility": rule.futility, "max_seeds": rule.looks[-1], "looks": list(rule.looks),
        "declared": sorted(declared),
    }  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in (header, *lines)).encode()
    if lines and text != before:
        write_atomic(path, text)


def _read(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """What is there, and its lines without the header."""
    try:
        before = content(path, LARGEST)
    except FileNotFoundError:
        return b"", []
    try:
        _, *lines = map(json.loads, before.decode().splitlines())
        for line in lines:
            set(_cells(line)), list(map(int, line["declared"]))
        return before, lines
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not what a race writes ({error!r:.60}); remove it") from error


def _declared(rule: Rule, track: Track, there: Sequence[Mapping[str, Any]]) -> list[int]:
    """Every max_seeds that was declared for a ranking's cells, this race's last."""
    ours = set(_keys(track))
    earlier = [line["declared"] for line in there if not ours.isdisjoint(_cells(line))]
    known = dict.fromkeys(seeds for several in earlier for seeds in several)
    return [*(seeds for seeds in known if seeds != rule.looks[-1]), rule.looks[-1]]


def _cells(line: Mapping[str, Any]) -> Iterator[str]:
    return (str(cell) for method in line["methods"] for cell in method["cells"])


def _keys(track: Track) -> Iterator[str]:
    return (cell.key for several in track.cells.values() for cell in several.values() if cell)


def _lines(rule: Rule, track: Track) -> Iterator[dict[str, Any]]:
    for number, look in enumerate(track.looks):
        facts = next(cell.facts for several in look.cells.values() for cell in several)
        yield {
            "ranking": {name: facts[name] for name in RANKING},
            "look": number + 1,
            "seeds": rule.looks[number],
            "level": _number(rule.levels[number]),
            "leader": look.decision.leader,
            "methods": list(_methods(look)),
            "decided": look.decision.decided,
        }


def _methods(look: Look) -> Iterator[Mapping[str, Any]]:
    """A method that has stopped stands as it did when it stopped."""
    for method, one in look.decision.standings.items():
        numbers = {name: getattr(one, name) for name in ("difference", "low", "high", "chance")}
        cells = [cell.key for cell in look.cells[method]]
        rounded = {name: _number(value) for name, value in numbers.items()}
        yield {"method": method, "state": one.state, "cells": cells} | rounded


def _number(value: float) -> float | None:
    """Six digits, so that two machines write the same; null where there is none."""
    return float(f"{value:.6g}") if isfinite(value) else None
