"""What a run costs: parameters, FLOPs, memory."""

import resource
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from finegrid.config import TrainerConfig
from finegrid.data.batching import Encoded
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.seeds import forked
from finegrid.training import device
from finegrid.training.flops import floor_flops, matmul_rate
from finegrid.training.module import FineTuner

COUNTED = 4  # rows whose FLOPs are counted
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter(pl.Callback):
    """Counts what trains and what a token costs, before the clock starts; watches peak memory."""

    def __init__(self, encoded: Encoded, trainer: TrainerConfig) -> None:
        self.encoded = encoded
        self.parameters: dict[str, int] = {}
        self.flops_per_token = self.floor_per_token = 0.0
        self.matmul_rate = machine_rate(trainer)  # first: its matrices are no memory of the run
        reset_peak_memory()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, on the device, after the method has operated."""
        assert isinstance(pl_module, FineTuner)
        self.parameters = count_parameters(pl_module.model, pl_module.backbone.sites)
        self.flops_per_token = count_flops(pl_module, self.encoded)
        self.floor_per_token = floor_flops(pl_module.model, pl_module.backbone.sites)

    def mfu(self, tokens: int, seconds: float) -> float | None:
        """The seconds that so many tokens need at least, as a share of those that they took."""
        floor = self.floor_per_token * tokens / self.matmul_rate
        return floor / seconds if floor and seconds else None


def machine_rate(trainer: TrainerConfig) -> float:
    """FLOP/s of matrix products on a run's device, in its precision, with its threads."""
    name = "cuda" if device.accelerator(trainer) == "gpu" else "cpu"
    mixed = device.precision(trainer) == "bf16-mixed"
    dtype = torch.bfloat16 if mixed else torch.float32
    return matmul_rate(name, dtype, torch.get_num_threads())


def count_parameters(model: PreTrainedModel, sites: Sites) -> dict[str, int]:
    """Counts of what trains: the delta inside the base model, its pooler, the head; and all."""
    base = f"{model.base_model_prefix}."
    pooler = tuple(f"{site.name}." for site in sites["pooler"]) if "pooler" in sites else ()
    counts = {"params_delta": 0, "params_pooler": 0, "params_head": 0}
    for name, parameter in surgery.trainable(model).items():
        part = "pooler" if name.startswith(pooler) else "delta"
        counts[f"params_{part if name.startswith(base) else 'head'}"] += parameter.numel()
    return counts | {"params_total": sum(p.numel() for p in model.parameters())}


def count_flops(module: FineTuner, encoded: Encoded) -> float:
    """FLOPs of forward and backward per token of text, counted on a few rows of middling length.

    Matrix products only, as executed in fp32: what is frozen below the first trainable parameter
    costs no backward.
    """
    order = encoded.lengths.argsort()
    middle = order[max(0, (len(order) - COUNTED) // 2) :][:COUNTED].tolist()
    batch: dict[str, Any] = encoded.batch(middle)
    tokens: int = batch.pop("real_tokens")
    batch = {name: value.to(module.device) for name, value in batch.items()}
    with forked(0), FlopCounterMode(display=False) as counter:
        module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
    module.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / tokens


def reset_peak_memory() -> None:
    """Forget the peaks of whatever ran in this process before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if CLEAR.exists():
        CLEAR.write_text("5", encoding="ascii")  # Linux: restart this process's high-water mark


def peak_memory() -> int:
    """Bytes at the peak since the reset: allocated on the GPU, or resident in this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
