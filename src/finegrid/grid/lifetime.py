"""Parent-death signals: the fork server and every job that it forks end with their launcher.

Linux kills a process by a signal of its choice when the thread that started it dies. The fork
server asks for SIGKILL before it imports anything that takes long. Once it has jobs it asks for
SIGTERM, on which it kills them with all that they have started. Elsewhere the pipes do what they
can: a process whose launcher is gone finds them closed when it looks.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

PARENT = "FINEGRID_LAUNCHER"  # variable with the launcher's process number, for the fork server
PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with(parent: int, number: signal.Signals) -> None:
    """Let this process get a signal when its parent ends, at once if it has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


def serve(launcher: int) -> None:
    """Let this process, the fork server, and its jobs end with the launcher."""
    server, forking = os.getpid(), 0

    def before() -> None:
        nonlocal forking
        forking = os.getpid()
        if forking == server:
            signal.signal(signal.SIGTERM, _end_jobs)
            end_with(launcher, signal.SIGTERM)

    def in_child() -> None:
        if forking == server:  # a job; what it forks itself is its own business
            os.setsid()  # a group of its own, and Ctrl-C reaches the launcher alone
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            end_with(server, signal.SIGKILL)

    end_with(launcher, signal.SIGKILL)
    os.register_at_fork(before=before, after_in_child=in_child)


def _end_jobs(number: int, frame: FrameType | None) -> None:
    """Kill the fork server's jobs, each with its group, and end."""
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    for job in task.read_text(encoding="ascii").split() if task.exists() else ():
        try:
            os.killpg(int(job), signal.SIGKILL)
        except ProcessLookupError:  # it has no group yet, and gets its own signal
            continue
    os._exit(128 + number)


if launcher := os.environ.pop(PARENT, ""):
    serve(int(launcher))
