"""Dropout at a quarter of its usual price on a CPU, with the same distribution.

PyTorch draws one number an element, which in bf16 costs more than the matrix products. Here each
64 random bits serve four elements: one is kept where its 16 bits, as a number, reach p 2^16. The
probability is thereby rounded to 1 in 65,536, and the scale 1 / (1 - p) is that of the rounded p,
so that the mean stays exact. On a GPU PyTorch's own kernel is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 1 << 16  # values of 16 bits


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with a share `p` of its elements zero and the others scaled up."""
        return dropout(input, self.p, training=self.training)


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """x with each element zero with probability p, and scaled by 1 / (1 - p) otherwise."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, p)
    dropped: Tensor = _Dropped.apply(x, round(p * STEPS))  # type: ignore[no-untyped-call]
    return dropped


def quicken(model: nn.Module) -> None:
    """Let every dropout module of a model drop that way; they stay the same modules."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout


class _Dropped(torch.autograd.Function):
    """x times a mask of zeros and scales; the mask is drawn from the global generator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:  # of STEPS
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        mask = torch.empty_like(x)
        drawn = bits.view(torch.int16)[: x.numel()].view(x.shape)
        torch.ge(drawn, threshold - STEPS // 2, out=mask)
        mask.mul_(STEPS / (STEPS - threshold) if threshold < STEPS else 0.0)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0] * mask, None
