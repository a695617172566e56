"""FLOPs of a training step per token of text, and the FLOP/s that the machine has for them."""

import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from finegrid.data.batching import TokenizedDataset
from finegrid.seeds import forked
from finegrid.training.module import FineTuner

GAUGE = 0.02  # seconds: every cell of a sweep pays them


def flops_per_token(
    module: FineTuner, encoded: TokenizedDataset, *, backward: bool = True
) -> float:
    """FLOPs of forward and backward per token of text, counted on the row of median length.

    Matrix products only, as executed in fp32: what is frozen below the first trainable parameter
    costs no backward. A single row has no padding, which other batches have more or less of.
    """
    middle = int(encoded.lengths.argsort(kind="stable")[len(encoded.lengths) // 2])
    batch = encoded.batch([middle])
    tokens: int = batch.pop("real_tokens")
    batch = {name: value.to(module.device) for name, value in batch.items()}
    with forked(0), FlopCounterMode(display=False) as counter:
        loss = module.training_step(batch, 0)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    module.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / tokens


@cache
def matmul_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a square matrix product: the best of many, since neighbours only ever slow it."""
    # on few threads as small as full speed allows: a short product is more often undisturbed
    side = 4096 if device == "cuda" else 384 if threads <= 4 else 1024
    # no random numbers: they would shift everybody else's draws
    square = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(dtype)
    _timed(square)  # sets up the library
    times = [_timed(square)]
    while sum(times) < GAUGE:
        times.append(_timed(square))
    return 2 * side**3 / min(times)


def _timed(square: torch.Tensor) -> float:
    """Seconds of one product."""
    began = time.perf_counter()
    square @ square
    if square.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
