"""Cost of a run: trainable parameters, FLOPs per token and peak memory."""

import resource
from pathlib import Path

import pytorch_lightning as pl
import torch
from transformers import PreTrainedModel

from finegrid.config import TrainerConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.training import device
from finegrid.training.flops import flops_per_token, matmul_rate
from finegrid.training.module import FineTuner

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CostMonitor(pl.Callback):
    """Counts what trains and what a token costs, before the clock starts; watches peak memory."""

    def __init__(self, encoded: TokenizedDataset, trainer: TrainerConfig) -> None:
        self.encoded = encoded
        self.parameters: dict[str, int] = {}
        self.flops_per_token = 0.0
        self.other_tokens, self.other_flops = 0, 0.0  # of a search or an estimate, see `add`
        self.matmul_rate = machine_rate(trainer)  # first: its matrices are no memory of the run
        reset_peak_memory()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, on the device, after the method has operated."""
        assert isinstance(pl_module, FineTuner)
        self.count(pl_module)
        self.flops_per_token = flops_per_token(pl_module, self.encoded)

    def count(self, module: FineTuner) -> None:
        """Count what trains."""
        self.parameters = count_parameters(module.model, module.backbone.sites)

    def add(self, tokens: int, rate: float) -> None:
        """Add tokens that cost another rate of FLOPs than those of training."""
        self.other_tokens += tokens
        self.other_flops += rate * tokens

    def flops(self, tokens: int) -> float:
        """FLOPs of so many tokens, all that were added among them."""
        return self.other_flops + self.flops_per_token * (tokens - self.other_tokens)

    def mfu(self, tokens: int, seconds: float) -> float | None:
        """Model FLOPs utilisation: the FLOP/s of training as a share of the machine's own."""
        needed = self.flops(tokens) / self.matmul_rate  # seconds
        return needed / seconds if needed and seconds else None


def machine_rate(trainer: TrainerConfig) -> float:
    """FLOP/s of matrix products on a run's device, in its precision, with its threads."""
    name = "cuda" if device.accelerator(trainer) == "gpu" else "cpu"
    mixed = device.precision(trainer) == "bf16-mixed"
    dtype = torch.bfloat16 if mixed else torch.float32
    return matmul_rate(name, dtype, torch.get_num_threads())


def count_parameters(model: PreTrainedModel, sites: Sites) -> dict[str, int]:
    """Counts of what trains: the delta inside the base model, its pooler, the head; and all."""
    base = set(map(id, model.base_model.parameters()))
    pooler = tuple(f"{site.name}." for site in sites["pooler"]) if "pooler" in sites else ()
    counts = {"params_delta": 0, "params_pooler": 0, "params_head": 0}
    for name, parameter in surgery.trainable(model).items():
        part = "pooler" if name.startswith(pooler) else "delta"
        counts[f"params_{part if id(parameter) in base else 'head'}"] += parameter.numel()
    return counts | {"params_total": sum(p.numel() for p in model.parameters())}


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
