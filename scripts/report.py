"""Print the comparison tables of a sweep: `python scripts/report.py DIRECTORY`."""

import argparse
from pathlib import Path

from finegrid import cli
from finegrid.report import frame, tables


def main() -> None:
    """Read the records below the directories and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", type=Path, nargs="+", help="sweep or run directories")
    given = parser.parse_args()
    runs = [run for directory in given.directories for run in frame.records(directory)]
    print(tables.markdown(frame.frame(runs)))


if __name__ == "__main__":
    cli.guard(main)
