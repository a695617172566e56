"""The parser of a subcommand's arguments: its module's docstring is what `--help` says."""

import argparse
import shlex
import sys
from collections.abc import Collection, Sequence

from finegrid.errors import UserError, nearest


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


def add_mixing(to: argparse.ArgumentParser, fields: Collection[str]) -> None:
    """Add the option that puts runs of several settings together."""
    add_names(to, "--mix", fields, "what may differ within a comparison")


def add_names(to: argparse.ArgumentParser, flag: str, known: Collection[str], about: str) -> None:
    """Add an option that takes some of the known names, between commas."""

    def names(text: str) -> list[str]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        for name in given:
            if name not in known:
                raise UserError(f"unknown {flag} {name}; {nearest(name, known)}")
        return given

    to.add_argument(flag, type=names, default=[], help=f"{about}, of {', '.join(known)}")


def command(name: str, argv: Sequence[str] | None) -> str:
    """The command line of `finegrid NAME` with these arguments, or with this process's."""
    return shlex.join(["finegrid", name, *(sys.argv[1:] if argv is None else argv)])
