"""Run every cell of a grid, each a job: `finegrid sweep` is `finegrid train -m`."""

import sys
from collections.abc import Sequence

from finegrid.commands import train


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cells that have no record yet."""
    train.main(["-m", *(sys.argv[1:] if argv is None else argv)])
