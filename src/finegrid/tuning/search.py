"""A search for learning rates: every method's trials, its best one, and what more trials buy.

A trial is one rate of one method on every task and seed of the search. Its score is the mean
validation score; no test score is read, and a trial's record holds none.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean, stdev

from finegrid.errors import UserError
from finegrid.runs.record import Record
from finegrid.runs.settings import RECORDED, unrecorded

FAILED = 0.0  # the score of a run that failed or diverged
AXES = ("method", "task", "seed", "trial", "lr")  # fields in which the runs of a search may differ
SAME = (  # and those that all of them share
    *(name for name in RECORDED if name not in AXES),
    "budget_unit",
    "budget",
    "precision",
)
SAME_OF_TASK = ("train_hash", "validation_hash")


@dataclass(frozen=True)
class Trial:
    """The runs of one method at one rate: one for each task and seed."""

    lr: float
    runs: tuple[Record, ...]

    @property
    def failed(self) -> int:
        """How many runs did not end well."""
        return sum(run.status != "ok" for run in self.runs)

    @property
    def score(self) -> float:
        """Mean validation score over tasks and seeds; a failed run counts `FAILED`."""
        return fmean(map(_score, self.runs))

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds of the mean over tasks; needs two seeds."""
        seeds = defaultdict(list)
        for run in self.runs:
            seeds[run.seed].append(_score(run))
        return stdev(map(fmean, seeds.values())) if len(seeds) > 1 else None


def _score(run: Record) -> float:
    return run.validation if run.status == "ok" and run.validation is not None else FAILED


Search = dict[str, tuple[Trial, ...]]  # method -> its trials by rising rate


def search(runs: Sequence[Record], *, unequal: bool = False) -> Search:
    """Group records into trials; several tries of one run count once, the last `ok`.

    Raises:
        UserError: if the runs differ in more than method, rate, task and seed, if one is missing,
            or if methods had unequal numbers of trials, unless that is allowed.
    """
    _check_alike(runs)
    latest = {}
    for run in sorted(runs, key=lambda run: (run.status == "ok", run.started)):
        latest[run.method, run.lr or 0.0, run.task, run.seed] = run
    grouped: dict[str, dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for method, lr, task, seed in sorted(latest):
        grouped[method][lr].append(latest[method, lr, task, seed])
    trials = {
        method: tuple(Trial(lr, tuple(of_rate)) for lr, of_rate in rates.items())
        for method, rates in grouped.items()
    }
    if not unequal:
        _check_equal(trials)
    _check_complete(trials)
    return trials


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the best score, without failed runs if one is; none if every run failed.

    Of equal ones the nearest to the middle: for methods whose rate makes no difference.
    """
    middle = (len(trials) - 1) / 2
    ranked = [
        (trial.failed == 0, trial.score, -abs(number - middle), number)
        for number, trial in enumerate(trials)
        if trial.failed < len(trial.runs)
    ]
    return trials[max(ranked)[-1]] if ranked else None


def at_edge(trials: Sequence[Trial], trial: Trial) -> bool:
    """Whether a better rate may lie outside the rates tried."""
    return trial in (trials[0], trials[-1])


def expected_best(scores: Sequence[float], n: int) -> float:
    """Expected best score of `n` trials drawn from those measured, without replacement.

    The i-th smallest of N scores is the best of comb(i - 1, n - 1) of the comb(N, n) draws. The
    idea is that of Dodge et al. 2019 (arXiv 1909.03004), who draw with replacement, so that even
    n = N stays below the best score; Card et al. 2021 (arXiv 2110.00613) compare the two.
    """
    if not 1 <= n <= len(scores):
        raise UserError(f"n={n} must be one of 1 to {len(scores)}, the number of trials")
    weighted = (score * comb(below, n - 1) for below, score in enumerate(sorted(scores)))
    return sum(weighted) / comb(len(scores), n)


def _check_alike(runs: Sequence[Record]) -> None:
    """One search: the same model, budget and protocol, rows and other settings for all."""
    for run in runs:
        if run.lr is None:
            raise UserError(f"a run of {run.method} has no lr on record; run it again to compare")
    for name in SAME:
        _check_one(name, (getattr(run, name) for run in runs))
    for name in SAME_OF_TASK:
        for task in sorted({run.task for run in runs}):
            values = (getattr(run, name) for run in runs if run.task == task)
            _check_one(f"{name} of {task}", (value for value in values if value is not None))
    _check_one("settings", (_settings(run, of_method=False) for run in runs))
    for method in sorted({run.method for run in runs}):
        arguments = (_settings(run, of_method=True) for run in runs if run.method == method)
        _check_one(f"settings of {method}", arguments)


def _check_one(what: str, values: Iterable[object]) -> None:
    several = sorted({str(value) for value in values})
    if len(several) > 1:
        raise UserError(
            f"the runs mix {what}: {' and '.join(text or 'none' for text in several)}; "
            "name the directories of one search"
        )


def _settings(run: Record, *, of_method: bool) -> str:
    """The overrides that make a run another one: of its method's arguments, or all others."""
    pairs = unrecorded(run.overrides)
    return " ".join(sorted(f"{k}={v}" for k, v in pairs if k.startswith("method.") == of_method))


def _check_equal(search: Search) -> None:
    counts = {method: len(trials) for method, trials in search.items()}
    most = max(counts.values())
    if fewer := [f"{method} {count}" for method, count in counts.items() if count < most]:
        raise UserError(
            f"unequal numbers of trials: {', '.join(fewer)}, the others {most}; run the missing "
            "ones, or compare all the same with --unequal"
        )


def _check_complete(search: Search) -> None:
    """Every trial has the same tasks and seeds, or their means could not be compared."""
    cells = {
        (method, trial.lr): {(run.task, run.seed) for run in trial.runs}
        for method, trials in search.items()
        for trial in trials
    }
    every = set().union(*cells.values())
    for (method, lr), present in cells.items():
        for task, seed in sorted(every - present):
            raise UserError(
                f"{method} at {lr:g} has no run on {task} with seed {seed}; every trial needs the "
                "same tasks and seeds: run the missing ones"
            )
