"""End a command in one line if it is interrupted while it imports; imported before slow modules.

Ctrl-C then leaves no traceback, and what the machine refuses, such as a file handle, is one line.
"""

import os
import signal
import sys
from types import TracebackType

from finegrid.errors import refusal


def _ends(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """In the place of Python's traceback; `cli.guard` has taken over by the time of `main`."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)
    verbose = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    if line := "" if verbose else refusal(error):
        print(f"finegrid: {line}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _ends
