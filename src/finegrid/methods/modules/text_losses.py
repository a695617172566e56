"""Losses of texts without labels: distillation of a model's own states, and hidden tokens."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.methods.base import Texts
from finegrid.models.heads.masked_language import MaskedLanguageModel


def distillation(texts: Texts, teacher: AbstractContextManager[None]) -> Tensor:
    """Mean over layers and tokens of 1 - cos(h, h'), h' the states within `teacher`.

    Those are computed first, without dropout or gradient.
    """
    training = texts.base.training
    texts.base.eval()
    with teacher, torch.no_grad():
        theirs, _ = _states(texts)
    texts.base.train(training)
    ours, seen = _states(texts)
    losses = [_distance(one, other, seen) for one, other in zip(ours, theirs, strict=True)]
    return torch.stack(losses).mean()


def hidden_tokens(texts: Texts, language: MaskedLanguageModel) -> Tensor:
    """Mean cross-entropy of hidden tokens, read by the checkpoint's own head."""
    passes: list[tuple[Tensor, Tensor]] = []  # (ids, which of them are hidden)
    states: list[Tensor] = []

    def hide(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        ids = inputs[0] if inputs else named["input_ids"]
        read, hidden = language.hide(ids)
        passes.append((ids, hidden))
        return ((read, *inputs[1:]), named) if inputs else ((), named | {"input_ids": read})

    def keep(_: nn.Module, inputs: object, output: Any) -> None:
        states.append(output.last_hidden_state)

    with _hooks(
        texts.base.register_forward_pre_hook(hide, with_kwargs=True),
        texts.base.register_forward_hook(keep),
    ):
        texts.read()
    pairs = list(zip(passes, states, strict=True))
    # a soft prompt may stand before the text
    h = torch.cat([h[:, -ids.shape[1] :][hidden] for (ids, hidden), h in pairs])
    return language.loss(h, torch.cat([ids[hidden] for ids, hidden in passes]))


def _states(texts: Texts) -> tuple[list[Tensor], Tensor | None]:
    """What each layer makes of the texts, B T H, and which tokens are none of the padding, B T."""
    states: list[Tensor] = []
    masks: list[Any] = []

    def keep(_: nn.Module, inputs: object, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    def look(_: nn.Module, inputs: object, named: dict[str, Any]) -> None:
        masks.append(named.get("attention_mask"))

    with _hooks(
        texts.base.register_forward_pre_hook(look, with_kwargs=True),
        *(site.module.register_forward_hook(keep) for site in texts.sites["layer"]),
    ):
        texts.read()
    mask = masks[0] if len(masks) == 1 and isinstance(masks[0], Tensor) else None
    return states, mask.bool() if mask is not None and mask.ndim == 2 else None


def _distance(ours: Tensor, theirs: Tensor, seen: Tensor | None) -> Tensor:
    away = 1 - functional.cosine_similarity(ours.float(), theirs.float(), dim=-1)  # B T
    return away.mean() if seen is None else away[:, -seen.shape[1] :][seen].mean()


@contextmanager
def _hooks(*handles: Any) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
