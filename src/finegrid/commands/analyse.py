"""Measure finished runs in parameter space; prints Markdown, trains nothing.

    finegrid analyse multirun/paper2 --out analysis

How far each layer moved and in how many directions, what masks removed, and what the updates of
runs that differ in their seed or task alone have in common.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.storage.files import whole


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, print Markdown and write CSV files."""
    given = _arguments(argv)

    from finegrid.analysis import interpolation, markdown, measure, overlap
    from finegrid.analysis.weights import Weights, finished

    records = finished(given.runs)
    weights = Weights(model_path=given.model_path, allow=given.allow)
    pairs = overlap.pairs(records, every=given.pairs == "all")
    lines = [(a, b) for a, b in pairs if given.interpolate and records[a].task == records[b].task]
    if given.interpolate and not lines:
        raise UserError("--interpolate needs two runs that differ in their seed; see --pairs all")
    several = []
    for directory, frames in measure.runs(weights, records, embeddings=given.embeddings):
        several.append(frames)
        _write(given.out and given.out / measure.folder(records[directory]), frames)
        _write(directory if given.beside else None, {"distances": frames["distances"]})
    print(markdown.of_runs(several))
    if pairs:
        common = measure.between(weights, records, pairs, overlap.table)
        _write(given.out, {"overlap": common})
        print(f"\n{markdown.of_pairs(common)}")
    if lines:
        table = partial(interpolation.table, points=given.points, where=given.split)
        scores = measure.between(weights, records, lines, table)
        _write(given.out, {"interpolation": scores})
        print(f"\n{markdown.of_lines(scores)}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("analyse", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run or sweep directories")
    parser.add_argument("--out", type=Path, help="CSV files: a folder a run, those of pairs above")
    parser.add_argument(
        "--beside",
        action="store_true",
        help="distances.csv into each run's own directory too, where finegrid report finds it",
    )
    parser.add_argument("--embeddings", action="store_true", help="spectra of the embeddings too")
    parser.add_argument(
        "--pairs",
        choices=("like", "all"),
        default="like",
        help="like: runs that differ in seed or task alone; all: any two of one model",
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="score the lines between pairs of one task"
    )
    parser.add_argument("--points", type=int, default=11, help="of each line, its ends included")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    arguments.add_restoring(parser)
    return parser.parse_args(argv)


def _write(folder: Path | None, frames: Mapping[str, Any]) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        with whole(folder / f"{name}.csv") as draft:
            frame.to_csv(draft, index=False)
