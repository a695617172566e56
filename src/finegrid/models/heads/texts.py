"""Tokens of texts alone, and the special tokens that a tokenizer puts around a text."""

from collections.abc import Sequence
from typing import Any


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts alone, in which no special token is read."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and behind a text."""
    (bare,) = tokens_of(tokenizer, ["a"])
    complete = tokenizer("a", return_attention_mask=False)["input_ids"]
    start = next(n for n in range(len(complete)) if complete[n : n + len(bare)] == bare)
    return complete[:start], complete[start + len(bare) :]
