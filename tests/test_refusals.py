"""What the machine refuses, closed pipes, Ctrl-C: one line or none, the exit code, no leftovers."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, run_cell
from safetensors import SafetensorError

from finegrid import cli
from finegrid.errors import UserError, refusal
from finegrid.grid import job
from finegrid.runs import record
from finegrid.storage import cache
from finegrid.storage.files import remove_stale, temporary, whole, write_atomic


@pytest.fixture(autouse=True)
def _terse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a shell does: `cli.guard` sets the variable for good."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


def refused(number: int, path: str | None = "/disk/file") -> OSError:
    return OSError(number, os.strerror(number), path)


def behind(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused(errno.ENOSPC), "/disk/file: No space left on device"),
        (refused(errno.EROFS), "/disk/file: Read-only file system"),
        (refused(errno.EACCES), "/disk/file: Permission denied"),
        (refused(errno.EMFILE), "/disk/file: Too many open files (ulimit -n raises the limit)"),
        (refused(errno.EMFILE, None), "Too many open files (ulimit -n raises the limit)"),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "I/O error: No space left on device (os error 28)",
        ),
        (
            ImportError("libc.so: cannot open shared object file: Too many open files"),
            "libc.so: cannot open shared object file: Too many open files "
            "(ulimit -n raises the limit)",
        ),
        (behind(RuntimeError("instantiating"), refused(errno.ENOSPC)), "/disk/file: No space left"),
        (refused(errno.ENOENT), ""),
        (RuntimeError("a bug"), ""),
    ],
    ids=str,
)
def test_what_the_machine_refuses_is_told_from_bugs(error: Exception, says: str) -> None:
    found = refusal(error)
    assert found.startswith(says)
    assert bool(found) == bool(says)


def raises(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def interrupted() -> None:
    """As Lightning makes of Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (raises(KeyboardInterrupt()), 130),
        (raises(KeyboardInterrupt(signal.SIGTERM)), 143),
        (raises(KeyboardInterrupt(signal.SIGHUP)), 129),
        (interrupted, 130),
        (raises(BrokenPipeError(32, "Broken pipe")), 141),
        (raises(SystemExit(3)), 3),
        (raises(UserError("no")), "finegrid: no"),
        (raises(refused(errno.ENOSPC)), "finegrid: /disk/file: No space left on device"),
        (raises(refused(errno.ENOENT)), "finegrid: /disk/file: No such file or directory"),
        (
            raises(refused(errno.ENOENT, None)),
            "finegrid: No such file or directory (is the working directory gone?)",
        ),
    ],
)
def test_the_guard_ends_quietly(main: Callable[[], None], code: int | str) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.guard(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == code


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.guard(raises(ZeroDivisionError()))


def test_the_early_guard_comes_before_every_slow_import() -> None:
    modules = (ROOT / "src/finegrid/cli.py").read_text(encoding="utf-8").split("import ")[1:]
    assert modules[0].startswith("finegrid.commands.quiet")
    for name in ("train.py", "src/finegrid/__main__.py"):
        first = next(line for line in (ROOT / name).read_text().splitlines() if "import" in line)
        assert first.startswith(("from finegrid import cli", "from finegrid.cli import")), name


STOPPED = """
import finegrid.commands.quiet, os, signal
os.kill(os.getpid(), signal.SIGINT)
"""
REFUSED = "import finegrid.commands.quiet; raise OSError(24, 'Too many open files', '/lib/a.py')"


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        (STOPPED, 130, "interrupted"),
        (REFUSED, 1, "finegrid: /lib/a.py: Too many open files (ulimit -n raises the limit)"),
    ],
)
def test_a_command_that_still_imports_ends_quietly(code: str, ends: int, says: str) -> None:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr.strip()) == (ends, says)


PRINTS = """
from finegrid import cli
cli.guard(lambda: print("line\\n" * {lines}))
"""


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "on the way"])
def test_a_closed_pipe_is_no_error(lines: int) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-c", PRINTS.format(lines=lines)]
    found = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (found.returncode, found.stderr) == (141, "")


def test_a_full_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PRINTS.format(lines=1)]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith("finegrid: ")
    assert found.stderr.endswith("No space left on device\n")


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def half_written(path: Path, error: BaseException) -> None:
    with whole(path) as draft:
        draft.write_bytes(b"half")
        raise error


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        half_written(path, OSError(errno.ENOSPC, "Error writing bytes"))  # as pyarrow does
    with pytest.raises(KeyboardInterrupt):
        half_written(path, KeyboardInterrupt())
    assert (path.read_bytes(), left(tmp_path)) == (b"one", ["file"])


def test_what_dead_processes_left_goes_at_the_next_start(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from finegrid.storage.files import temporary\n"
        "temporary(pathlib.Path(sys.argv[1], 'record.json')).touch()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    (dead,) = left(tmp_path)
    elsewhere = f".record.json.another-host.{dead.rpartition('.')[2]}"
    alive = temporary(tmp_path / "delta").name
    for name in (elsewhere, alive, ".hidden", "record.json.1.2"):
        (tmp_path / name).touch()
    remove_stale(tmp_path)
    assert left(tmp_path) == sorted([elsewhere, alive, ".hidden", "record.json.1.2"])


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "save", full)
    cache.keep(tmp_path / "entry", {})
    (tmp_path / "file").touch()
    cache.keep(tmp_path / "file/entry", {})
    assert left(tmp_path) == ["file"]


def test_a_run_that_the_disk_refuses_has_a_record_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise refused(errno.ENOSPC, "/disk/delta.safetensors")

    monkeypatch.setattr("finegrid.runs.delta.save", full)
    with pytest.raises(OSError, match="No space left"):
        run_cell(tmp_path, "method=head", "budget=steps", "budget.steps=1", "evaluations=1")
    found = record.read(tmp_path)
    assert (found.status, found.error) == (
        "failed",
        "/disk/delta.safetensors: No space left on device",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    directory = tmp_path_factory.mktemp("sweep") / "builtin_paraphrase/tiny/head/f1-s0-0"
    run_cell(directory, "method=head", "budget=steps", "budget.steps=1", "evaluations=1")
    (directory / "rows.csv").write_text("sentence1,sentence2\n" + "a dog .,a cat .\n" * 3000)
    return directory


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk that takes nothing more."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a small disk")
    try:
        if request.param == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


OUTPUTS = {
    "report": "{run} --out {disk}/report",
    "predict": "{run} --input {run}/rows.csv --output {disk}/rows.csv",
    "export": "{run} --to merged --out {disk}/export",
    "references": "--out {disk}/references.md",
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_disk_that_takes_no_more_is_one_line(
    run: Path, disk: Path, name: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = OUTPUTS[name].format(run=run, disk=disk).split()
    if name == "references":  # a page of 20 KB would fit
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as file:
            file.write(bytes(60 * 1024))
    with pytest.raises(SystemExit) as ended:
        cli.main([name, *given])
    line = str(ended.value.code)
    assert line.startswith("finegrid: ")
    assert "\n" not in line
    assert "No space left on device" in line or "Read-only file system" in line
    assert name == "export" or str(disk) in line
    assert "Traceback" not in capfd.readouterr().err
    assert not [path for path in disk.rglob(".*") if path.is_file()]


def test_status_and_plan_write_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = run.parents[3]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for given in (["status", str(root)], ["plan", f"hydra.sweep.dir={root}"]):
        cli.main(given)
    assert "1 cells: 1 ok" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_jobs_are_written_whole(tmp_path: Path) -> None:
    assert job.write(tmp_path / "deep/jobs", [], None, {}, sweep="s") == []  # type: ignore[arg-type]
    assert left(tmp_path / "deep") == ["jobs"]
