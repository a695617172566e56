"""Lock files with a heartbeat: of any number of processes and machines, one runs a cell.

A lock is `.claim-<n>` in the cell's directory, made so that only one process can make it. The one
with the highest number counts. Locks are never removed, only marked as released; a released or
stale one is followed by the next number. So of several processes that meet a free cell only one
gets it, and a former owner that was paused can see that it lost the cell.
"""

import json
import logging
import os
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from finegrid.runs.layout import LOCK
from finegrid.storage.files import content, create_once, temporary, write_atomic

log = logging.getLogger(__name__)
BEAT = 5.0  # seconds between heartbeats
STALE = 60.0  # seconds without one after which a lock may be taken over
CONFIRM = 12.0  # seconds in which a stale lock is watched before: a clock may have jumped
NUMBER = re.compile("[0-9]{1,9}")  # of a lock
LARGEST, LATEST = 1 << 12, 1e11  # bytes of its file, and seconds since 1970 that it may name
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """The process behind a lock, as far as its file tells."""

    number: int
    host: str = ""
    pid: int = 0
    birth: str = ""  # tells a process from a later one with the same number
    slot: str = ""
    sweep: str = ""
    since: float = 0.0  # by the host's own clock
    released: bool = False

    @property
    def local(self) -> bool:
        """Whether the process was started on this host since it was booted."""
        return self.host == _host()


KINDS: dict[str, Any] = {item.name: item.type for item in fields(Holder) if item.name != "number"}
KINDS["since"] = (int, float)


class CellLock:
    """A held lock: beats until it is released. Use it in a `with` statement."""

    def __init__(self, directory: Path, number: int, facts: dict[str, Any]) -> None:
        self.directory, self.number = directory, number
        self.path = _path(directory, number)
        self._facts = facts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lock")

    def __enter__(self) -> "CellLock":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.release()

    def release(self) -> None:
        """Give the cell up."""
        if self.held():
            content = json.dumps(self._facts | {"released": True}).encode()
            try:
                write_atomic(self.path, content)
            except OSError:  # a full disk must not leave the cell held while this process lives
                self.path.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether nobody has taken the cell over: a paused holder that wakes up must ask."""
        return _latest(self.directory) == self.number

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                os.utime(self.path)  # the file system's clock, one for all hosts
            except FileNotFoundError:
                return
            except OSError as error:  # it may work the next time
                log.debug("%s: %s", self.path, error)


def acquire(directory: Path, *, sweep: str, slot: str) -> CellLock | None:
    """Lock a cell; None while another process holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    number = _latest(directory) + 1
    if alive(directory) or _beats(directory, holder(directory)):
        return None
    pid = os.getpid()
    facts = {"host": _host(), "pid": pid, "birth": _birth(pid), "slot": slot, "sweep": sweep}
    facts |= {"since": time.time()}
    made = create_once(_path(directory, number), json.dumps(facts).encode())
    return CellLock(directory, number, facts) if made else None


def holder(directory: Path) -> Holder | None:
    """The owner of the lock that counts, dead or alive."""
    number = _latest(directory)
    if not number:
        return None
    try:
        facts = json.loads(content(_path(directory, number), LARGEST))
        known = {key: facts[key] for key in KINDS.keys() & set(facts)}
    except (OSError, ValueError, TypeError, RecursionError):
        return Holder(number)
    good = all(isinstance(value, KINDS[key]) for key, value in known.items())
    found = Holder(number, **known) if good else Holder(number)
    good = found.pid >= 0 and 0 <= found.since < LATEST
    return found if good and f"{found.host}{found.slot}".isprintable() else Holder(number)


def alive(directory: Path, *, at: float | None = None) -> bool:
    """Whether a cell is held: a process of this host is looked up, another's heartbeat is read.

    Ages are taken from the file system's own clock, so that hosts need not agree on the time.
    Read-only callers pass `at` (now), so that no probe file is written.
    """
    found = holder(directory)
    if found is None or found.released:
        return False
    if found.local and found.birth:
        return _birth(found.pid) == found.birth
    at = _now(directory) if at is None else at
    return abs(at - _path(directory, found.number).stat().st_mtime) < STALE


def _beats(directory: Path, found: Holder | None) -> bool:
    """Whether a lock of another host that looks stale beats after all.

    The clock that its age was taken from may have jumped, so it is watched for a while.
    """
    if found is None or found.released or (found.local and found.birth):
        return False
    path, until = _path(directory, found.number), time.monotonic() + CONFIRM
    before = path.stat().st_mtime_ns
    while time.monotonic() < until:
        time.sleep(min(1.0, CONFIRM / 4))
        if path.stat().st_mtime_ns != before:
            return True
    return False


def _now(directory: Path) -> float:
    """The time by the file system's clock; by this host's where nothing can be written."""
    probe = temporary(directory / "now")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _path(directory: Path, number: int) -> Path:
    return directory / f"{LOCK}{number}"


def _latest(directory: Path) -> int:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return 0
    numbers = (name.removeprefix(LOCK) for name in names if name.startswith(LOCK))
    return max((int(number) for number in numbers if NUMBER.fullmatch(number)), default=0)


@cache
def _host() -> str:
    """This machine since its boot; containers with process numbers of their own count apart."""
    try:
        space = os.readlink("/proc/self/ns/pid")
        return f"{socket.gethostname()} {BOOT.read_text().strip()} {space}"
    except OSError:
        return socket.gethostname()


def _birth(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty if there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
