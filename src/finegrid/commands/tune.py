"""Choose every method's learning rate from the trials of experiment=tune.

    finegrid tune multirun/tune --out conf/tuned/mine.yaml

For each method the rate with the best mean validation score is picked; a file in conf/tuned/ is
then used with `finegrid train --config-dir conf tuned=mine`.
"""

from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.report.load import rankings
from finegrid.storage.files import write_atomic
from finegrid.tuning import search, write


def main(argv: Sequence[str] | None = None) -> None:
    """Read the records below the directories, print Markdown and write the rates."""
    parser = arguments.parser("tune", __doc__)
    parser.add_argument("directories", type=Path, nargs="+", help="sweep directories of one search")
    parser.add_argument("--out", type=Path, help="the rates, such as conf/tuned/NAME.yaml")
    parser.add_argument(
        "--unequal", action="store_true", help="compare methods with unequal numbers of trials"
    )
    given = parser.parse_args(argv)
    if given.out and given.out.suffix != ".yaml":
        raise UserError(f"--out {given.out} must end in .yaml, as conf/tuned/NAME.yaml does")
    runs = [run for directory in given.directories for run in rankings.read_records(directory)]
    trials = search.search(runs, unequal=given.unequal)
    print(write.markdown(trials))
    if given.out:
        command = arguments.command("tune", argv)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(given.out, write.overlay(trials, given.out.stem, command).encode())
        use = f"--config-dir {given.out.parent.parent} tuned={given.out.stem}"
        print(f"\n{given.out}: use it with finegrid train {use}")
