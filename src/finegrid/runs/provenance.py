"""Provenance of a run: versions, git commit, command line and time, as fields of its record."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finegrid import __version__
from finegrid.runs.record import command_line
from finegrid.runs.text import alone, config_dir

PACKAGES = ("torch", "pytorch-lightning", "transformers", "datasets", "torchmetrics", "hydra-core")


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def facts(arguments: Sequence[str] | None) -> dict[str, Any]:
    """Versions, git state and command line, as fields of a record.

    A cell of a sweep is run again by its own `arguments`; its process may have others, of which
    it shares the folder of `--config-dir`.
    """
    if arguments is not None:
        arguments = [*config_dir(sys.argv), *arguments, *alone(arguments)]
    commit, dirty = _git()
    versions = {name: version(name) for name in PACKAGES}
    return {
        "versions": {"finegrid": __version__, "python": platform.python_version(), **versions},
        "git_commit": commit,
        "git_dirty": dirty,
        "command": command_line(arguments),
    }


@cache
def _git() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the code, if it is a checkout."""
    here = Path(__file__).parents[1]
    try:
        commit = _ask_git(here, "rev-parse", "HEAD")
        return commit, bool(_ask_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _ask_git(where: Path, *words: str) -> str:
    command = ["git", "-C", str(where), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
