"""A search by successive halving as its records tell it: rungs, trials, and what was chosen."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean

from finegrid.errors import require
from finegrid.recipes import RATE
from finegrid.runs.record import Record
from finegrid.runs.settings import chosen, split_override
from finegrid.tuning import halving
from finegrid.tuning.halving import LAST, Score

LEAST = 1e-12  # a loss that has a logarithm


@dataclass(frozen=True)
class Tried:
    """One trial in one rung: a run for each task of the search."""

    trial: int
    runs: tuple[Record, ...]

    @property
    def values(self) -> dict[str, float]:
        """Option -> the value that was tried."""
        overrides = dict(map(split_override, self.runs[0].overrides))
        return {
            option: float(self.runs[0].lr or 0) if option == RATE else float(overrides[option])
            for option in options(self.runs[0])
        }

    @property
    def score(self) -> Score:
        """How it ended."""
        return scored(self.trial, self.runs)


@dataclass(frozen=True)
class Result:
    """What the search of one method came to."""

    method: str  # its name, and those of its options that the command gives
    runs: tuple[Record, ...]
    rungs: tuple[tuple[Tried, ...], ...]  # by rising budget; trials by number

    @property
    def name(self) -> str:
        """The method's name."""
        return self.runs[0].method

    @property
    def model(self) -> str:
        """The model's name."""
        return self.runs[0].model

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it chose one rate for."""
        return tuple(sorted({run.task for run in self.runs}))

    @property
    def complete(self) -> bool:
        """Whether the trials at full length have ended."""
        last = self.rungs[-1]
        full = float(_noted(self.runs[0], "budget") or 0)
        trials = max(int(_noted(run, "full") or LAST) for run in self.runs)
        return len(last) >= trials and last[0].runs[0].budget == full

    @property
    def chosen(self) -> Tried | None:
        """The best trial at full length; None if all failed, or the search has not ended."""
        if not self.complete:
            return None
        number = halving.winner([tried.score for tried in self.rungs[-1]])
        return next((tried for tried in self.rungs[-1] if tried.trial == number), None)

    @property
    def blind(self) -> bool:
        """Whether each trial at full length predicts one class: no rate beat another."""
        return self.complete and all(tried.score.state == "constant" for tried in self.rungs[-1])

    @property
    def examples(self) -> int:
        """Training examples of all its runs."""
        return sum(map(examples, self.runs))

    def at_edge(self) -> Iterator[str]:
        """The options whose chosen value is the lowest or the highest of those tried."""
        if self.chosen is not None:
            for option, value in self.chosen.values.items():
                every = [tried.values[option] for tried in self.rungs[0]]
                if value in (min(every), max(every)):
                    yield option


def scored(trial: int, records: Sequence[Record | None]) -> Score:
    """How a trial ended: the mean validation score of its runs, of which none may have failed."""
    values = [r.validation for r in records if r is not None and r.status == "ok"]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(records):
        return Score(trial, "failed", 0.0)
    constant = any(record is not None and record.degenerate for record in records)
    return Score(trial, "constant" if constant else "ok", fmean(numbers), _mean_log_loss(records))


def _mean_log_loss(records: Iterable[Record | None]) -> float | None:
    """Mean logarithm of the validation losses, so that no task's scale outweighs another's."""
    losses = [record.validation_loss for record in records if record is not None]
    known = [loss for loss in losses if loss is not None]
    return fmean(log(max(loss, LEAST)) for loss in known) if len(known) == len(losses) else None


def examples(record: Record) -> int:
    """Training examples that a run saw, repeated ones counted each time."""
    return round((record.epochs or 0) * (record.train_rows or 0))


def options(record: Record) -> list[str]:
    """The options whose values a search gave a run; empty for runs outside such a search."""
    return chosen(_noted(record, "chosen"))


def of_search(records: Iterable[Record]) -> list[Record]:
    """The trials of searches by successive halving."""
    return [run for run in records if run.trial is not None and options(run)]


def results(records: Iterable[Record], *, unequal: bool = False) -> list[Result]:
    """The searches that records are of; several tries of a run count once, the last that ended.

    Raises:
        UserError: if methods had unequal numbers of trials, unless that is allowed.
    """
    searches: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda run: (run.status == "ok", run.started)):
        searches[_noted(record, "search")].append(record)
    found = [_result(runs) for runs in searches.values()]
    if not unequal:
        _check_equal(found)
    return found


def joined(these: Sequence[Result], others: Iterable[Result]) -> list[Result]:
    """Some searches, and of others those of methods and tasks that these are not of."""
    known = {(result.name, task) for result in these for task in result.tasks}
    return [*these, *(r for r in others if known.isdisjoint((r.name, task) for task in r.tasks))]


def _check_equal(results: Sequence[Result]) -> None:
    counts = [" + ".join(str(len(rung)) for rung in result.rungs) for result in results]
    usual = max(counts, key=counts.count)
    several = zip(results, counts, strict=True)
    others = [f"{result.method} {count}" for result, count in several if count != usual]
    require(
        not others,
        f"unequal numbers of trials: {', '.join(others)}, the others {usual}; run the same sweep "
        "again, or compare all the same with --unequal",
    )


def _result(records: Sequence[Record]) -> Result:
    latest = {(run.budget, run.trial or 0, run.task): run for run in records}
    grouped: dict[float, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for budget, trial, task in sorted(latest):
        grouped[budget][trial].append(latest[budget, trial, task])
    rungs = tuple(
        tuple(Tried(trial, tuple(runs)) for trial, runs in trials.items())
        for trials in grouped.values()
    )
    return Result(_label(records[0]), tuple(latest.values()), rungs)


def _label(record: Record) -> str:
    """A method's name with the options that the command gave it."""
    pairs: Mapping[str, str] = dict(map(split_override, record.overrides))
    searched = options(record)
    given = [
        f"{key}={value}"
        for key, value in sorted(pairs.items())
        if key.startswith("method.") and key not in searched
    ]
    return " ".join([record.method, *given])


def _noted(record: Record, name: str) -> str:
    """A note of the search on one of its runs."""
    return dict(map(split_override, record.overrides)).get(f"tune.{name}", "")
