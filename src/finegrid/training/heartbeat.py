"""Heartbeat of a run: reports each piece of work to whoever watches the process for stalls.

A piece is a step of training, a batch of validation or scoring, a part of a run's set-up: work that
has been done, not a thread that beats beside it while the work hangs.
"""

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """A piece of work is done."""
    for listener in _listeners:
        listener()


def listen(listener: Callable[[], None]) -> None:
    """Call this at each beat from now on."""
    _listeners.append(listener)
