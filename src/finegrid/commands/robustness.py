"""Score finished runs on their test rows with some words misspelt; prints Markdown, trains nothing.

    finegrid robustness multirun/paper1 --out edited.csv

The edits are fixed: the same for every run, so that methods can be compared.
"""

from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments
from finegrid.runs.text import markdown_table
from finegrid.storage.files import whole


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and print the table."""
    parser = arguments.parser("robustness", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run or sweep directories")
    parser.add_argument(
        "--share", type=float, default=0.1, help="of a text's words of four letters or more"
    )
    parser.add_argument(
        "--votes", type=int, default=0, help="predict by so many masked and refilled copies too"
    )
    parser.add_argument("--masked", type=float, default=0.3, help="share of a copy's words")
    parser.add_argument("--out", type=Path, help="CSV file with a row a run")
    arguments.add_restoring(parser)
    given = parser.parse_args(argv)

    from finegrid.analysis import robustness
    from finegrid.analysis.weights import finished

    edits = robustness.Edits(given.share, given.votes, given.masked)
    how = {"model_path": given.model_path, "allow": given.allow}
    runs = robustness.table(finished(given.runs), edits, **how)
    if given.out is not None:
        with whole(given.out) as draft:
            runs.to_csv(draft, index=False)
    print(markdown_table(*robustness.means(runs)))
