"""Attention of our own, through transformers' attention interface: quick dropout, and prefixes.

An attention module that has a child `prefix` sees that child's keys and values in front of its
own; one without attends as before. Each text sees the whole prefix, whatever its mask says of the
tokens, in local layers too.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finegrid.errors import UserError
from finegrid.kernels.dropout import dropout as drop
from finegrid.kernels.dropout import stream_of

VECTOR = 16  # fp32 numbers in a vector register of AVX-512
OWN = {"eager": "finegrid_eager", "sdpa": "finegrid_sdpa"}


def take_over(backbone: Any) -> None:
    """Let every attention module of a backbone attend by the functions of this file.

    Raises:
        UserError: for an attention implementation other than eager and sdpa.
    """
    current = backbone.config._attn_implementation
    if current not in OWN.values():
        if current not in OWN:
            raise UserError(
                f"attention {current!r} takes no prefix; load the model with one of: "
                + ", ".join(OWN)
            )
        backbone.config._attn_implementation = OWN[current]


def _eager(
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
    """Softmax attention, B heads T d -> B T heads d, and its weights."""
    batch, heads, length, width = query.shape
    keys = key.shape[2]
    if query.is_cpu and query.dtype == torch.bfloat16:
        key, value, mask = _filled_up(key, value, mask)
    scores = torch.baddbmm(
        _flat(mask, query),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        alpha=scaling or width**-0.5,
    )
    weights = _softmax(scores.view(batch, heads, length, -1))
    streams = [(stream_of(module), weights.numel())]
    weights = drop(weights, dropout, training=module.training, streams=streams)
    return (weights @ value).transpose(1, 2).contiguous(), weights[..., :keys]


def _flat(mask: Tensor | None, query: Tensor) -> Tensor:
    """What is added to the scores of all texts' heads, one after the other, in their precision."""
    if mask is None:
        return query.new_zeros(())
    return mask.to(query.dtype).expand(*query.shape[:2], -1, -1).flatten(0, 1)


def _filled_up(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Any]:
    """Keys and values in a multiple of `VECTOR`, those that were added hidden by the mask.

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
    """Softmax over the keys, computed in fp32 and given in the precision of the scores.

    A CPU's kernel computes rows that are shorter than its vectors number by number, which takes
    five times as long as the same rows filled up with keys that nobody sees. Longer rows of bf16 it
    reads and gives as they are.
    """
    keys, dtype = scores.shape[-1], scores.dtype
    if scores.is_cpu and keys >= VECTOR:
        return functional.softmax(scores, dim=-1)
    if scores.is_cpu:
        scores = functional.pad(scores, (0, VECTOR - keys), value=-torch.inf)
    return functional.softmax(scores, dim=-1, dtype=torch.float32)[..., :keys].to(dtype)


def _sdpa(*args: Any, **named: Any) -> Any:
    return ALL_ATTENTION_FUNCTIONS["sdpa"](*args, **named)


def _prefixed(attend: Any) -> Any:
    """An attention function that puts a module's prefix in front of its keys and values."""

    def attend_to_prefix(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **named: Any
    ) -> Any:
        prefix = module._modules.get("prefix")
        if prefix is not None:
            more_keys, more_values = prefix(query)  # B heads length d
            key = torch.cat([more_keys.to(key.dtype), key], dim=2)
            value = torch.cat([more_values.to(value.dtype), value], dim=2)
            mask = _widened(mask, more_keys.shape[2])
        return attend(module, query, key, value, mask, **named)

    return attend_to_prefix


def _widened(mask: Tensor | None, columns: int) -> Tensor | None:
    """A mask (.., queries, keys) with visible keys in front; none means that all is visible."""
    if mask is None:
        return None
    visible = 1.0 if mask.dtype == torch.bool else 0.0  # bool: may be seen; float: is added
    return functional.pad(mask, (columns, 0), value=visible)


for _name, _attend in (("eager", _eager), ("sdpa", _sdpa)):
    ALL_ATTENTION_FUNCTIONS.register(OWN[_name], _prefixed(_attend))
    ALL_MASK_ATTENTION_FUNCTIONS.register(OWN[_name], ALL_MASK_ATTENTION_FUNCTIONS[_name])
