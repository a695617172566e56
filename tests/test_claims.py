"""Claims: one holder at a time, takeover of the dead and the silent, no clocks compared."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from finegrid.grid import locks


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that looks stale is watched for a moment only."""
    monkeypatch.setattr(locks, "CONFIRM", 0.02)


def take(directory: Path) -> locks.CellLock | None:
    return locks.acquire(directory, sweep="s", slot="cpu0")


def of_another_host(directory: Path, *, age: float) -> None:
    """Make the claim look as if another machine had made it and beaten `age` seconds ago."""
    (path,) = directory.glob(".claim-*")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    os.utime(path, (time.time() - age, time.time() - age))


def _compete(root: str, cells: int, barrier: object, won: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    mine = [n for n in range(cells) if take(Path(root, str(n))) is not None]
    won.put(mine)  # type: ignore[attr-defined]


def test_of_many_processes_exactly_one_gets_a_cell(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(4), context.Queue()
    several = [
        context.Process(target=_compete, args=(str(tmp_path), 100, barrier, won)) for _ in range(4)
    ]
    for process in several:
        process.start()
    taken = sorted(number for _ in several for number in won.get())
    for process in several:
        process.join()
    assert len(taken) >= 100
    # A process that has ended is no holder: a cell may then be claimed again, under a new number.
    firsts = [len(list(Path(tmp_path, str(n)).glob(".claim-*"))) for n in range(100)]
    assert sum(firsts) == len(taken)


def test_a_held_cell_is_refused_and_a_released_one_given(tmp_path: Path) -> None:
    first = take(tmp_path)
    assert first is not None
    with first:
        assert locks.alive(tmp_path)
        assert take(tmp_path) is None
        holder = locks.holder(tmp_path)
        assert holder is not None
        assert (holder.pid, holder.slot, holder.sweep) == (os.getpid(), "cpu0", "s")
    assert not locks.alive(tmp_path)
    second = take(tmp_path)
    assert second is not None
    assert second.number == 2
    assert not first.held()


def test_a_dead_process_of_this_host_loses_its_claim_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=take, args=(tmp_path,))
    process.start()
    process.join()
    assert locks.holder(tmp_path) is not None
    assert not locks.alive(tmp_path)
    assert take(tmp_path) is not None


def test_a_number_used_again_is_not_the_same_process(tmp_path: Path) -> None:
    take(tmp_path)
    (path,) = tmp_path.glob(".claim-*")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"birth": "1"}))
    assert not locks.alive(tmp_path)


def test_another_host_is_believed_while_its_heart_beats(tmp_path: Path) -> None:
    take(tmp_path)
    of_another_host(tmp_path, age=locks.STALE - 20)
    assert locks.alive(tmp_path)
    assert take(tmp_path) is None
    of_another_host(tmp_path, age=locks.STALE + 1)
    assert not locks.alive(tmp_path)
    assert take(tmp_path) is not None
    assert [path.name for path in sorted(tmp_path.glob(".claim-*"))] == [".claim-1", ".claim-2"]


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.05)
    claim = take(tmp_path)
    assert claim is not None
    with claim:
        os.utime(claim.path, (1, 1))
        while claim.path.stat().st_mtime == 1:  # pytest's timeout, if it never does
            time.sleep(0.01)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0], ids=["back", "forward"])
def test_a_clock_that_jumps_takes_no_cell_from_a_heart_that_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    take(tmp_path)
    of_another_host(tmp_path, age=jump)  # as the file system's clock now has it
    path, waits = tmp_path / ".claim-1", []

    def beats_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        os.utime(path)

    monkeypatch.setattr(locks.time, "sleep", beats_meanwhile)
    assert take(tmp_path) is None
    assert len(waits) == 1
    assert locks.alive(tmp_path)


def test_a_claim_from_the_future_that_does_not_beat_is_dead(tmp_path: Path) -> None:
    take(tmp_path)
    of_another_host(tmp_path, age=-3600)
    assert take(tmp_path) is not None


def test_a_full_disk_does_not_leave_a_cell_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    claim = take(tmp_path)
    assert claim is not None
    monkeypatch.setattr(locks, "write_atomic", full)
    claim.release()
    assert not locks.alive(tmp_path)
    assert take(tmp_path) is not None


def test_a_holder_that_slept_through_its_takeover_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "BEAT", 3600.0)
    slept = take(tmp_path)
    assert slept is not None
    with slept:
        of_another_host(tmp_path, age=locks.STALE + 1)
        thief = take(tmp_path)
        assert thief is not None
        assert not slept.held()
    assert thief.held()  # the first holder's end does not release the second's claim
    assert locks.alive(tmp_path)


def test_an_unreadable_claim_counts_until_it_is_stale(tmp_path: Path) -> None:
    path = tmp_path / ".claim-1"
    path.write_text("{")
    assert locks.alive(tmp_path)
    os.utime(path, (1, 1))
    assert not locks.alive(tmp_path)


def test_nothing_is_left_beside_the_claim(tmp_path: Path) -> None:
    take(tmp_path)
    locks.alive(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".claim-1"]
