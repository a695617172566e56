"""Prefixes for attention: learned keys and values in front of the text's.

An attention module with a child `prefix` attends to that child's keys and values too; one without
attends as before. Each text sees the complete prefix, whatever its mask says of the tokens, in
local layers too, or what of it the child's `seen` says. Works through transformers' attention
interface, around whichever softmax attention a model uses.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finegrid.errors import require

PREFIXED = "prefixed_"  # begins the name of an attention implementation that reads prefixes
FORMULAS = ("eager", "sdpa")  # ends the name of one that can be given more keys than queries


def read_prefixes(backbone: Any) -> None:
    """Let the attention modules of a backbone look for prefixes; calling it again changes nothing.

    Raises:
        UserError: for an attention implementation other than eager and sdpa.
    """
    current = backbone.config._attn_implementation
    require(
        current.endswith(FORMULAS),
        f"attention {current!r} takes no prefix; load the model with one of: {', '.join(FORMULAS)}",
    )
    if current.startswith(PREFIXED):
        return
    ALL_ATTENTION_FUNCTIONS.register(f"{PREFIXED}{current}", _prefixed(function_of(current)))
    mask_of = ALL_MASK_ATTENTION_FUNCTIONS[current]
    ALL_MASK_ATTENTION_FUNCTIONS.register(f"{PREFIXED}{current}", mask_of)
    backbone.config._attn_implementation = f"{PREFIXED}{current}"


def function_of(implementation: str) -> Callable[..., Any]:
    """The attention function of that name; transformers registers all but its eager one."""
    attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get(implementation, _stock_eager)
    return attend


def _stock_eager(module: nn.Module, *args: Any, **named: Any) -> Any:
    """The eager attention in the modeling file of a module's architecture."""
    architecture: Any = sys.modules[type(module).__module__]
    return architecture.eager_attention_forward(module, *args, **named)


def _prefixed(attend: Callable[..., Any]) -> Callable[..., Any]:
    """The attention function that puts a module's prefix in front of its keys and values."""

    def attend_to_prefix(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **named: Any
    ) -> Any:
        prefix: Any = module._modules.get("prefix")
        if prefix is not None:
            more_keys, more_values = prefix(query)  # B heads length d
            if mask is None and getattr(module, "is_causal", False):
                mask = _causal(query, key)  # which the function would misplace by the prefix
            seen = prefix.seen(query)
            if seen is not None and mask is None:
                mask = query.new_zeros(1, 1, 1, key.shape[2])
            mask = _widened(mask, more_keys.shape[2], seen)
            key = torch.cat([more_keys.to(key.dtype), key], dim=2)
            value = torch.cat([more_values.to(value.dtype), value], dim=2)
        return attend(module, query, key, value, mask, **named)

    return attend_to_prefix


def _causal(query: Tensor, key: Tensor) -> Tensor:
    """Which keys a query may see, queries x keys: those before it, its own, and all of a cache."""
    queries, keys = query.shape[2], key.shape[2]
    return query.new_ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def _widened(mask: Tensor | None, columns: int, seen: Tensor | None) -> Tensor | None:
    """A mask (.., queries, keys) with more keys in front; None means that all is visible.

    `seen` says which of these each row sees, rows x keys; None: all.
    """
    if mask is None:
        return None
    visible = 1.0 if mask.dtype == torch.bool else 0.0  # bool: may be seen; float: is added
    if seen is None:
        return functional.pad(mask, (columns, 0), value=visible)
    front = seen if mask.dtype == torch.bool else _to_add(seen, mask.dtype)
    mask = mask[(None,) * (4 - mask.ndim)].expand(len(seen), -1, -1, -1)
    front = front[:, None, None].expand(*mask.shape[:3], -1)
    return torch.cat([front, mask], dim=-1)


def _to_add(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of keys that are seen, and of others."""
    hidden = torch.full_like(seen, torch.finfo(dtype).min, dtype=dtype)
    return torch.where(seen, torch.zeros_like(hidden), hidden)
