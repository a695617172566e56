"""What a sweep does with cells that fail, each in its own way, and with what `retry` says."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import call
from conftest import FACTS
from hydra.core.utils import JobReturn, JobStatus

from finegrid.errors import UserError
from finegrid.grid import locks
from finegrid.grid import status as store
from finegrid.grid.expand import Cell
from finegrid.grid.stages import Stages
from finegrid.grid.status import Store
from finegrid.grid.sweep import Sweep
from finegrid.runs.layout import RECORD as FILE
from finegrid.runs.record import Record


def cell(number: int) -> Cell:
    key = f"{number:012x}"
    facts = FACTS | {"seed": number, "cell": key}
    return Cell(key, (f"seed={number}",), f"t/tiny/m/f1-s{number}", facts, {"method": {}})


def write(path: Path, one: Cell, status: str, error: str | None = None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    Record(**one.facts, overrides=[], status=status, error=error).write(path)


class Fake:
    """A launcher in this process: what each cell does is a word."""

    def __init__(self, root: Path, words: Sequence[str]) -> None:
        self.root, self.words = root, list(words)
        self.launched: list[int] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returns = []
        for overrides in jobs:
            number = int(overrides[0].partition("=")[2])
            self.launched.append(number)
            path = Store(self.root).path(cell(number))
            word = self.words[number]
            returned = JobReturn()
            returned.status = JobStatus.COMPLETED
            if word == "dies":
                locks.acquire(path, sweep=self.sweep.id, slot="")
                self._forget(path)
            elif word == "breaks":
                raise OSError("the launcher broke")
            elif word == "raises":
                returned.status = JobStatus.FAILED
                returned.return_value = RuntimeError("no such thing")
            elif word != "nothing":
                write(path, cell(number), word, None if word == "ok" else f"said\n{word}")
            returns.append(returned)
        return returns

    def _forget(self, path: Path) -> None:
        """Make the claim one of a process that is gone."""
        (claim,) = path.glob(".claim-*")
        claim.write_text(json.dumps(json.loads(claim.read_text()) | {"birth": "1"}))


def run(root: Path, words: Sequence[str], **options: object) -> tuple[Sweep, Fake]:
    cells = [cell(number) for number in range(len(words))]
    rules = {"retry": "failed", "fail_fast": None} | options
    sweep = Sweep(Stages(cells), Store(root), **rules)  # type: ignore[arg-type]
    fake = Fake(root, words)
    fake.sweep = sweep  # type: ignore[attr-defined]
    sweep.run(fake)  # type: ignore[arg-type]
    return sweep, fake


def statuses(sweep: Sweep) -> list[str]:
    return [sweep.outcome(one).status for one in sweep.cells]


def test_every_end_becomes_a_record(tmp_path: Path) -> None:
    sweep, _ = run(tmp_path, ["ok", "diverged", "dies", "raises", "nothing"])
    assert statuses(sweep) == ["ok", "diverged", "failed", "failed", "failed"]
    errors = [sweep.outcome(one).error for one in sweep.cells]
    assert "killed" in errors[2]
    assert errors[3] == "no such thing"
    assert "no trace" in errors[4]


@pytest.mark.parametrize(
    ("retry", "again"),
    [("failed", [1, 2, 3]), ("none", [3]), ("all", [0, 1, 2, 3])],
)
def test_retry_says_which_cells_run_again(tmp_path: Path, retry: str, again: list[int]) -> None:
    for number, status in enumerate(["ok", "failed", "diverged"]):
        write(Store(tmp_path).path(cell(number)), cell(number), status)
    _, fake = run(tmp_path, ["ok"] * 4, retry=retry)
    assert fake.launched == again


@pytest.mark.parametrize("step", [-3600, 0, 3600], ids=["back", "still", "forward"])
def test_a_cell_that_fails_is_tried_once_whatever_the_clock_does(tmp_path: Path, step: int) -> None:
    class Stepping(Fake):
        """Its records get times from a clock that steps."""

        def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            assert len(self.launched) < 4, "it runs what has failed again and again"
            returns = super().launch(jobs, initial_job_idx)
            for path in self.root.rglob(FILE):
                os.utime(path, (met + step, met + step))
            return returns

    write(Store(tmp_path).path(cell(0)), cell(0), "failed", "of an earlier sweep")
    (path,) = tmp_path.rglob(FILE)
    met = int(path.stat().st_mtime)
    os.utime(path, (met, met))
    sweep = Sweep(Stages([cell(0), cell(1)]), Store(tmp_path), retry="failed", fail_fast=None)
    stepping = Stepping(tmp_path, ["failed", "ok"])
    sweep.run(stepping)  # type: ignore[arg-type]
    assert stepping.launched == [0, 1]
    assert sweep.outcome(cell(0)).error == "said\nfailed"


def test_a_broken_launcher_is_tried_again_while_it_gets_on(tmp_path: Path) -> None:
    class Flaky(Fake):
        def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            super().launch(jobs[:1], 0)
            raise OSError("worker lost")

    cells = [cell(number) for number in range(3)]
    sweep = Sweep(Stages(cells), Store(tmp_path), retry="failed", fail_fast=None)
    flaky = Flaky(tmp_path, ["ok"] * 3)
    sweep.run(flaky)  # type: ignore[arg-type]
    assert statuses(sweep) == ["ok"] * 3
    assert flaky.launched == [0, 1, 2]


def test_a_launcher_that_starts_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="started nothing: the launcher broke"):
        run(tmp_path, ["breaks", "ok"])


def test_fail_fast_stops_when_everything_fails_alike(tmp_path: Path) -> None:
    sweep, fake = run(tmp_path, ["failed"] * 9, fail_fast=3)
    assert fake.launched == [0, 1, 2]
    assert statuses(sweep)[3:] == ["missing"] * 6
    sweep, fake = run(tmp_path / "two", ["failed", "diverged", "ok", *["failed"] * 2], fail_fast=3)
    assert "missing" not in statuses(sweep)


@pytest.mark.parametrize(
    ("wrong", "says"), [({"retry": "some"}, "retry=some"), ({"fail_fast": 0}, "fail_fast=0")]
)
def test_bad_rules_are_one_line(tmp_path: Path, wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(tmp_path, ["ok"], **wrong)


def test_a_cell_is_found_again_under_another_grids_name(tmp_path: Path) -> None:
    one = cell(0)
    write(tmp_path / f"t/tiny/m/f1-s0-lr0.1-{one.key}", one, "ok")
    found = Store(tmp_path)
    assert found.place(one) == f"t/tiny/m/f1-s0-lr0.1-{one.key}"
    assert found.outcome(one).status == "ok"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "running"}', '{"status": "ok"}'])
def test_half_a_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert store.outcome(tmp_path).status in ("missing", "unreadable")


def sweeping(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    common = ["budget=steps", "budget.steps=2", "evaluations=1", "report=false"]
    return call("-m", *common, f"hydra.sweep.dir={directory}", *overrides)


def records(directory: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(path.read_text()) for path in directory.rglob(FILE)]
    return {f"{one['method']}-{one['seed']}": one for one in found}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slots", "basic"])
def test_a_real_sweep_tells_what_failed_and_how_to_go_on(tmp_path: Path, launcher: str) -> None:
    wanted = ["method=head,bitfit", "seed=0,1", f"hydra/launcher={launcher}"]
    first = sweeping(tmp_path, *wanted, "optim.lr=1e30")
    assert first.returncode == 1
    assert "4 cells" in first.stdout
    assert "2 diverged" in first.stdout
    assert "finegrid sweep" in first.stdout
    assert first.stderr.strip().endswith("run the same command again to fill the holes")
    assert "Traceback" not in first.stderr
    found = records(tmp_path)
    assert {name: one["status"] for name, one in found.items()} == {
        "head-0": "ok",
        "head-1": "ok",
        "bitfit-0": "diverged",
        "bitfit-1": "diverged",
    }


@pytest.mark.slow
def test_a_job_that_hangs_fails_at_its_limit(tmp_path: Path) -> None:
    ended = sweeping(tmp_path, "budget.steps=10000000", "hydra.launcher.timeout_s=4")
    assert ended.returncode == 1
    (one,) = records(tmp_path).values()
    assert one["status"] == "failed"
    assert "longer than the limit of 4 s" in str(one["error"])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_fails_the_cell_and_not_the_sweep(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a small disk")
    try:
        full = sweeping(disk, "method=full,head")  # full's delta alone takes 2 MB
        assert full.returncode == 1
        assert "No space left" in full.stdout
        assert "Traceback" not in full.stderr
        assert not any(
            one["status"] == "ok" for one in records(disk).values() if one["method"] == "full"
        )
        assert not list(disk.rglob(".*.*.*")), "no temporary is left"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_unknown_option_ends_before_any_run(tmp_path: Path) -> None:
    for wrong in ("method=full,bitfti", "data.fraction=0.5,2", "retry=sometimes"):
        ended = sweeping(tmp_path / "sweep", wrong, "hydra/launcher=basic")
        assert ended.returncode == 1
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
        assert not list(tmp_path.rglob(FILE))
