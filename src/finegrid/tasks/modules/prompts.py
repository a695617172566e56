"""Prompts and what follows them: templates, and their tokens as a causal language model reads them.

A template is text with `{text}` where the row's text goes. What follows is tokenised together with
the prompt and then cut off it, so that no token is another one than in running text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finegrid.errors import require

PLACE = "{text}"  # of the row's text in a template


def check_template(template: str) -> None:
    """Refuse a template that has no place, or several, for the row's text.

    Raises:
        UserError: naming the setting.
    """
    require(
        template.count(PLACE) == 1,
        f"task.template={template!r} must hold {PLACE} once, where the row's text goes",
    )


def fill(template: str, text: str) -> str:
    """A row's prompt; braces in the text stay as they are."""
    return template.replace(PLACE, text)


@dataclass(frozen=True)
class Continued:
    """N tokenised sequences, each a prompt and, from `starts[i]` on, what follows it."""

    ids: list[list[int]]
    starts: list[int]  # at least 1: the first token of what follows needs one before it
    cut: list[bool]  # whether tokens were left out


def continued(
    tokenizer: Any,
    prompts: Sequence[str],
    follows: Sequence[str],
    *,
    max_length: int,
    end: int | None = None,
) -> Continued:
    """Tokenise each prompt with what follows it; `end` is a token to put behind all.

    As lm-eval-harness 0.4.13 does (`_encode_pair`): a prompt's last spaces go to what follows it,
    both are tokenised as one text, and what lies behind the prompt's own tokens follows it. A
    sequence longer than `max_length` loses its prompt's first tokens, of which one is left at
    least, then the last ones of what follows.

    Raises:
        UserError: if the prompt's tokens do not begin those of the whole.
    """
    if not prompts:  # which tokenizers do not take
        return Continued([], [], [])
    bare = [prompt.rstrip() for prompt in prompts]
    whole = [prompt + follow for prompt, follow in zip(prompts, follows, strict=True)]
    contexts = tokenizer(bare, add_special_tokens=True)["input_ids"]
    sequences = tokenizer(whole, add_special_tokens=True)["input_ids"]
    made = Continued([], [], [])
    for row, (context, sequence) in enumerate(zip(contexts, sequences, strict=True)):
        require(
            sequence[: len(context)] == context and len(sequence) > len(context) > 0,
            f"task.template: the tokens of the prompt {bare[row][-40:]!r} do not begin those of "
            f"the prompt with {follows[row][:40]!r} behind it; end the template where a word ends",
        )
        prompt, follow = context, sequence[len(context) :] + ([] if end is None else [end])
        room = max(1, max_length - len(follow))
        ids = prompt[-room:] + follow[: max_length - 1]
        made.ids.append(ids)
        made.starts.append(min(len(prompt), room))
        made.cut.append(len(ids) < len(prompt) + len(follow))
    return made
