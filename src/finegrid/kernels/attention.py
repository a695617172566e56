"""Eager softmax attention with fast dropout and vector-aligned keys, for a CPU.

It replaces `eager_attention_forward` of transformers through the attention interface, under the
name `NAME`. SDPA stays as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finegrid.kernels.dropout import dropout as drop
from finegrid.kernels.dropout import stream_of

NAME = "finegrid_eager"
VECTOR = 16  # fp32 numbers in a vector register of AVX-512


def register_attention(base_model: Any) -> None:
    """Let a base model whose attention is eager attend by `attend`.

    An architecture that does not call transformers' attention interface stays as it is, and so does
    one that caps its scores.
    """
    config = base_model.config
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    fits = base_model._supports_attention_backend and not capped
    if fits and config._attn_implementation == "eager":
        base_model.config._attn_implementation = NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention, B heads T d -> B T heads d, and its weights; `mask` is added to scores.

    Query heads that share keys attend to them as one head of as many more positions.
    """
    batch, heads, length, width = query.shape
    keys = key.shape[2]
    together = heads // key.shape[1]
    if query.is_cpu and query.dtype == torch.bfloat16:
        key, value, mask = _aligned(key, value, mask)
    scores = torch.baddbmm(
        _flat(mask, query, together),
        query.reshape(-1, together * length, width),
        key.flatten(0, 1).transpose(1, 2),
        alpha=scaling or width**-0.5,
    )
    weights = _softmax(scores.view(batch, heads, length, -1))
    streams = [(stream_of(module), weights.numel())]
    weights = drop(weights, dropout, training=module.training, streams=streams)
    found = weights.view(batch, -1, together * length, weights.shape[-1]) @ value
    return found.view(query.shape).transpose(1, 2).contiguous(), weights[..., :keys]


def _flat(mask: Tensor | None, query: Tensor, together: int) -> Tensor:
    """The mask as (B heads) T keys, in the precision of the scores; 0 if there is none.

    Of heads that share keys, so many `together`, the positions follow one another.
    """
    if mask is None:
        return query.new_zeros(())
    rows = query.shape[2] if together > 1 else mask.shape[2]
    mask = mask.to(query.dtype).expand(*query.shape[:2], rows, -1)
    return mask.reshape(-1, together * rows, mask.shape[-1])


def _aligned(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Any]:
    """Keys and values padded to a multiple of `VECTOR`, the padding hidden by the mask.

    Matrix products and softmax over them then take 0.7 to 0.9 of the time. Fewer than `VECTOR` are
    left as they are.
    """
    keys = key.shape[2]
    more = -keys % VECTOR
    if keys < VECTOR or more == 0:
        return key, value, mask
    if mask is None:
        mask = key.new_zeros(1, 1, 1, keys)
    mask = functional.pad(mask, (0, more), value=-torch.inf)
    key, value = (functional.pad(x, (0, 0, 0, more)) for x in (key, value))
    return key, value, mask


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the keys, computed in fp32 and returned in the precision of the scores.

    A CPU's kernel computes rows that are shorter than its vectors number by number, which takes
    five times as long as the same rows padded. Longer rows of bf16 it reads and writes directly.
    """
    keys, dtype = scores.shape[-1], scores.dtype
    if scores.is_cpu and keys >= VECTOR:
        return functional.softmax(scores, dim=-1)
    if scores.is_cpu:
        scores = functional.pad(scores, (0, VECTOR - keys), value=-torch.inf)
    return functional.softmax(scores, dim=-1, dtype=torch.float32)[..., :keys].to(dtype)


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
