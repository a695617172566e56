"""The parser of a subcommand's arguments: its module's docstring is what `--help` says."""

import argparse
import shlex
import sys
from collections.abc import Sequence


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser for `finegrid NAME`; its description keeps its lines."""
    return argparse.ArgumentParser(
        prog=f"finegrid {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_restoring(to: argparse.ArgumentParser) -> None:
    """Add the options with which a finished run's model is restored."""
    to.add_argument("--model-path", help="where the run's backbone lies now")
    to.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the run's method or kind of task comes from",
    )


def command(name: str, argv: Sequence[str] | None) -> str:
    """The command line of `finegrid NAME` with these arguments, or with this process's."""
    return shlex.join(["finegrid", name, *(sys.argv[1:] if argv is None else argv)])
