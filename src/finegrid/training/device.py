"""The device of a run and the precision it computes in; which is fast is measured, not listed."""

import hashlib
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import linear

from finegrid.config import TrainerConfig
from finegrid.errors import require
from finegrid.storage import cache as stored

# Rows, inputs and outputs of the layers whose product is timed. On a CPU without bf16 units the
# product is emulated, up to hundreds of times slower: the small one, a tenth of a millisecond in
# fp32, then spares the large one.
SMALL, LARGE = (64, 256, 256), (256, 768, 768)
HOPELESS = 0.5  # of fp32's speed on the small product; real units lose some time to set up
FASTER = 1.2  # times fp32's speed, from which bf16 is chosen
TRIES = 5  # of each; the best counts, since neighbours only ever slow a product
CPU = Path("/proc/cpuinfo")


def accelerator(trainer: TrainerConfig) -> str:
    """Lightning's name of the device that a run uses: `gpu` or `cpu`.

    Raises:
        UserError: if a CUDA device is asked for and there is none.
    """
    cuda = torch.cuda.is_available()
    require(
        cuda or trainer.device != "cuda",
        "trainer.device=cuda, but torch sees no CUDA device; use trainer=auto, "
        "or install a CUDA build of torch (see README)",
    )
    return "gpu" if cuda and trainer.device != "cpu" else "cpu"


def precision(trainer: TrainerConfig) -> str:
    """`32`, or `bf16-mixed`: bf16 arithmetic with fp32 weights for all that trains."""
    if trainer.precision != "auto":
        return trainer.precision
    return "bf16-mixed" if fast_bf16(accelerator(trainer)) else "32"


def fast_bf16(accelerator: str) -> bool:
    """Whether a layer's product in bf16 is clearly faster than in fp32: at least 1.2 times.

    A CPU is measured once, for this version of torch and this number of threads; the answer is in
    the user's cache afterwards.
    """
    if accelerator == "gpu":
        return bool(torch.cuda.is_bf16_supported())
    return _speedup(torch.get_num_threads()) >= FASTER


@cache
def _speedup(threads: int) -> float:
    """Speed of bf16 over fp32 on this CPU, from the cache or measured."""
    key = f"{_cpu()} torch {torch.__version__} threads {threads}"
    path = stored.place(f"bf16-{hashlib.sha256(key.encode()).hexdigest()[:16]}")
    if (entry := stored.read(path)) is not None:
        return float(entry["speedup"][0])
    speedup = measured_speedup(linear)
    stored.keep(path, {"speedup": np.array([speedup])})
    return speedup


def _cpu() -> str:
    """The CPU's model and what it can do; both may differ between hosts of one home directory."""
    lines = CPU.read_text(encoding="utf-8").splitlines() if CPU.exists() else []
    facts = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return " ".join([platform.machine(), platform.processor(), *sorted(facts)])


Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def measured_speedup(product: Product) -> float:
    """Speed of a layer's product in bf16 over that in fp32; a few milliseconds.

    Args:
        product: of (rows x inputs) and (outputs x inputs), such as torch's `linear`.
    """
    speedup = _ratio(product, SMALL)
    return speedup if speedup < HOPELESS else _ratio(product, LARGE)


def _ratio(product: Product, shape: tuple[int, int, int]) -> float:
    """fp32's best time over bf16's; each is warmed by its first call, and they take turns."""
    rows, inputs, outputs = shape
    # no random numbers: they would shift everybody else's draws
    x = torch.linspace(-1, 1, rows * inputs).view(rows, inputs)
    weight = torch.linspace(-1, 1, outputs * inputs).view(outputs, inputs)
    plain = partial(product, x, weight)
    half = partial(product, x.bfloat16(), weight.bfloat16())
    _seconds(plain), _seconds(half)
    times = [(_seconds(plain), _seconds(half)) for _ in range(TRIES)]
    return min(a for a, _ in times) / min(b for _, b in times)


@torch.no_grad()
def _seconds(call: Callable[[], torch.Tensor]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def device(trainer: TrainerConfig) -> str:
    """Name of the device: the GPU's, or the CPU's architecture."""
    if accelerator(trainer) == "gpu":
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()}"
