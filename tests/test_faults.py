"""Sweeps under faults: whatever dies whenever, running the command again completes the grid."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
GRID = (
    "method=head,bitfit,lora",
    "data.fraction=0.3,1.0",
    "seed=0,1",
    "budget=steps",
    "budget.steps=4",
    "evaluations=1",
    "data.validation_max=40",
    "trainer.threads=1",
    "report=false",
    "fuse=1",  # results are compared bit by bit
)
CELLS = 12
KILLS = {"worker": 4, "launcher": 1, "tree": 1}
Results = dict[str, Any]


def sweep(directory: Path, *more: str) -> subprocess.Popen[str]:
    """A running sweep, in a process group of its own."""
    command = [sys.executable, "train.py", "-m", *GRID, f"hydra.sweep.dir={directory}", *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # also below nohup
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def completed(directory: Path, *more: str) -> str:
    """Run a sweep to its end; its output."""
    process = sweep(directory, *more)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def results(directory: Path) -> Results:
    """Everything about each cell's outcome that must not depend on what happened meanwhile."""
    found = {}
    for path in directory.rglob("record.json"):
        record = json.loads(path.read_text())
        assert record["status"] == "ok", (path, record["error"])
        key = path.parent.name.rpartition("-")[2]
        assert record["cell"] == key
        assert key not in found, f"two records of {key}"
        fields = ("metrics", "test", "test_last", "validation", "best_step", "steps", "train_hash")
        files = [path.with_name(name) for name in ("delta.safetensors", "predictions.parquet")]
        found[key] = {name: record[name] for name in fields}
        found[key] |= {file.name: file.read_bytes() for file in files}
        found[key]["curve"] = _curve(path.with_name("curve.csv"))
    return found


def _curve(path: Path) -> list[list[str]]:
    """Step, loss and validation of a curve; its second column is wall time."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    return [[value for column, value in enumerate(row) if column != 1] for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The grid's results when nothing happens."""
    directory = tmp_path_factory.mktemp("undisturbed")
    completed(directory)
    found = results(directory)
    assert len(found) == CELLS
    return found


def tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All descendants of a sweep."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that run cells: the fork server's children."""
    return [one for one in tree(process) if _parent_is_fork_server(one)]


def _parent_is_fork_server(one: psutil.Process) -> bool:
    try:
        parent = one.parent()
        return parent is not None and "multiprocessing.forkserver" in " ".join(parent.cmdline())
    except psutil.Error:
        return False


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    def lives(one: psutil.Process) -> bool:
        try:
            return bool(one.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    return [one for one in processes if lives(one)]


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """No orphan may stay behind; pytest's timeout, if one does."""
    while alive(processes):
        time.sleep(0.05)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Sweeps to be ended if a test fails."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        for one in [*tree(process), process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait()


def kill_worker(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """SIGKILL one cell's process."""
    found = workers(process)
    if not found:
        return False
    draw.choice(found).kill()
    return True


def kill_launcher(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """SIGKILL the launcher alone: its jobs must end by themselves."""
    below = tree(process)
    process.kill()
    process.wait()
    wait_until_gone(below)
    return True


def kill_tree(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """SIGKILL everything, as a machine that goes down."""
    below = tree(process)
    draw.shuffle(below)
    for one in below:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.kill()
    process.wait()
    wait_until_gone(below)
    return True


Harm = Callable[[subprocess.Popen[str], random.Random], bool]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_kills_at_random_moments_lose_nothing(
    times: int, undisturbed: Results, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    draw = random.Random(20)
    harms: list[Harm] = [
        *[kill_worker] * KILLS["worker"] * times,
        *[kill_launcher] * KILLS["launcher"] * times,
        *[kill_tree] * KILLS["tree"] * times,
    ]
    draw.shuffle(harms)
    kills = 0
    finished: dict[Path, bytes] = {}  # records that say ok
    while harms:
        process = sweep(tmp_path)
        started.append(process)
        while harms and process.poll() is None:
            time.sleep(draw.uniform(0.05, 0.5))
            busy = workers(process)
            if not busy and harms[-1] is kill_worker:
                continue
            if harms[-1] is not kill_worker and draw.random() < 0.7 and not busy:
                continue  # mostly while cells run, at times during the start
            if harms[-1](process, draw):
                harms.pop()
                kills += 1
            for path, content in finished.items():
                assert path.read_bytes() == content, f"{path} was finished and is another now"
            finished |= _finished(tmp_path)
        if not harms and process.poll() is None:
            process.communicate()
    completed(tmp_path)
    assert kills == times * sum(KILLS.values())
    assert results(tmp_path) == undisturbed


@pytest.mark.nightly  # kills of jobs of one cell stand for it
def test_kills_of_jobs_of_several_cells_lose_nothing(
    undisturbed: Results, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    draw, kills = random.Random(0), 0
    process = sweep(tmp_path, "fuse=3")
    started.append(process)
    while kills < 2 and process.poll() is None:
        time.sleep(0.3)
        kills += kill_worker(process, draw)
    output, _ = process.communicate()
    assert (process.returncode, kills) == (0, 2), output
    found = results(tmp_path)
    assert found.keys() == undisturbed.keys()
    for key, cell in found.items():
        assert cell["steps"] == undisturbed[key]["steps"]
        assert cell["test"] == pytest.approx(undisturbed[key]["test"], abs=0.01)


def _finished(directory: Path) -> dict[Path, bytes]:
    contents = {path: path.read_bytes() for path in directory.rglob("record.json")}
    return {path: c for path, c in contents.items() if json.loads(c)["status"] == "ok"}


@pytest.mark.timeout(3600)
def test_two_sweeps_over_one_directory_share_the_work(
    undisturbed: Results, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    pair = [sweep(tmp_path, "hydra.launcher.cpu_slots=1") for _ in range(2)]
    started += pair
    outputs = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert results(tmp_path) == undisturbed
    logs = [path.read_text() for path in tmp_path.rglob("run.log")]
    assert [log.count(" ok: ") for log in logs] == [1] * CELLS  # none ran twice


@pytest.mark.nightly  # a sweep that searches stands for it in test_search
def test_done_cells_are_skipped_and_a_larger_grid_fills_its_holes(tmp_path: Path) -> None:
    small = ("method=head", "seed=0,1", "data.fraction=0.3")
    completed(tmp_path, *small)
    before = _finished(tmp_path)
    assert len(before) == 2
    assert "4 ok" not in completed(tmp_path, *small, "hydra.launcher.preload=no_such_module")
    completed(tmp_path, *small, "seed=0,1,2,3")
    after = _finished(tmp_path)
    assert len(after) == 4
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("number", "preload"),  # a short one: the cells' processes import, when the signal comes
    [
        (signal.SIGINT, "finegrid.grid.preload"),
        (signal.SIGTERM, "hydra"),
        (signal.SIGHUP, "hydra"),
    ],
)
def test_an_interrupt_ends_with_the_table(
    tmp_path: Path, started: list[subprocess.Popen[str]], number: signal.Signals, preload: str
) -> None:
    process = sweep(tmp_path, "budget.steps=100000", f"hydra.launcher.preload={preload}")
    started.append(process)
    while not workers(process):
        assert process.poll() is None
        time.sleep(0.1)
    below = tree(process)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 128 + number
    assert f"{CELLS} cells in {tmp_path}" in output
    assert "interrupted" in output
    assert "Traceback" not in output
    wait_until_gone(below)


@pytest.mark.nightly  # a launcher killed at a random moment stands for it
def test_no_process_outlives_its_launcher() -> None:
    """Killed while it imports, starts cells and trains; waits as long as pytest lets it."""
    kills = ["--kills", "4", "--longest", "10", "--within", "1000", "--seed", "1"]
    command = [sys.executable, "benchmarks/kills.py", *kills]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
