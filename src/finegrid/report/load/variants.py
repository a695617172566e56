"""One method run in several ways in one ranking: each way is a method of its own, and says so.

So is a task on other rows, such as `task=custom` on several files.
"""

import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from finegrid.errors import printable
from finegrid.runs import settings

RATE = "optim.lr"
LONGEST = 60  # characters of a value in a method's name; of a longer one a hash shows

Told = dict[str, str]  # key -> value, of the overrides that make a run another one


def joined(overrides: Sequence[str]) -> str:
    """A list of overrides as one text, as a shell would take them; `listed` gives it back."""
    return shlex.join(overrides)


def listed(overrides: str) -> list[str]:
    """The overrides in a text of `joined`."""
    try:
        pieces = shlex.split(overrides)
    except ValueError:  # a quote without its other one
        pieces = []
    return pieces if joined(pieces) == overrides else _spaced(overrides)


def _spaced(overrides: str) -> list[str]:
    """Overrides with nothing but spaces between them, as 0.6 wrote them; some hold spaces too."""
    pieces: list[str] = []
    for word in overrides.split(" "):
        if pieces and _open(pieces[-1]):
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    return pieces


def _open(piece: str) -> bool:
    """Whether a bracket or a quote is still open."""
    brackets = sum(piece.count(mark) for mark in "[{(") - sum(piece.count(mark) for mark in "]})")
    return brackets > 0 or piece.count("'") % 2 == 1 or piece.count('"') % 2 == 1


def named(runs: pd.DataFrame, ranking: list[str]) -> pd.Series:
    """Each run's method with the overrides by which it differs from others of a ranking.

    An argument of the method always shows (`lora method.rank=4`), another override where runs of
    one ranking differ in it, a rate where runs of the method do (`lora optim.lr=0.001`). A setting
    tells the same of all its rankings.
    """
    texts = runs["overrides"].fillna("").astype(str)
    parsed = {text: _parsed(text) for text in texts.unique()}
    kept = {text: _shown(text) for text in parsed}
    shown = texts.map(kept)
    rates = runs["lr"].fillna(texts.map(lambda text: _rate(parsed[text])))
    differing = _differing(runs.assign(shown=shown), ranking)
    by = [*ranking, "method"]
    several = rates.groupby([runs[name] for name in by]).transform("nunique") > 1
    tuned = set(zip(runs.loc[several, "setting"], runs.loc[several, "method"], strict=True))
    names = [
        _name(method, overrides, differing[setting], rate if (setting, method) in tuned else None)
        for setting, method, overrides, rate in zip(
            runs["setting"], runs["method"], shown, rates, strict=True
        )
    ]
    return pd.Series(names, index=runs.index)


def tasks(runs: pd.DataFrame, ranking: list[str], same: list[str]) -> pd.Series:
    """Each run's task with the overrides of the task by which it differs from others of that name.

    Only where rows or metrics (`same`) differ within a ranking: the same rows may be told in
    several ways.
    """
    differs = runs.groupby(ranking)[same].nunique().gt(1).any(axis=1)
    several = {(setting, task) for setting, task, *_ in differs.index[differs]}
    texts = runs["overrides"].fillna("").astype(str)
    told = {text: _of_task(text) for text in texts.unique()}
    names = runs["task"].astype(object).copy()
    for key, own in texts.groupby([runs["setting"], runs["task"]]):
        if key in several:
            keys = _unequal(map(told.__getitem__, own))
            names[own.index] = [_with(str(key[1]), told[text], keys) for text in own]
    return names


def _with(task: str, overrides: Sequence[tuple[str, str]], keys: set[str]) -> str:
    return " ".join([task, *(f"{_part(k)}={_part(v)}" for k, v in overrides if k in keys)])


def _of_task(overrides: str) -> tuple[tuple[str, str], ...]:
    pairs = sorted(_parsed(overrides).items())
    return tuple((key, value) for key, value in pairs if key.startswith("task."))


def _parsed(overrides: str) -> Told:
    pairs = (override.lstrip("+~").partition("=") for override in listed(overrides))
    return {key: _bare(value) for key, _, value in pairs}


def _bare(value: str) -> str:
    """A value without the quotes around all of it: `'a'` and `a` are the same to Hydra."""
    for quote in "'\"":
        inner = value[1:-1]
        if len(value) > 1 and value[0] == value[-1] == quote and quote not in inner:
            return inner
    return value


def _rate(overrides: Told) -> float:
    try:
        return float(overrides.get(RATE, "nan"))
    except ValueError:
        return float("nan")


def _shown(overrides: str) -> tuple[tuple[str, str], ...]:
    """Those that no field of a record holds and that are part of what was run, in order."""
    pairs = dict(settings.unrecorded(listed(overrides)))
    return tuple((key, _bare(value)) for key, value in sorted(pairs.items()))


def _differing(runs: pd.DataFrame, ranking: list[str]) -> dict[int, set[str]]:
    """Setting -> the keys in which runs of one of its rankings differ."""
    found: dict[int, set[str]] = defaultdict(set)
    ways = runs[[*ranking, "shown"]].drop_duplicates()
    for _, own in ways[ways.duplicated(ranking, keep=False)].groupby(ranking):
        found[int(own["setting"].iloc[0])] |= _unequal(own["shown"])
    return found


def _unequal(ways: Iterable[tuple[tuple[str, str], ...]]) -> set[str]:
    tables = [dict(way) for way in ways]
    keys = set().union(*tables)
    return {key for key in keys if len({table.get(key) for table in tables}) > 1}


def _name(
    method: str, overrides: tuple[tuple[str, str], ...], keys: set[str], rate: float | None
) -> str:
    told = [f"{_part(k)}={_part(v)}" for k, v in overrides if k in keys or k.startswith("method.")]
    if rate is not None and rate == rate:
        told.append(f"{RATE}={rate:g}")
    return " ".join([method, *told])


def _part(text: str) -> str:
    """A key or a value as a word of a name: quoted where it has spaces, cut where it is long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 10]}...{hashlib.sha256(text.encode()).hexdigest()[:7]}"
    plain = text and printable(text) == text and not re.search(r"\s", text)
    return text if plain else repr(text)
