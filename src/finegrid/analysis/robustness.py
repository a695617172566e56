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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from finegrid.analysis.rows import scored
from finegrid.errors import require
from finegrid.inference import Restored, restore
from finegrid.runs.record import Record

WORD = re.compile(r"[^\W\d_]{4,}")
OF = ["task", "model", "fraction", "method"]  # what a line of the table is of, over seeds
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


def table(
    records: Mapping[Path, Record],
    *,
    share: float,
    model_path: str | None = None,
    allow: Collection[str] = (),
) -> pd.DataFrame:
    """One row a run: task, model, fraction, method, seed, metric, score, edited, change.

    Raises:
        UserError: for a share outside (0, 1], or a run whose model or rows are not there any more.
    """
    require(0 < share <= 1, f"--share {share:g} must lie in (0, 1]; 0.1 edits every tenth word")
    return pd.DataFrame(_lines(records, share, model_path, allow))


def _lines(
    records: Mapping[Path, Record], share: float, model_path: str | None, allow: Collection[str]
) -> Iterator[dict[str, Any]]:
    for directory, record in tqdm(records.items(), desc="runs", disable=None):
        run = restore(directory, model_path=model_path, allow=allow)
        before, after = scores(run, share)
        about = {name: getattr(record, name) for name in (*OF, "seed", "metric")}
        yield about | {"score": before, "edited": after, "change": after - before}


def scores(run: Restored, share: float) -> tuple[float, float]:
    """The headline on a run's test rows as they are, and edited."""
    rows = scored(run, "test")
    labels = run.task.collate(rows.labels)
    texts = tuple([edited_all(text, share) for text in column] for column in rows.texts)
    before, after = (run.task.score(run.outputs(given), labels) for given in (rows.texts, texts))
    return before[run.task.headline], after[run.task.headline]


def means(runs: pd.DataFrame) -> Iterable[list[str]]:
    """Lines of text, one a method on a task: what it is of, runs, mean scores, mean change."""
    for keys, group in runs.groupby(OF, sort=True):
        values = group[["score", "edited", "change"]].mean()
        numbers = [f"{values['score']:.4f}", f"{values['edited']:.4f}", f"{values['change']:+.4f}"]
        yield [*map(str, keys), str(len(group)), *numbers]
