"""Dropout from 16 random bits an element: a quarter of PyTorch's time on a CPU.

PyTorch draws one number an element, which in bf16 costs more than the matrix products. Here each
64 random bits decide four elements: one stays where its 16 bits, as a number, reach p 2^16. The
probability is thereby rounded to 1 in 65,536, and the scale 1 / (1 - p) is that of the rounded p,
so that the mean stays exact.

Each model draws from a random stream of its own, so that several models in one process do not
influence one another: numpy's SFC64, twice as fast as PyTorch's; where none was set, from PyTorch's
global generator. On a GPU PyTorch's dropout is used, which knows the global generator alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 1 << 16  # values of 16 bits
Source = np.random.BitGenerator
Stream = tuple[Source | None, int]  # a random stream, and how many elements it decides


class FastDropout(nn.Dropout):
    """`nn.Dropout` that computes by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with a share `p` of its elements zero and the others scaled up."""
        streams = [(stream_of(self), input.numel())]
        return dropout(input, self.p, training=self.training, streams=streams)


def dropout(
    x: Tensor, p: float, *, training: bool, streams: Sequence[Stream] | None = None
) -> Tensor:
    """x with each element zero with probability p, and scaled by 1 / (1 - p) otherwise.

    The streams decide one after the other, in the order of the elements.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, p)
    threshold = round(p * STEPS)
    if threshold in (0, STEPS):
        return x if threshold == 0 else x * 0.0
    streams = streams or [(None, x.numel())]
    dropped: Tensor = _Dropped.apply(x, threshold, streams)  # type: ignore[no-untyped-call]
    return dropped


def patch_dropout(model: nn.Module) -> None:
    """Turn every `nn.Dropout` of a model into a `FastDropout`, in place; subclasses stay."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


def draw_from(model: nn.Module, source: Source) -> None:
    """Let all dropout of a model, in its attention too, draw from one random stream."""
    for module in model.modules():
        module.__dict__["dropout_stream"] = source


def stream_of(module: nn.Module) -> Source | None:
    """The random stream that a module draws from; None for PyTorch's global generator."""
    return module.__dict__.get("dropout_stream")


class _Dropped(torch.autograd.Function):
    """x times a mask of zeros and scales."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int, streams: Sequence[Stream]) -> Tensor:
        drawn = [_bits(source, count) for source, count in streams]
        bits = (drawn[0] if len(drawn) == 1 else torch.cat(drawn)).view(x.shape)
        mask = _mask(bits, threshold, x.dtype)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0] * mask, None, None


def _mask(bits: Tensor, threshold: int, dtype: torch.dtype) -> Tensor:
    """0 where the bits' number is one of the `threshold` lowest, the scale elsewhere.

    `bits` are overwritten. A mask of 16-bit floats is made in integers, in half the time: the
    scale's bit pattern, times 0 or 1.
    """
    last = threshold - STEPS // 2 - 1  # the highest number that drops
    stays = bits.clamp_(last, last + 1).sub_(last)
    scale = torch.tensor(STEPS / (STEPS - threshold), dtype=dtype)
    if dtype.itemsize == bits.itemsize:
        return stays.mul_(scale.view(bits.dtype)).view(dtype)
    return stays.to(dtype).mul_(scale)


def _bits(source: Source | None, count: int) -> Tensor:
    """`count` numbers of 16 random bits, int16."""
    words = (count + 3) // 4
    if source is None:
        drawn = torch.empty(words, dtype=torch.int64).random_(-(2**63), None)
    else:
        drawn = torch.from_numpy(source.random_raw(words).view(np.int64))
    return drawn.view(torch.int16)[:count]
