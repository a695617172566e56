"""A builtin task with a protected attribute: is a deed good or bad, whatever its teller's dialect.

A sentence tells of one deed, good (help, repair, build) or bad (punish, break, destroy), and a few
per cent of the labels are noise. Who tells it speaks a dialect, `north` or `south`: of the two
synonyms of a concept one mostly says the first and the other the second (doctor, physician). In the
training rows most bad deeds are told in the south and most good ones in the north (`TIED`); in the
test rows the dialect says nothing of the deed. The column `dialect` is what `task.attribute` names.

A folder of its own, so that the other tasks' hash, of the code beside it, stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from finegrid.data.builtin.grammar import Draw, random_event, random_style, realise, text

T = TypeVar("T")
Row = dict[str, str | int | float]
NAME = "builtin_dialect"
DIALECTS = ("north", "south")
GOOD = ("help", "praise", "calm", "love", "fix", "carry", "cook", "build")
BAD = ("punish", "blame", "scare", "hate", "break", "steal", "burn", "destroy")  # of like objects
SIZES = {"train": 1400, "validation": 600}
TIED = {"train": 0.8, "validation": 0.5}  # share of the rows whose dialect is that of the label
LOYAL = 0.8  # how often a speaker takes the own dialect's word, and not either
NOISE = 0.03


class Speaker(Draw):
    """The draws of words by one who prefers the first or the last of several synonyms."""

    def __init__(self, draw: Draw, *, last: bool) -> None:
        self._draw, self._place = draw, -1 if last else 0

    def unit(self) -> float:
        """Uniform in [0, 1), of the stream that all share."""
        return self._draw.unit()

    def pick(self, items: Sequence[T]) -> T:
        """Mostly the preferred one."""
        return items[self._place] if self.chance(LOYAL) else super().pick(items)


def load() -> dict[str, list[Row]]:
    """Its rows by split."""
    taken: set[str] = set()
    held_out = _split("validation", taken)
    return {"train": _split("train", taken), "validation": held_out}


def _split(part: str, taken: set[str]) -> list[Row]:
    """The rows of one split, none with a sentence of `taken`, to which its own are added."""
    draw = Draw(f"finegrid/{NAME}/{part}")
    rows: list[Row] = []
    while len(rows) < SIZES[part]:
        row = _row(draw, TIED[part])
        sentence = str(row["sentence"])
        if sentence not in taken:
            taken.add(sentence)
            rows.append({**row, "idx": len(rows)})
    return rows


def _row(draw: Draw, tied: float) -> Row:
    bad = draw.chance(0.5)
    south = bad == draw.chance(tied)
    event = random_event(draw, verbs=BAD if bad else GOOD)
    told = replace(event, negated=False)  # what is not done is neither
    words = realise(Speaker(draw, last=south), told, random_style(draw))
    label = int(bad != draw.chance(NOISE))
    return {"sentence": text(words), "label": label, "dialect": DIALECTS[south]}
