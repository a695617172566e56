"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from finegrid.kernels.allocator import disable_malloc_trim

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(1 << 22)  # 16 MiB, 4,096 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.ones(1 << 22)
before, kept = faults(), disable_malloc_trim()
torch.ones(1 << 22)
print(before, faults(), kept)
"""


def test_what_is_freed_and_asked_for_again_costs_no_faults() -> None:
    command = [sys.executable, "-c", FAULTS]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    before, after, kept = int(told[0]), int(told[1]), told[2] == "True"
    if not kept:
        pytest.skip("this C library has no such options")
    assert before > 1000
    assert after < 100
