"""What a task's mask or sparse difference over BERT-base takes on disk.

python benchmarks/delta_size.py

Baselines: fp32 scores as they are trained, int64 indices with fp32 values (12 bytes an entry), bits
packed. The bound is the entropy of independent bits, plus the values as they are.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from finegrid.methods.modules.mask import Mask
from finegrid.methods.modules.sparse_delta import SparseDifference
from finegrid.runs import delta

SHAPES = ([(768, 768)] * 4 + [(3072, 768), (768, 3072)]) * 12
ENTRIES = sum(rows * columns for rows, columns in SHAPES)
MIB = 2**20


def masks(zeros: float) -> nn.Module:
    """A mask over each of BERT-base's 72 matrices with random zeros."""
    generator = torch.Generator().manual_seed(0)
    return nn.ModuleList(Mask(torch.rand(s, generator=generator) >= zeros) for s in SHAPES)


def differences(density: float) -> nn.Module:
    """A sparse difference of random values at random places of each matrix."""
    made = nn.ModuleList()
    for rows, columns in SHAPES:
        places = torch.randperm(rows * columns)[: int(density * rows * columns)]
        made.append(SparseDifference((rows, columns), places))
        nn.init.normal_(made[-1].values)
    return made


def main() -> None:
    """Print one Markdown row a delta."""
    titles = "baseline MiB | packed MiB | bound MiB | file MiB | file / bound | save s | load s"
    print(f"| delta | {titles} |")
    print("|---" + "|---:" * (titles.count("|") + 1) + "|")
    for share in (0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.001):
        row(f"mask, {share:.1%} zeros", masks(share), baseline=4 * ENTRIES)
    for share in (0.05, 0.01, 0.005, 0.001):
        row(f"difference, {share:.1%} dense", differences(share), baseline=12 * share * ENTRIES)


def row(name: str, module: nn.Module, *, baseline: float) -> None:
    """Save, load back, compare, print."""
    state = {key: value.clone() for key, value in delta.state(module).items()}
    facts = {"method": "benchmark", "fingerprint": ""}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, delta.FILE)
        started = time.perf_counter()
        size = delta.save(path, module, labels=[], **facts)
        saved = time.perf_counter()
        delta.load(path, module, **facts)
        loaded = time.perf_counter()
    same = all(torch.equal(value, state[key]) for key, value in delta.state(module).items())
    if not same:
        sys.exit(f"{name}: the round trip changed the delta")
    bound = delta.bound(state)
    values = sum(4 * value.numel() for value in state.values() if value.dtype != torch.bool)
    packed = ENTRIES / 8 + values
    print(
        f"| {name} | {baseline / MIB:.2f} | {packed / MIB:.2f} | {bound / MIB:.3f} | "
        f"{size / MIB:.3f} | {size / bound:.3f} | {saved - started:.1f} | {loaded - saved:.1f} |"
    )


if __name__ == "__main__":
    main()
