"""Does any process outlive its launcher? `python benchmarks/kills.py --kills 50 --load 2`.

Starts a sweep again and again and kills its launcher with SIGKILL at a random moment: while the
fork server imports, while cells start, while they train. Every process of the sweep, known by a
variable of its environment, has to be gone 2 seconds later (`--within`). `--load` busy loops hold
the cores meanwhile. Ends with 1 if any process was left.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
MARK = "FINEGRID_KILLS"  # variable that tells a sweep's processes from all others
CELLS = ("method=head,bitfit", "seed=0,1,2,3", "budget=steps", "budget.steps=100000", "fuse=1",
         "report=false")  # fmt: skip


def main() -> None:
    """Kill, look, print a line a kill and one at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--load", type=int, default=0, help="busy loops beside the sweep")
    parser.add_argument("--longest", type=float, default=20.0, help="seconds until a kill, at most")
    parser.add_argument("--within", type=float, default=2.0, help="seconds that processes have")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, left, phases = random.Random(given.seed), 0, Counter[str]()
    with _busy(given.load):
        for number in range(given.kills):
            phase, slowest, orphans = _one(draw.uniform(0.1, given.longest), given.within)
            left += bool(orphans)
            phases[phase] += 1
            print(f"{number + 1:3d} {phase:<9} last process after {slowest:.2f} s {orphans or ''}")
    found = ", ".join(f"{count} while {phase}" for phase, count in phases.items())
    print(f"{given.kills} kills ({found}), {given.load} busy loops: {left} left processes behind")
    sys.exit(left > 0)


def _one(delay: float, within: float) -> tuple[str, float, list[str]]:
    """Start a sweep and kill it: what it was doing, seconds until all were gone, who was not."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as directory:
        launcher = subprocess.Popen(
            [sys.executable, "train.py", "-m", *CELLS, f"hydra.sweep.dir={directory}"],
            cwd=ROOT, env=os.environ | {MARK: mark}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(delay)
        phase = _phase(mark, directory)
        launcher.kill()
        launcher.wait()
        slowest = _time_until_gone(mark, within)
        orphans = [_command(one) for one in _marked(mark)]
        for one in _marked(mark):
            one.kill()
    return phase, slowest, orphans


def _time_until_gone(mark: str, within: float) -> float:
    """Seconds until none of a sweep's processes is alive; no more than they have."""
    began = time.monotonic()
    while _marked(mark) and time.monotonic() - began < within:
        time.sleep(0.01)
    return time.monotonic() - began


def _command(one: psutil.Process) -> str:
    try:
        return " ".join(one.cmdline())[:80]
    except psutil.Error:
        return "one that has just ended"


def _phase(mark: str, directory: str) -> str:
    if list(Path(directory).rglob(".claim-*")):
        return "running"
    return "importing" if len(_marked(mark)) > 1 else "starting"


def _marked(mark: str) -> list[psutil.Process]:
    """The processes of a sweep that are alive."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get(MARK) == mark and _lives(one):
                found.append(one)
        except psutil.Error:  # it ended, or is another user's
            continue
    return found


def _lives(one: psutil.Process) -> bool:
    try:
        return bool(one.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many loops that do nothing, each as much as a core lets it."""
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    main()
