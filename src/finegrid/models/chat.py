"""A user's turn by a tokenizer's own chat template: the tokens around a text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finegrid.errors import require

MARK = "THE-TEXT-OF-THE-USER"
DAY = "26 Jul 2024"  # Llama 3's own default; else its template names the day of the run


@dataclass(frozen=True)
class Turn:
    """The token ids before and behind a user's text; the answer would begin after them."""

    before: list[int]
    behind: list[int]

    def encode(self, tokenize: Callable[..., Any], text: str | list[str], **named: Any) -> Any:
        """What the tokenizer gives for a text or a list of them, each in its turn.

        Of a text longer than `max_length` the end is cut, not the turn's. Tokens are those of the
        template as one text, unless blanks at an end of the text would join with the template's.
        """
        if named.get("truncation") and named.get("max_length"):
            named["max_length"] -= len(self.before) + len(self.behind)
        encoded = tokenize(text, **named | {"add_special_tokens": False})
        for name, values in encoded.items():
            around = {"input_ids": (self.before, self.behind)}.get(name) or tuple(
                [int(name == "attention_mask")] * len(ids) for ids in (self.before, self.behind)
            )
            for row in [values] if isinstance(text, str) else values:
                row[:] = [*around[0], *row, *around[1]]
        return encoded


def turn(tokenizer: Any, max_length: int) -> Turn:
    """The turn of a tokenizer's chat template, up to where the answer begins.

    Raises:
        UserError: if it has no template, one that is another every day, or one that leaves no room
            for a text in `max_length` tokens.
    """
    template = getattr(tokenizer, "chat_template", None)
    require(bool(template), "model.chat_template=own: its tokenizer has no chat template; use none")
    daily = "strftime_now" in str(template) and "date_string" not in str(template)
    require(not daily, "model.chat_template=own: the template names the day of the run; use none")
    said = [{"role": "user", "content": MARK}]
    text = tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=True, date_string=DAY
    )
    require(text.count(MARK) == 1, "model.chat_template=own: the template repeats or drops a text")
    before, behind = (
        tokenizer(part, add_special_tokens=False).input_ids for part in text.split(MARK)
    )
    around = len(before) + len(behind)
    require(
        around < max_length,
        f"model.max_length={max_length} leaves no room for a text: the chat template has {around} "
        "tokens itself",
    )
    return Turn(before, behind)
