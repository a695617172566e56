"""Patterns: a template that makes one text of a row, and the word that stands in it for each class.

A template is text with `{COLUMN}` for each text column of the task and `{label}` where the word of
the class belongs: "{sentence}\nQuestion: Is it positive or negative?\nAnswer: {label}".
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from finegrid.errors import nearest, require

PLACE = re.compile(r"\{([^{}]+)\}")
LABEL = "label"  # the word's place
WHERE = "task.pattern.template"


@dataclass
class Pattern:
    """A template and the words of the classes, by their number."""

    template: str
    words: list[str]

    def __post_init__(self) -> None:
        places = PLACE.findall(self.template)
        require(
            places.count(LABEL) == 1,
            f"{WHERE}={self.template!r} must hold {{{LABEL}}} once, where the word of the class is",
        )
        words = [word.strip() for word in self.words]
        require(
            all(words) and len(set(words)) == len(words) > 1,
            f"task.pattern.words={self.words} must name a word for each class, all different",
        )

    def check(self, columns: Sequence[str], labels: Collection[str]) -> None:
        """Check it against a task's text columns and class names; the names may be unknown yet.

        Raises:
            UserError: for a place that is no column, a column without a place, or words that are
                not as many as the classes.
        """
        places = set(PLACE.findall(self.template)) - {LABEL}
        other = min(places - set(columns), default="")
        require(
            not other,
            f"{WHERE}={self.template!r}: {{{other}}} is no text column; {nearest(other, columns)}",
        )
        lacks = [name for name in columns if name not in places]
        require(not lacks, f"{WHERE}={self.template!r} has no place for {{{', '.join(lacks)}}}")
        require(
            len(self.words) == len(labels) or not labels,
            f"task.pattern.words={self.words} are {len(self.words)}, but the classes "
            f"{len(labels)}: {', '.join(labels)}",
        )

    @property
    def ends(self) -> tuple[str, str]:
        """The template before the word's place, without the space that the word begins with.

        And the template behind it.
        """
        before, _, behind = self.template.partition(f"{{{LABEL}}}")
        return before.removesuffix(" "), behind

    @property
    def spoken(self) -> list[str]:
        """The words as they stand in the text: with a space in front where the template has it."""
        space = " " if f" {{{LABEL}}}" in self.template else ""
        return [space + word.strip() for word in self.words]


def fill(part: str, columns: Sequence[str], texts: Sequence[str]) -> str:
    """A part of a template with a row's texts in their places; braces in them stay as they are."""
    named = dict(zip(columns, texts, strict=True))
    return PLACE.sub(lambda place: named[place[1]], part)
