"""Independent random streams, so that one choice never shifts the draws of another."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream(seed: int, name: str) -> int:
    """The seed of a named stream (`init`, `order`, `dropout`, ...) of a run's seed."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Draw from a stream of its own inside, and leave the global stream as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
