"""Processes of contenders: kept alive and asked, or fresh ones measured from start to end."""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2): orphans among the descendants become our children
TAIL = 3000  # characters of a failed contender's stderr


@dataclass
class Cost:
    """Seconds that one or more processes took, all their descendants included."""

    wall: float
    cpu: float


def environment(threads: int, caches: Path) -> dict[str, str]:
    """The same for both sides: so many threads, bytecode kept, this checkout's own code."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'benchmarks'}",
        "HF_DATASETS_CACHE": str(caches),
        "FINEGRID_CACHE_DIR": str(caches / "finegrid"),
        "TOKENIZERS_PARALLELISM": "false" if threads == 1 else "true",
    }


class Contender:
    """A process that answers requests."""

    def __init__(self, side: str, python: str, env: dict[str, str], stack: ExitStack) -> None:
        self.side = side
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open until the end)
        self.process = subprocess.Popen(
            [python, "-m", "peers.worker", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            cwd=ROOT,
            env=env,
        )
        stack.callback(self._end)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer; the benchmark ends with its stderr if there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.stderr.seek(0)
            sys.exit(f"{self.side} failed on {request}:\n{self.stderr.read()[-TAIL:]}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.stderr.close()


@contextmanager
def measured() -> Iterator[Cost]:
    """What the processes started and ended inside cost; it waits for what they left behind."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    cost = Cost(0.0, 0.0)
    began, before = time.monotonic(), _cpu_of_children()
    yield cost
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    cost.wall, cost.cpu = time.monotonic() - began, _cpu_of_children() - before


def output(command: Sequence[str], env: dict[str, str]) -> str:
    """What a command prints; the benchmark ends with its stderr if it fails."""
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stdout[-TAIL:]}{ended.stderr[-TAIL:]}")
    return ended.stdout


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def note(text: str) -> None:
    """Progress, beside the Markdown."""
    print(text, file=sys.stderr, flush=True)
