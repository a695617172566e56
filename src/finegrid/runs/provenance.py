"""What a run ran on: device, versions, code. Facts that make a number checkable later."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from finegrid import __version__
from finegrid.config import TrainerConfig, require
from finegrid.runs.record import command_line

PACKAGES = ("torch", "pytorch-lightning", "transformers", "datasets", "torchmetrics", "hydra-core")


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def facts(arguments: Sequence[str] | None) -> dict[str, Any]:
    """Versions, git state and command line, as fields of a record.

    A cell of a sweep is run again by its own `arguments`; its process may have others.
    """
    commit, dirty = _git()
    versions = {name: version(name) for name in PACKAGES}
    return {
        "versions": {"finegrid": __version__, "python": platform.python_version(), **versions},
        "git_commit": commit,
        "git_dirty": dirty,
        "command": command_line(arguments),
    }


def accelerator(trainer: TrainerConfig) -> str:
    """Lightning's name of the device that a run uses: `gpu` or `cpu`.

    Raises:
        UserError: if a CUDA device is asked for and there is none.
    """
    cuda = torch.cuda.is_available()
    require(
        cuda or trainer.device != "cuda",
        "trainer.device=cuda, but torch sees no CUDA device; use trainer=auto, "
        "or install a CUDA build of torch (see README)",
    )
    return "gpu" if cuda and trainer.device != "cpu" else "cpu"


def precision(trainer: TrainerConfig) -> str:
    """`32`, or `bf16-mixed`: bf16 arithmetic with fp32 weights for all that trains."""
    if trainer.precision != "auto":
        return trainer.precision
    return "bf16-mixed" if fast_bf16(accelerator(trainer)) else "32"


def fast_bf16(accelerator: str) -> bool:
    """Whether the device multiplies bf16 matrices in hardware made for it: tensor cores, or AMX."""
    if accelerator == "gpu":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def device(trainer: TrainerConfig) -> str:
    """Name of the device: the GPU's, or the CPU's architecture."""
    if accelerator(trainer) == "gpu":
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()}"


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
