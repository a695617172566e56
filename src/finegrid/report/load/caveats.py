"""Sentences for the reader of a report: what its numbers leave out, and why."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pandas as pd

from finegrid.report.load.races import Key, Raced
from finegrid.runs.text import budget, percent

LISTED = 8  # things that a sentence names before it only counts the rest


def trials(count: int) -> Iterator[str]:
    """Tuning trials, which have no test score."""
    if count:
        yield (
            f"{counted(count, 'run')} of the search for rates not in the tables, as they have no "
            "test score; finegrid tune reads them."
        )


def unplaced(runs: pd.DataFrame) -> Iterator[str]:
    """Records that are not readable and lie in no ranking's directory."""
    if len(runs):
        places = (f"{run.directory} ({run.error})" for run in runs.itertuples())
        yield f"{counted(len(runs), 'run')} in no table, unreadable: {some(places)}."


def apart(settings: Sequence[Any]) -> Iterator[str]:
    """Settings are not compared with one another; of those alike but for a field, which."""
    for name in [item.name for item in fields(settings[0])]:
        alike = defaultdict(list)
        for setting in settings:
            alike[replace(setting, **{name: ""})].append(str(getattr(setting, name)))
        values = {value for several in alike.values() if len(several) > 1 for value in several}
        if values:
            yield (
                f"Kept apart, not compared: runs that differ in {name} ({some(sorted(values))})"
                f"; --mix {name} puts them together."
            )


def refused(runs: pd.DataFrame, ranking: list[str]) -> Iterator[str]:
    """Runs on other data, or with another metric, than most of their ranking."""
    for _, group in runs.groupby(ranking):
        at = group.iloc[0]
        yield (
            f"Left out of {at.task} at {percent(at.fraction)} "
            f"({budget(at.budget_unit, at.budget)}), for other train, validation or test rows or "
            f"another metric than most of it has: {some(map(_run, group.itertuples()))}."
        )


def earlier(count: int, mix: Collection[str]) -> Iterator[str]:
    """Several tries of the same run, or what is the same where some fields may differ."""
    if count:
        apart = f", or differ in {some(sorted(mix))} alone" if mix else ""
        yield (
            f"{counted(count, 'earlier try', 'earlier tries')} of runs that are there again"
            f"{apart}: the last that ended well counts."
        )


def experiments(runs: pd.DataFrame, table: list[str]) -> Iterator[str]:
    """Runs of several experiments in one table: a record does not hold all they set."""
    named = runs["overrides"].astype(str).str.extract(r"(?:^|\s)\+?experiment=(\S+)")[0]
    each = runs[table].assign(named=named.fillna("none")).drop_duplicates()
    several = each[each.duplicated(table, keep=False)]
    if len(several):
        yield (
            f"Some tables hold runs of several experiments ({some(sorted(set(several.named)))})"
            ": what a record holds agrees, what an experiment sets beyond it, such as a batch "
            "size, may not."
        )


def own_rows(runs: pd.DataFrame, ranking: list[str]) -> Iterator[str]:
    """Seeds that train on rows of their own: what that says of the spread."""
    if (runs.groupby(ranking)["subset_seed"].nunique() > 1).any():
        yield (
            "Seeds train on rows of their own (data.subset_seed), all methods on the same: spreads "
            "and intervals hold the chance in which rows they are."
        )


def ends(runs: pd.DataFrame) -> Iterator[str]:
    """Runs without a score."""
    for status in sorted(set(runs["status"]) - {"ok"}):
        failed = runs[runs["status"] == status]
        reasons = (
            f"{method} on {task} at {percent(fraction)} ({len(group)}: {_why(group)})"
            for (method, task, fraction), group in groups(failed, "method", "task", "fraction")
        )
        yield f"{counted(len(failed), 'run')} {status}: {some(reasons)}."


def missing(runs: pd.DataFrame) -> Iterator[str]:
    """Runs that others of their table have, as `rankings.missing` gives them."""
    if len(runs):
        names = (
            f"{method} on {task} at {percent(fraction)} (seed {', '.join(map(str, group['seed']))})"
            for (method, task, fraction), group in groups(runs, "method", "task", "fraction")
        )
        yield f"{counted(len(runs), 'run')} missing: {some(names)}."


def spared(raced: Mapping[Key, Raced]) -> Iterator[str]:
    """Methods that a race stopped, whose other seeds are not missing."""
    names = [
        f"{method} on {task} at {percent(fraction)} ({counted(stop, 'seed')})"
        for (_, task, _, _, fraction), one in raced.items()
        for method, stop in one.stopped.items()
        if stop < one.seeds
    ]
    if names:
        yield f"More seeds not needed, decided by a race: {some(names)}."


def exploratory(raced: Mapping[Key, Raced]) -> Iterator[str]:
    """Rankings with more seeds than their race declared: all of its level is spent."""
    beyond = [
        f"{task} at {percent(fraction)} (exploratory: {one.seeds} declared, {one.run} run)"
        for (_, task, _, _, fraction), one in raced.items()
        if one.run > one.seeds
    ]
    if beyond:
        yield (
            "More seeds than were declared before the race, whose level holds for those alone: "
            f"{some(beyond)}."
        )


def some(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return "; ".join(every[:LISTED]) + more


def groups(runs: pd.DataFrame, *by: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    yield from runs.groupby(list(by), observed=True)


def counted(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _run(run: Any) -> str:
    return f"{run.method} seed {run.seed}" + (f" in {run.directory}" if run.directory else "")


def _why(runs: pd.DataFrame) -> str:
    reasons = [str(reason) for reason in runs["error"].dropna().unique()]
    place = f"{runs['directory'].iloc[0]}: " if runs["status"].eq("unreadable").any() else ""
    return place + reasons[0][:120] if reasons else "no reason given"
