"""Names of methods and tasks that were run in several ways: each way is named by its overrides.

A record holds the overrides of its command, not the arguments of its method, so what made two runs
of one method differ is read from these texts.
"""

import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable
from functools import reduce

import pandas as pd

from finegrid.errors import printable
from finegrid.runs import settings

RATE = "optim.lr"
LONGEST = 60  # characters of a value in a method's name; of a longer one a hash shows

Overrides = tuple[tuple[str, str], ...]  # keys and values, by key


def named(runs: pd.DataFrame, ranking: list[str]) -> pd.Series:
    """Each run's method with the overrides by which it differs from others of a ranking.

    An argument of the method always shows (`lora method.rank=4`), another override where runs of
    one ranking differ in it, a rate where runs of the method do (`lora optim.lr=0.001`). A setting
    tells the same of all its rankings. What a sweep's search chose for a task is no variant, unless
    one ranking has several rates of the same variant.
    """
    overrides = _parsed(runs)
    shown = ways(runs)
    differing = _differing(runs[ranking].assign(shown=shown), ranking)
    rates = runs["lr"].fillna(overrides.map(_rate))
    by = [runs[name] for name in [*ranking, "method"]]
    several = rates.groupby(by).transform("nunique") > 1
    chosen = overrides.map(_chosen).astype(bool)
    differ = rates[chosen].groupby([*by, shown]).transform("nunique") > 1
    tuned = set(zip(runs.loc[several, "setting"], runs.loc[several, "method"], strict=True))
    names = []
    differ = differ.reindex(runs.index)  # none where no search chose the rate
    for setting, method, way, rate, differs in zip(
        runs["setting"], runs["method"], shown, rates, differ, strict=True
    ):
        words = {key for key, _ in way if key in differing[setting] or key.startswith("method.")}
        with_rate = (setting, method) in tuned and rate == rate if pd.isna(differs) else differs
        names.append(_with(method, way, words) + (f" {RATE}={rate:g}" if with_rate else ""))
    return pd.Series(names, index=runs.index)


def ways(runs: pd.DataFrame) -> pd.Series:
    """Each run's overrides that no field of a record holds and that are part of what was asked."""
    return _parsed(runs).map(_shown)


def tasks(runs: pd.DataFrame, ranking: list[str], same: list[str]) -> pd.Series:
    """Each run's task with the overrides of the task by which it differs from others of that name.

    Only where rows or metrics (`same`) differ within a ranking: the same rows may be told in
    several ways.
    """
    differs = runs.groupby(ranking)[same].nunique().gt(1).any(axis=1)
    several = {(setting, task) for setting, task, *_ in differs.index[differs]}
    of_task = _parsed(runs).map(lambda way: tuple(p for p in way if p[0].startswith("task.")))
    names = runs["task"].astype(object).copy()
    for key, ways in of_task.groupby([runs["setting"], runs["task"]]):
        if key in several:
            keys = _unequal(ways)
            names[ways.index] = [_with(str(key[1]), way, keys) for way in ways]
    return names


def listed(overrides: str) -> list[str]:
    """The overrides in a text of `shlex.join`, or of 0.6, which put spaces between them alone."""
    try:
        pieces = shlex.split(overrides)
    except ValueError:  # a quote without its other one
        pieces = []
    if shlex.join(pieces) == overrides:
        return pieces
    pieces = []
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


def _parsed(runs: pd.DataFrame) -> pd.Series:
    """Each run's overrides; of a key the last."""
    texts = runs["overrides"].fillna("").astype(object)
    known: dict[str, Overrides] = {}
    for text in texts.unique():
        pairs = map(settings.split_override, listed(text))
        known[text] = tuple(sorted({key: _bare(value) for key, value in pairs}.items()))
    return texts.map(known)


def _bare(value: str) -> str:
    """A value without the quotes around all of it: `'a'` and `a` are the same to Hydra."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted and value[0] not in value[1:-1] else value


def _rate(overrides: Overrides) -> float:
    try:
        return float(dict(overrides).get(RATE, "nan"))
    except ValueError:
        return float("nan")


def _shown(overrides: Overrides) -> Overrides:
    """Those of `ways`."""
    searched = _chosen(overrides)
    return tuple(p for p in overrides if settings.is_unrecorded(*p) and p[0] not in searched)


def _chosen(overrides: Overrides) -> list[str]:
    """The options whose values a search chose."""
    return settings.chosen(dict(overrides).get("tune.chosen", ""))


def _differing(runs: pd.DataFrame, ranking: list[str]) -> dict[int, set[str]]:
    """Setting -> the keys in which runs of one of its rankings differ."""
    keys: dict[int, set[str]] = defaultdict(set)
    ways = runs.drop_duplicates()
    for _, group in ways[ways.duplicated(ranking, keep=False)].groupby(ranking):
        keys[int(group["setting"].iloc[0])] |= _unequal(group["shown"])
    return keys


def _unequal(ways: Iterable[Overrides]) -> set[str]:
    """The keys that not all have, or have with the same value."""
    pairs = [set(way) for way in ways]
    common = reduce(set.__and__, pairs)
    return {key for pair in pairs for key, _ in pair - common}


def _with(name: str, overrides: Overrides, keys: set[str]) -> str:
    words = (f"{_word(key)}={_word(value)}" for key, value in overrides if key in keys)
    return " ".join([name, *words])


def _word(text: str) -> str:
    """A key or a value as a word of a name: quoted where it has spaces, cut where it is long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 10]}...{hashlib.sha256(text.encode()).hexdigest()[:7]}"
    plain = text and printable(text) == text and not re.search(r"\s", text)
    return text if plain else repr(text)
