"""What makes tokens of rows."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

NO_LABEL = -100  # of a token, as torch's cross-entropy has it


class Reader(Protocol):
    """What makes tokens of rows: a task, or a head that reads them its own way."""

    def encoding(self, decoder: bool) -> dict[str, Any]:
        """What else than texts, tokenizer and length decides the tokens, see `Task.encoding`."""

    def encode(
        self,
        texts: Sequence[Sequence[Any]],
        labels: Any,
        tokenizer: Any,
        *,
        max_length: int,
        decoder: bool,
        train: bool,
    ) -> Mapping[str, Any]:
        """Tokens of N rows, as N lists for every field, see `Task.encode`."""

    def unknown_labels(self, texts: Sequence[Sequence[Any]]) -> Any:
        """Labels of the right shape for rows that have none."""
