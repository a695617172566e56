"""Choose every method's learning rate: `python scripts/tune.py multirun/tune --out FILE.yaml`.

Reads the trials of experiment=tune and picks, for each method, the rate with the best mean
validation score; FILE.yaml in conf/tuned/ is then used with `python train.py tuned=FILE`.
"""

import finegrid.quiet  # noqa: F401

# isort: split
import argparse
import shlex
import sys
from pathlib import Path

from finegrid import cli
from finegrid.errors import UserError
from finegrid.report.load import rankings
from finegrid.storage.files import write_atomic
from finegrid.tuning import search, write


def main() -> None:
    """Read the records below the directories, print Markdown and write the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directories", type=Path, nargs="+", help="sweep directories of one search")
    parser.add_argument("--out", type=Path, help="the rates, such as conf/tuned/NAME.yaml")
    parser.add_argument(
        "--unequal", action="store_true", help="compare methods with unequal numbers of trials"
    )
    given = parser.parse_args()
    if given.out and given.out.suffix != ".yaml":
        raise UserError(f"--out {given.out} must end in .yaml, as conf/tuned/NAME.yaml does")
    runs = [run for directory in given.directories for run in rankings.read_records(directory)]
    trials = search.search(runs, unequal=given.unequal)
    print(write.markdown(trials))
    if given.out:
        command = shlex.join(["python", "scripts/tune.py", *sys.argv[1:]])
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(given.out, write.overlay(trials, given.out.stem, command).encode())
        print(f"\n{given.out}: use it with python train.py tuned={given.out.stem}")


if __name__ == "__main__":
    cli.guard(main)
