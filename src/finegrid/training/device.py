"""The device of a run and the precision it computes in."""

import platform

import torch

from finegrid.config import TrainerConfig
from finegrid.errors import require


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
    """Whether the device multiplies bf16 matrices in hardware made for it: tensor cores, or AMX."""
    if accelerator == "gpu":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def device(trainer: TrainerConfig) -> str:
    """Name of the device: the GPU's, or the CPU's architecture."""
    if accelerator(trainer) == "gpu":
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()}"
