"""Commands as users meet them: run in this process where that is enough, else in one of their own.

A process spends seconds on imports, so `call` starts one only for a sweep whose launcher forks, for
what is said of imports, and for W&B (it reads its environment once). tests/test_cli.py and
tests/test_faults.py hold what processes alone show: exit codes, signals, a quiet end.
"""

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import IO

import pytest
from conftest import ROOT, clean_process

from finegrid import cli

ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
for name in ("FINEGRID_DATA_DIR", "FINEGRID_MODEL_DIR", "HYDRA_FULL_ERROR"):
    ENV.pop(name, None)
TRAIN = ROOT / "train.py"
Result = subprocess.CompletedProcess[str]


def call(*args: str, command: str = "", imports: bool = False, process: bool = False) -> Result:
    """Run a subcommand of finegrid, or train.py; `imports` names on stderr what it imports."""
    sweep = command == "sweep" or ("-m" in args and command in ("", "train"))
    forks = sweep and "hydra/launcher=basic" not in args
    if not (forks or imports or process or command in ("sync", "workspace")):
        return _here(command, args)
    start = ["-m", "finegrid", command] if command else [str(TRAIN)]
    return subprocess.run(
        [sys.executable, *(["-X", "importtime"] if imports else []), *start, *args],
        capture_output=True, text=True, env=ENV, cwd=ROOT, check=False,
    )  # fmt: skip


def errors(result: Result) -> list[str]:
    """What a failed call says, less Hydra's line that repeats the overrides."""
    lines = result.stderr.strip().splitlines()
    return [line for line in lines if not line.startswith("Error executing job")]


def _here(command: str, args: tuple[str, ...]) -> Result:
    argv = ["finegrid", command, *args] if command else [str(TRAIN), *args]
    run = cli.main if command else partial(runpy.run_path, str(TRAIN), run_name="__main__")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with _as_alone(argv), redirect_stdout(out), redirect_stderr(err):
            code = _code(run, err)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    return subprocess.CompletedProcess(argv, code, *texts)


def _code(run: Callable[[], object], err: IO[str]) -> int:
    """The exit code of a command, and on stderr what Python prints when it ends."""
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=err)
            return 1
        return end.code or 0
    except Exception:
        traceback.print_exc(file=err)
        return 1
    return 0


@contextmanager
def _as_alone(argv: list[str]) -> Iterator[None]:
    """A command's arguments, directory and environment; what it leaves behind goes with it."""
    with pytest.MonkeyPatch.context() as patch, clean_process():
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "excepthook", sys.excepthook)  # finegrid.commands.quiet sets its own
        for name in os.environ.keys() - ENV.keys():
            patch.delenv(name)
        for name, value in ENV.items():
            patch.setenv(name, value)
        yield
