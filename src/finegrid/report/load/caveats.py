"""Sentences for the reader of a report: what its numbers leave out, and why."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import pandas as pd

from finegrid.errors import printable

# CPU seconds a second below which a run had no core of its own: of one thread, of each of many
ONE, MOST = 0.8, 0.4
LISTED = 8  # things that a sentence names before it only counts the rest


class Notes(list[str]):
    """Sentences in the order in which they came up."""

    def append(self, sentence: str) -> None:
        """Add one; what others have written is in it."""
        super().append(printable(sentence))

    def trials(self, count: int) -> None:
        """Tuning trials, which have no test score."""
        if count:
            self.append(f"{_count(count, 'tuning trial')} left out; scripts/tune.py reads them.")

    def unplaced(self, runs: pd.DataFrame) -> None:
        """Records that are not readable and lie in no ranking's directory."""
        if len(runs):
            found = (f"{run.directory} ({run.error})" for run in runs.itertuples())
            self.append(f"{_count(len(runs), 'run')} in no table, unreadable: {some(found)}.")

    def apart(self, settings: Sequence[Any]) -> None:
        """Settings are not compared with one another; of those alike but for a field, which."""
        for name in [item.name for item in fields(settings[0])]:
            alike = defaultdict(list)
            for setting in settings:
                alike[replace(setting, **{name: ""})].append(str(getattr(setting, name)))
            values = {value for found in alike.values() if len(found) > 1 for value in found}
            if values:
                self.append(
                    f"Kept apart, not compared: runs that differ in {name} ({some(sorted(values))})"
                    f"; --mix {name} puts them together."
                )

    def refused(self, runs: pd.DataFrame, ranking: list[str]) -> None:
        """Runs on other data, or with another metric, than most of their ranking."""
        for key, own in runs.groupby(ranking):
            self.append(
                f"Left out of {_where(ranking, key)}, for other train, validation or test rows or "
                f"another metric than most of it has: {some(map(_run, own.itertuples()))}."
            )

    def earlier(self, count: int) -> None:
        """Several tries of the same run."""
        if count:
            self.append(
                f"{_count(count, 'earlier try', 'earlier tries')} of runs that are there again: "
                "the last that ended well counts."
            )

    def experiments(self, runs: pd.DataFrame, table: list[str]) -> None:
        """Runs of several experiments in one table: a record does not hold all they set."""
        named = runs["overrides"].astype(str).str.extract(r"(?:^|\s)\+?experiment=(\S+)")[0]
        found = runs[table].assign(named=named.fillna("none")).drop_duplicates()
        several = found[found.duplicated(table, keep=False)]
        if len(several):
            self.append(
                f"Some tables hold runs of several experiments ({some(sorted(set(several.named)))})"
                ": what a record holds agrees, what an experiment sets beyond it, such as a batch "
                "size, may not."
            )

    def ends(self, runs: pd.DataFrame) -> None:
        """Runs without a score."""
        for status in sorted(set(runs["status"]) - {"ok"}):
            own = runs[runs["status"] == status]
            reasons = (
                f"{cell[0]} on {cell[1]} at {cell[2]:g} ({len(group)}: {_why(group)})"
                for cell, group in own.groupby(["method", "task", "fraction"], observed=True)
            )
            self.append(f"{_count(len(own), 'run')} {status}: {some(reasons)}.")

    def busy(self, runs: pd.DataFrame) -> None:
        """Runs on CPU that had to share their cores: their seconds say little of the method.

        A run alone on a machine keeps one core busy all the time, and most of its others.
        """
        if not {"train_cpu_seconds", "threads", "device"} <= set(runs.columns):
            return
        least = (MOST * runs["threads"].fillna(1)).clip(lower=ONE) * runs["train_seconds"]
        on_cpu = runs["device"].astype(str).str.startswith("cpu")
        found = runs[on_cpu & (runs["train_cpu_seconds"] < least)]
        if len(found):
            share = found["train_cpu_seconds"].sum() / found["train_seconds"].sum()
            by = ["method", "task"]
            named = (
                f"{method} on {task} ({len(own)})"
                for (method, task), own in found.groupby(by, observed=True)
            )
            self.append(
                f"Training times not to be compared: {_count(len(found), 'run')} shared the cores "
                f"with other work ({share:.2g} CPU seconds a second): {some(named)}."
            )

    def missing(self, runs: pd.DataFrame) -> None:
        """Runs that others of their table have, as `frame.missing` gives them."""
        if len(runs):
            by = ["method", "task", "fraction"]
            cells = (
                f"{method} on {task} at {fraction:g} (seed {', '.join(map(str, own['seed']))})"
                for (method, task, fraction), own in runs.groupby(by, observed=True)
            )
            self.append(f"{_count(len(runs), 'run')} missing: {some(cells)}.")


def some(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return "; ".join(found[:LISTED]) + more


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _where(ranking: list[str], key: Any) -> str:
    at = dict(zip(ranking, key, strict=True))
    return f"{at['task']} at {at['fraction']:g} ({at['budget']:g} {at['budget_unit']})"


def _run(run: Any) -> str:
    place = f" in {run.directory}" if run.directory else ""
    return f"{run.method} seed {run.seed}{place}"


def _why(runs: pd.DataFrame) -> str:
    reasons = [str(reason) for reason in runs["error"].dropna().unique()]
    place = f"{runs['directory'].iloc[0]}: " if runs["status"].eq("unreadable").any() else ""
    return place + reasons[0][:120] if reasons else "no reason given"
