"""Texts to tokens where a kind of task has nothing of its own to add."""

from collections.abc import Sequence
from typing import Any


def plain_encoding(texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> Any:
    """A tokenizer's way with rows of one or two texts."""
    return tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
