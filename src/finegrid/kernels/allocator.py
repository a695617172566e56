"""Memory that a process has freed stays with it, so that the next step need not fetch it again.

glibc gives large blocks back to the system at once, and each of their pages then costs a fault and
its zeroing when it is asked for anew. A training step frees and asks for the same hundreds of
megabytes: up to 15,000 faults a step. Other C libraries are left as they are.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
NEVER = (1 << 31) - 1  # bytes at the heap's end that may lie idle
LARGEST = (1 << 30, 32 << 20)  # bytes of a block within the heap; older versions allow the second


def keep_freed() -> bool:
    """Let this process keep what it frees, from now on; whether its C library can."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None:
        return False
    within = any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST)
    return within and bool(mallopt(TRIM_THRESHOLD, NEVER))
