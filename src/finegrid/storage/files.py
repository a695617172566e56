"""Atomic writes, bounded reads, and removal of temporary files that dead processes left."""

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

FORMULA = r"[=+\-@\t\r\n](?s:.)"  # how text in a CSV begins that a spreadsheet computes


def content(path: Path | str, most: int) -> bytes:
    """What a small file holds that anybody may have written.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no plain file, or larger than `most` bytes.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no plain file")  # opening a pipe or a device may never end
    if about.st_size > most:
        raise ValueError(f"it holds {about.st_size:,} bytes, more than {most:,}")
    with open(path, "rb") as file:
        return file.read(most)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, flushed to disk."""
    with whole(path) as draft:
        draft.write_bytes(content)
        flush(draft)


def flush(path: Path) -> None:
    """See a written file onto the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def create_once(path: Path, content: bytes) -> bool:
    """Make a file with this content unless there is one; false if there is.

    Of several processes, on network file systems too, exactly one makes it.
    """
    draft = temporary(path)
    try:
        draft.write_bytes(content)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file under; it is renamed to `path` at the end, and removed on a failure.

    Files that dead processes have left in the directory are removed too.

    Raises:
        OSError: as the writer does, but always with the path.
    """
    draft = temporary(path)
    remove_stale(path.parent)
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(draft)):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill; it is renamed to `path` at the end, and removed on a failure.

    Folders that dead processes have left beside it are removed too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    draft = temporary(path)
    draft.mkdir()
    try:
        yield draft
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def temporary(path: Path) -> Path:
    """The hidden name beside a file's that is this process's own."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}")


def remove_stale(directory: Path) -> None:
    """Remove what dead processes of this host have left in a directory under temporary names."""
    with suppress(OSError):  # no such directory, not ours to write in, or another was quicker
        for name in os.listdir(directory):
            stem, _, pid = name.rpartition(".")
            ours = stem.startswith(".") and stem.endswith(f".{_host()}") and pid.isdecimal()
            if ours and not _lives(int(pid)):
                _remove(directory / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@cache
def _host() -> str:
    """This host; containers with process numbers of their own count apart."""
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        space = ""
    return f"{socket.gethostname()}-{space}"
