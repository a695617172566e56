"""Cache of arrays on disk, shared by all processes of a user; a missing entry is no error.

One entry is one safetensors file with a checksum. It is mapped into memory, so that all processes
of a machine share it.
"""

import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finegrid.storage import paths
from finegrid.storage.files import whole

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[Any]]


def place(name: str) -> Path:
    """Where an entry lies."""
    return paths.cache_root() / f"{name}.safetensors"


def read(path: Path) -> dict[str, Array] | None:
    """An entry's arrays, mapped into memory; None unless the entry is there and whole."""
    try:
        with safe_open(path, framework="pt") as file:  # numpy's way copies
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            told = file.metadata() or {}
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.debug("%s is not readable: %s", path, error)
        return None
    if told.get("check") != _check(arrays):
        log.debug("%s is damaged", path)
        return None
    return arrays


def keep(path: Path, arrays: dict[str, Array]) -> None:
    """Write an entry whole or not at all; a folder that cannot be written to is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as draft:
            draft.write_bytes(save(arrays, metadata={"check": _check(arrays)}))
    except OSError as error:
        log.debug("not cached: %s", error)


def _check(arrays: Mapping[str, Array]) -> str:
    """A checksum of names, kinds and values: finds what a crash left half on the disk."""
    total = 0
    for name, array in sorted(arrays.items()):
        total = zlib.crc32(array.data, zlib.crc32(f"{name} {array.dtype}".encode(), total))
    return f"{total:08x}"
