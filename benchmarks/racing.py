"""What a race saves and how often it lies: simulated rankings, shipped decisions.

    python benchmarks/racing.py          # the tables of racing.md: about 40 CPU minutes
    python benchmarks/racing.py --quick  # two minutes: fewer shapes and draws

Scores are made as in verdict_size.py. `equal`: rankings of equal methods; `race` is the share of
rankings in which the race calls some method worse than the leader at any look, `page` that in which
the report does afterwards (`table`: in which it tells any two apart), over what the race has run
and at its last look's level. 5 % is what is stated; the lower end of the 95 % binomial interval is
in brackets. `records`: draws like the project's own records (docs/results): means shrunken for
chance, spreads as measured, test rows' luck correlated by half between methods. Of the verdicts of
the full grid (`best`: who is worse than the leader; `table`: which pairs differ) `kept` is the
share that the report gives after the race; `full grid for that` is the share of cells of the
smallest full grid that keeps as many. `wrong` is the share of rankings in which a method is called
worse than one that in truth is no better.
"""

import argparse
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
from verdict_size import NOISES, SHARE, noise, share, show

from finegrid.grid.race.decide import WORSE, Rule, Standing, decide
from finegrid.grid.race.levels import looks
from finegrid.report.load.races import LIVE
from finegrid.report.load.rankings import results
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Known, evidence
from finegrid.report.stats.shrunken_variance import spreads
from finegrid.report.stats.simultaneous import pairs, row_variance

RECORDS = ("builtin_fractions", "minilm_30", "builtin_paper2")
QUESTIONS = ("best", "table")
DRAWN = 200  # draws of test rows
ALIKE = 0.5  # correlation of two methods' luck with test rows
CHUNK = 50  # draws a piece of work


@dataclass(frozen=True)
class Field:
    """The methods of a ranking as they are in truth."""

    means: np.ndarray  # M
    spreads: np.ndarray  # M, of one run
    noise: str = "normal"
    rows: int = 0  # of the test set
    of_rows: np.ndarray | None = None  # M, standard error over test rows


@dataclass(frozen=True)
class Ended:
    """A race that is over."""

    worse: bool  # whether it called any method worse
    seeds: dict[str, int]  # that each method has run
    level: float  # of the last look


def equal(methods: int, kind: str) -> Field:
    """Equal methods, test rows' luck aside."""
    return Field(np.zeros(methods), np.ones(methods), kind)


def like(name: str, kind: str) -> list[Field]:
    """A field for each ranking of stored records."""
    root = Path(__file__).parents[1] / "docs/results"
    return [_field(methods, kind) for methods in evidence(results([root / name])).rankings.values()]


def _field(methods: Mapping[str, Known], kind: str) -> Field:
    scores = [cell.scores for cell in methods.values()]
    means = np.array([one.values.mean() for one in scores])
    of_run = np.sqrt([one.variance for one in spreads(scores)])
    of_rows = np.sqrt([row_variance(one) for one in scores])
    chance = (of_run**2 / [len(one.seeds) for one in scores]).mean()
    chance += (1 - ALIKE) * (of_rows**2).mean()
    left = max(0.0, 1 - chance / max(means.var(ddof=1), 1e-12))
    truth = means.mean() + left * (means - means.mean())
    return Field(truth, of_run, kind, scores[0].rows, of_rows)


def draw(
    field: Field, seeds: int, rng: np.random.Generator, *, common: np.ndarray | None = None
) -> dict[str, Scores]:
    """Scores of all methods over all seeds; common: the luck that all have with a seed."""
    m = len(field.means)
    common = rng.normal(size=seeds) if common is None else common
    luck = np.sqrt(1 - SHARE) * noise(field.noise, (m, seeds), rng) + np.sqrt(SHARE) * common
    values = field.means[:, None] + field.spreads[:, None] * luck
    drawn = None
    if field.of_rows is not None:
        alike = np.sqrt(ALIKE) * rng.normal(size=(DRAWN + 1, 1))
        strayed = field.of_rows * (alike + np.sqrt(1 - ALIKE) * rng.normal(size=(DRAWN + 1, m)))
        values, drawn = values + strayed[0][:, None], strayed[1:, :, None]
    return {
        str(at): Scores(
            tuple(range(seeds)),
            values[at],
            None if drawn is None else np.broadcast_to(drawn[:, at], (DRAWN, seeds)),
            field.rows,
        )
        for at in range(m)
    }


def first(scores: Mapping[str, Scores], seeds: Mapping[str, int]) -> dict[str, Scores]:
    """The scores of each method's first seeds."""
    return {
        name: replace(
            one,
            seeds=one.seeds[: seeds[name]],
            values=one.values[: seeds[name]],
            resampled=None if one.resampled is None else one.resampled[:, : seeds[name]],
        )
        for name, one in scores.items()
    }


def race(scores: Mapping[str, Scores], rule: Rule) -> Ended:
    """Look and decide until it is over."""
    standings: Mapping[str, Standing] = {name: Standing() for name in scores}
    ran = dict.fromkeys(scores, 0)
    for look, seeds in enumerate(rule.looks):
        ran |= {name: seeds for name, one in standings.items() if one.state == LIVE}
        cells = {name: Known(one, {}) for name, one in first(scores, ran).items()}
        decision = decide(rule, look, cells, standings)
        standings = decision.standings
        if decision.decided:
            break
    worse = any(one.state == WORSE for one in standings.values())
    return Ended(worse, ran, rule.levels[look])


def verdicts(scores: Mapping[str, Scores], level: float, question: str) -> np.ndarray:
    """Which pairs the report tells apart, row better than column; `best`: the leader's row alone.

    The leader is one that has run all the seeds that any has.
    """
    cells = list(scores.values())
    above = pairs(cells, spreads(cells)).above(1 - level)
    if question == "table":
        return above
    most = max(len(cell.seeds) for cell in cells)
    means = [cell.values.mean() if len(cell.seeds) == most else -np.inf for cell in cells]
    return above & (np.arange(len(cells)) == np.argmax(means))[:, None]


def once(field: Field, rule: Rule, rng: np.random.Generator, **how: np.ndarray) -> list[float]:
    """One race over equal methods: whether race and page lie, share of cells."""
    scores = draw(field, rule.looks[-1], rng, **how)
    ended = race(scores, rule)
    told = verdicts(first(scores, ended.seeds), ended.level, rule.question)
    return [ended.worse, told.any(), cells(ended, rule)]


def cells(ended: Ended, rule: Rule) -> float:
    """The share of the full grid that a race has run."""
    return sum(ended.seeds.values()) / len(ended.seeds) / rule.looks[-1]


def against_grid(field: Field, rule: Rule, rng: np.random.Generator) -> list[float]:
    """One race: cells, wrong with race and with full grid, and verdicts.

    Verdicts: the full grid's, and of them those of the race and of grids of 2, 3 ... seeds.
    """
    scores = draw(field, rule.looks[-1], rng)
    ended = race(scores, rule)
    told = verdicts(first(scores, ended.seeds), ended.level, rule.question)
    of_grid = [
        verdicts(first(scores, dict.fromkeys(scores, seeds)), rule.alpha, rule.question)
        for seeds in range(2, rule.looks[-1] + 1)
    ]
    full, no_better = of_grid[-1].any(axis=0), field.means[:, None] <= field.means
    if rule.question == "table":
        kept = [(one & of_grid[-1]).sum() for one in (of_grid[-1], told, *of_grid)]
    else:  # who is worse, whoever leads
        kept = [(one.any(axis=0) & full).sum() for one in (of_grid[-1], told, *of_grid)]
    return [cells(ended, rule), (told & no_better).any(), (of_grid[-1] & no_better).any(), *kept]


def piece(work: tuple[str, Field, Rule, int]) -> np.ndarray:
    """Several races over one field: draws x numbers."""
    what, field, rule, start = work
    rng = np.random.default_rng(start)
    if what == "one":
        return np.array([once(field, rule, rng) for _ in range(CHUNK)], float)
    if what == "records":
        return np.array([against_grid(field, rule, rng) for _ in range(CHUNK)], float)
    sixes = []
    for _ in range(CHUNK // 6 + 1):
        common = rng.normal(size=rule.looks[-1])
        sixes.append([once(field, rule, rng, common=common) for _ in range(6)])
    return np.array(sixes, float).reshape(-1, 3)


def many(pool: Pool, what: str, fields: Iterable[Field], rule: Rule, draws: int) -> np.ndarray:
    """Races over each field: races x numbers."""
    work = [(what, field, rule, start) for field in fields for start in range(draws // CHUNK)]
    return np.concatenate(list(pool.imap(piece, work)))


def rule_of(question: str, seeds: int) -> Rule:
    """The defaults."""
    return Rule(question, alpha=0.05, margin=0.01, futility=0.2, looks=looks(seeds))


def equals(pool: Pool, quick: bool, draws: int) -> Iterator[list[str]]:
    """A row a shape: how often equal methods are called unequal."""
    sizes = ((4, 5), (10, 10)) if quick else tuple(product((4, 10, 34), (3, 5, 10)))
    shapes = [(*one, "one") for one in product(QUESTIONS, sizes, NOISES)]
    shapes += [("best", size, kind, "six") for size in sizes if size[0] == 4 for kind in NOISES]
    for question, (methods, seeds), kind, what in shapes:
        rule = replace(rule_of(question, seeds), margin=0.0)
        races = many(pool, what, [equal(methods, kind)], rule, draws)
        lies, on_page = (share(int(column.sum()), len(races)) for column in races.T[:2])
        yield [question, what, str(methods), str(seeds), kind, lies, on_page,
               f"{races[:, 2].mean():.2f}"]  # fmt: skip


def records(pool: Pool, draws: int) -> Iterator[list[str]]:
    """A row a set of records: cells and verdicts."""
    for question, name, seeds, kind in product(QUESTIONS, RECORDS, (5, 10), ("normal", "collapse")):
        fields = like(name, kind)
        races = many(pool, "records", fields, rule_of(question, seeds), draws // len(fields))
        ran, wrong, by_full, every, kept, *of_grid = races.mean(axis=0)
        enough = next(n for n, one in enumerate(of_grid, 2) if one >= kept)
        lies = [f"{100 * one:.1f} %" for one in (wrong, by_full)]
        yield [question, name, str(seeds), kind, f"{ran:.2f}", f"{kept / every:.3f}",
               f"{enough / seeds:.2f}", *lies]  # fmt: skip


def main() -> None:
    """Measure and print, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes and draws: two minutes")
    parser.add_argument("--only", default="equal,records", help="which tables")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    with multiprocessing.Pool(given.jobs) as pool:
        if "equal" in given.only:
            head = ["question", "rankings", "methods", "seeds", "luck of seeds", "race % (low)",
                    "page % (low)", "cells"]  # fmt: skip
            show(head, equals(pool, given.quick, 300 if given.quick else 2000))
        if "records" in given.only:
            head = ["question", "records", "seeds", "luck of seeds", "cells", "kept",
                    "full grid for that", "wrong", "wrong, full grid"]  # fmt: skip
            show(head, records(pool, 900))


if __name__ == "__main__":
    main()
