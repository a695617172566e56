"""Tokens of a pattern: a row's texts in the template, with masks or the end where the word stands.

Of an encoder the row is one text between the tokenizer's special tokens; of a decoder it ends
where the word begins. A special token's name inside a text is text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finegrid.errors import require
from finegrid.models.heads.texts import frame, tokens_of
from finegrid.tasks.modules.pattern import PLACE, WHERE, Pattern, fill
from finegrid.tasks.task import Task

__all__ = ["PLACE", "WHERE", "Cloze", "mask_id", "word_ids"]


@dataclass(frozen=True)
class Cloze:
    """Makes tokens of a task's rows by a pattern."""

    pattern: Pattern
    task: Task

    def encoding(self, decoder: bool) -> dict[str, Any]:
        """The pattern."""
        return {"pattern": asdict(self.pattern), "columns": self.task.text, "decoder": decoder}

    def unknown_labels(self, texts: Sequence[Sequence[Any]]) -> Any:
        """Those of the task."""
        return self.task.unknown_labels(texts)

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
        """`input_ids` of N rows, and how many lost a part of their texts."""
        rows = [tuple(row) for row in zip(*texts, strict=True)]
        longest = max(map(len, word_ids(self.pattern, tokenizer)))
        left, right = frame(tokenizer)
        middle = [] if decoder else [mask_id(tokenizer)] * longest
        right = [] if decoder else right
        room = max_length - len(left) - longest - len(right)
        cut = 0
        parts = self._parts(rows, tokenizer, decoder)
        for number, row in enumerate(rows):
            kept = row
            while (excess := sum(map(len, parts[number])) - room) > 0:
                kept = self._shortened(kept, excess, tokenizer)
                (parts[number],) = self._parts([kept], tokenizer, decoder)
            cut += kept is not row
        ids = [[*left, *before, *middle, *behind, *right] for before, behind in parts]
        return {"input_ids": ids, "truncated": cut}

    def _parts(
        self, rows: Sequence[tuple[str, ...]], tokenizer: Any, decoder: bool
    ) -> list[tuple[list[int], list[int]]]:
        """Tokens of each row before the word's place and behind it."""
        before, behind = self.pattern.ends
        columns = self.task.text
        first = tokens_of(tokenizer, [fill(before, columns, row) for row in rows])
        if decoder:
            return [(ids, []) for ids in first]
        second = tokens_of(tokenizer, [fill(behind, columns, row) for row in rows])
        return list(zip(first, second, strict=True))

    def _shortened(self, row: tuple[str, ...], excess: int, tokenizer: Any) -> tuple[str, ...]:
        """A row without about so many tokens, taken one by one from the end of the longest text."""
        ends = [_ends(tokenizer, text) for text in row]
        require(
            any(ends),
            f"{WHERE} of {self.task.name} leaves no room for texts; raise model.max_length",
        )
        for _ in range(excess):
            longest = max(ends, key=len)
            if longest:
                longest.pop()
        pairs = zip(row, ends, strict=True)
        return tuple(text[: places[-1] if places else 0] for text, places in pairs)


def word_ids(pattern: Pattern, tokenizer: Any) -> list[list[int]]:
    """Token ids of each class's word, as it stands in the template.

    Raises:
        UserError: for a word that the tokenizer does not know, or two that it does not tell apart.
    """
    found = tokens_of(tokenizer, pattern.spoken)
    for word, ids in zip(pattern.words, found, strict=True):
        known = bool(ids) and getattr(tokenizer, "unk_token_id", None) not in ids
        require(known, f"task.pattern.words: the tokenizer does not know {word!r}; use another")
        require(
            found.count(ids) == 1,
            f"task.pattern.words: {word!r} has the tokens of another word; use another",
        )
    return found


def mask_id(tokenizer: Any) -> int:
    """The id of the mask."""
    require(
        tokenizer.mask_token_id is not None,
        "head=pattern: the model's tokenizer has no mask token; use another model",
    )
    return int(tokenizer.mask_token_id)


def _ends(tokenizer: Any, text: str) -> list[int]:
    """Where in a text each of its tokens ends; of a tokenizer that cannot tell, each character."""
    if not getattr(tokenizer, "is_fast", False):
        return list(range(1, len(text) + 1))
    offsets = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )["offset_mapping"]
    return [end for _, end in offsets]
