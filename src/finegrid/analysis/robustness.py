"""Scores of finished runs on test rows with edited words: what slips of the pen cost a method.

A fixed set of edits, the same for every run and on every machine. Of a text's words of four letters
or more a share is edited, one at least, chosen by a hash of the text. An edited word keeps its
first and last letter; the hash says whether two letters between them change places, one is left
out, or one is written twice. The metric is the task's own, on all test rows.

Sparse subnetworks are said to be as robust as the dense model (Liu et al. 2022, arXiv 2210.05211).
Where we differ: their tests are other data sets, made to contradict a bias of the training rows;
these edits leave a row's meaning, and so its label, as they are, but for rare words that another
word's misspelling spells. Texts that are lists are edited item by item.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from finegrid.analysis import smoothing
from finegrid.analysis.rows import scored
from finegrid.errors import require
from finegrid.inference import Restored, restore
from finegrid.runs.record import Record

WORD = re.compile(r"[^\W\d_]{4,}")
OF = ["task", "model", "fraction", "method"]  # what a line of the table is of, over seeds
NUMBERS = ("score", "edited", "change", "smoothed", "smoothed_edited")
Change = Callable[[str, int], str]  # (word, the place of an inner letter that has one behind it)


def _swapped(word: str, at: int) -> str:
    return f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}"


def _left_out(word: str, at: int) -> str:
    return word[:at] + word[at + 1 :]


def _doubled(word: str, at: int) -> str:
    return word[: at + 1] + word[at:]


CHANGES: tuple[Change, ...] = (_swapped, _left_out, _doubled)


def edited(text: str, share: float) -> str:
    """A text with a share of its longer words misspelt, at least one; the same every time."""
    words = list(WORD.finditer(text))
    keys = [hashlib.sha256(f"{n} {text}".encode()).digest() for n in range(len(words))]
    chosen = sorted(range(len(words)), key=keys.__getitem__)[: ceil(share * len(words))]
    for number in sorted(chosen, reverse=True):
        word, key = words[number], keys[number]
        change = CHANGES[key[0] % len(CHANGES)]
        place = 1 + key[1] % (len(word[0]) - 3)
        text = text[: word.start()] + change(word[0], place) + text[word.end() :]
    return text


def edited_all(value: Any, share: float) -> Any:
    """A text, or the texts in a list, edited; anything else as it is."""
    if isinstance(value, str):
        return edited(value, share)
    if isinstance(value, list | tuple):
        return type(value)(edited_all(item, share) for item in value)
    return value


@dataclass(frozen=True)
class Edits:
    """How the test rows are changed, and whether predictions are by a vote besides."""

    share: float  # of a text's longer words that are misspelt
    votes: int = 0  # copies of each text in a smoothed prediction; 0: none is made
    masked: float = 0.3  # share of a copy's words that is masked and filled again

    def __post_init__(self) -> None:
        for name in ("share", "masked"):
            value = getattr(self, name)
            require(0 < value <= 1, f"--{name} {value:g} must lie in (0, 1]; 0.1 is a tenth")
        require(self.votes >= 0, f"--votes {self.votes} is negative")


def table(
    records: Mapping[Path, Record],
    edits: Edits,
    *,
    model_path: str | None = None,
    allow: Collection[str] = (),
) -> pd.DataFrame:
    """One row a run: task, model, fraction, method, seed, metric, score, edited, change.

    With votes also smoothed and smoothed_edited, the scores of `smoothing.outputs`.

    Raises:
        UserError: for a run whose model or rows are not there any more.
    """
    lines = []
    for directory, record in tqdm(records.items(), desc="runs", disable=None):
        run = restore(directory, model_path=model_path, allow=allow)
        about = {name: getattr(record, name) for name in (*OF, "seed", "metric")}
        lines.append(about | scores(run, edits))
    return pd.DataFrame(lines)


def scores(run: Restored, edits: Edits) -> dict[str, float]:
    """The headline on a run's test rows as they are and edited, without and with votes."""
    rows = scored(run, "test")
    labels = run.task.collate(rows.labels)
    misspelt = tuple([edited_all(text, edits.share) for text in column] for column in rows.texts)

    def of(outputs: Any) -> float:
        return run.task.score(outputs, labels)[run.task.headline]

    read = (rows.texts, misspelt)
    before, after = (of(run.outputs(texts, rows.attributes)) for texts in read)
    found = {"score": before, "edited": after, "change": after - before}
    if edits.votes:
        denoiser = smoothing.Denoiser(run)
        smooth = partial(smoothing.outputs, denoiser, share=edits.masked, votes=edits.votes)
        found |= {"smoothed": of(smooth(rows.texts)), "smoothed_edited": of(smooth(misspelt))}
    return found


def means(runs: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """A table's head, and its lines: a method on a task, its runs and their mean scores."""
    numbers = [name for name in NUMBERS if name in runs]
    lines = [
        [*map(str, keys), str(len(group)), *(f"{group[name].mean():.4f}" for name in numbers)]
        for keys, group in runs.groupby(OF, sort=True)
    ]
    return [*OF, "runs", *numbers], lines
