"""Score ensembles of finished runs that differ in their seed alone; trains nothing.

    finegrid ensemble multirun/paper1 --out ensembles.csv

An ensemble's prediction is by the mean of its members' logits; its cost is theirs together.
"""

from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments
from finegrid.runs.text import markdown_table
from finegrid.storage.files import whole

HEAD = ["task", "model", "fraction", "method", "runs", "mean alone", "best alone", "ensemble"]
COSTS = ["stored bytes", "training s"]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and print the table."""
    parser = arguments.parser("ensemble", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run or sweep directories")
    parser.add_argument("--out", type=Path, help="CSV file with a row an ensemble")
    arguments.add_restoring(parser)
    given = parser.parse_args(argv)

    from finegrid.analysis import ensemble
    from finegrid.analysis.weights import finished

    found = ensemble.table(finished(given.runs), model_path=given.model_path, allow=given.allow)
    if given.out is not None:
        with whole(given.out) as draft:
            found.to_csv(draft, index=False)
    lines = [
        [
            *(str(row[name]) for name in (*ensemble.NAMES, "runs")),
            *(f"{row[name]:.4f}" for name in ("mean", "best", "ensemble")),
            f"{row['delta_bytes']:,}",
            f"{row['train_seconds']:.1f}",
        ]
        for row in found.to_dict("records")
    ]
    print(markdown_table([*HEAD, *COSTS], lines))
