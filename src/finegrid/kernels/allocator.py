"""Disable glibc's malloc trimming, so that each training step reuses freed pages.

glibc returns large blocks to the system at once, and each of their pages then costs a fault and
its zeroing when it is allocated anew. A training step frees and allocates the same hundreds of
megabytes: up to 15,000 faults a step. Other C libraries are left as they are.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
NEVER = (1 << 31) - 1  # bytes at the heap's end that may lie idle
LARGEST = (1 << 30, 32 << 20)  # bytes of a block within the heap; older versions allow the second


def disable_malloc_trim() -> bool:
    """Let this process keep memory that it frees, from now on; False if its C library cannot."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None:
        return False
    within = any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST)
    return within and bool(mallopt(TRIM_THRESHOLD, NEVER))
