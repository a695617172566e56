"""Send finished runs to Weights & Biases.

    finegrid sync multirun/grid --project mine

What was sent is marked in the run's directory and not sent again, unless its record has changed.
WANDB_MODE=offline writes W&B's files below ./wandb for `wandb sync` instead.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.tracking import wandb_sync


def main(argv: Sequence[str] | None = None) -> None:
    """Find the runs, leave out those that were sent, send the rest."""
    given = _arguments(argv)
    os.environ.setdefault("WANDB_SILENT", "true")
    target = wandb_sync.Target(given.project, given.entity, tuple(given.files))
    places = wandb_sync.finished(given.directories)
    waiting = wandb_sync.waiting(places, target)
    print(f"{target.name}: {len(waiting)} of {len(places)} runs to send")
    if given.dry_run:
        for place in waiting:
            run = wandb_sync.stored(place)
            print(f"{run.cell}  {run.record.status:<8}  {run.group}  {run.name}")
        return
    left_out = []
    sent = wandb_sync.send(waiting, target, rate=given.rate)
    for place, why in tqdm(sent, total=len(waiting), unit="run", disable=None):
        if why:
            left_out.append(f"{place}: {why}")
    if left_out:
        raise UserError(f"{len(left_out)} runs were left out, such as {left_out[0]}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("sync", __doc__)
    parser.add_argument("directories", type=Path, nargs="+", help="sweep or run directories")
    parser.add_argument("--project", required=True, help="W&B project; made if there is none")
    parser.add_argument("--entity", help="W&B user or team; your own if not given")
    parser.add_argument(
        "--rate", type=_rate, default=1.0, help="runs a second at most, such as 2 or 0.5/s"
    )
    parser.add_argument(
        "--files", nargs="+", default=[], help="files of a run to send too, such as record.json"
    )
    parser.add_argument("--dry-run", action="store_true", help="name the runs and send nothing")
    return parser.parse_intermixed_args(argv)


def _rate(text: str) -> float:
    rate = float(text.removesuffix("/s"))
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return rate
