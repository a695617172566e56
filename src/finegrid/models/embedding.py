"""The embedding of a text: the one state of its row that a classifier reads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def sentence_embedding(output: Any, mask: Tensor | None, *, decoder: bool) -> Tensor:
    """B H of a base model's output: pooled, else the first token's state, of a decoder the last's.

    `mask`: B T, which tokens are none of the padding; None: all.
    """
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return torch.as_tensor(pooled)
    h: Tensor = output.last_hidden_state
    if not decoder:
        return h[:, 0]
    if mask is None:
        return h[:, -1]
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * places).argmax(1) + h.shape[1] - mask.shape[1]  # a soft prompt may come before
    return h[torch.arange(len(h), device=h.device), last]


def watch(base: nn.Module, see: Callable[[Any, Tensor], None], *, decoder: bool) -> Any:
    """Call `see(base, embedding)` after every pass of a base model; the handle ends it."""

    def seen(base: nn.Module, _: object, named: dict[str, Any], output: Any) -> None:
        mask = named.get("attention_mask")
        fits = isinstance(mask, Tensor) and mask.ndim == 2
        see(base, sentence_embedding(output, mask if fits else None, decoder=decoder))

    return base.register_forward_hook(seen, with_kwargs=True)
