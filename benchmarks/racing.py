"""What a race saves and how often it lies: simulated rankings, shipped decisions.

    python benchmarks/racing.py          # the tables of racing.md: about 30 CPU minutes
    python benchmarks/racing.py --quick  # two minutes: fewer shapes and draws

Scores are made as in verdict_size.py. `equal`: rankings of equal methods; `race` is the share of
rankings in which the race calls some method worse than the leader at any look, `page` that in which
the report does afterwards, over what the race has run and at its last look's level; 5 % is what is
stated, and the lower end of the 95 % binomial interval is in brackets. `records`: draws like the
project's own records (docs/results): means shrunken for chance, spreads as measured, test rows'
luck correlated by half between methods. `kept` is the share of verdicts of the full grid (worse
than the leader, or for `table` which pairs differ) that the page has after the race, `same leader`
how often it is that of the full grid, `wrong` the share of rankings in which a method is called
worse than one that in truth is not better.
"""

import argparse
import multiprocessing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from verdict_size import NOISES, SHARE, noise, share, show

from finegrid.grid.race.decide import LIVE, WORSE, Rule, Standing, decide
from finegrid.grid.race.levels import looks
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
    rows: int = 0  # of the test set
    of_rows: np.ndarray | None = None  # M, standard error over test rows
    noise: str = "normal"


@dataclass(frozen=True)
class Ended:
    """A race that is over."""

    worse: bool  # whether it called any method worse
    seeds: dict[str, int]  # that each method has run
    level: float  # of the last look


def equal(methods: int, kind: str) -> Field:
    """Equal methods, test rows' luck aside."""
    return Field(np.zeros(methods), np.ones(methods), noise=kind)


def like(name: str) -> list[Field]:
    """A field for each ranking of stored records."""
    root = Path(__file__).parents[1] / "docs/results"
    return [_field(methods) for methods in evidence(results([root / name])).rankings.values()]


def _field(methods: Mapping[str, Known]) -> Field:
    scores = [cell.scores for cell in methods.values()]
    means = np.array([one.values.mean() for one in scores])
    usual = np.sqrt([one.variance for one in spreads(scores)])
    of_rows = np.sqrt([row_variance(one) for one in scores])
    chance = (usual**2 / [len(one.seeds) for one in scores]).mean()
    chance += (1 - ALIKE) * (of_rows**2).mean()
    left = max(0.0, 1 - chance / max(means.var(ddof=1), 1e-12))
    return Field(means.mean() + left * (means - means.mean()), usual, scores[0].rows, of_rows)


def draw(field: Field, seeds: int, rng: np.random.Generator) -> dict[str, Scores]:
    """Scores of all methods over all seeds."""
    m = len(field.means)
    luck = np.sqrt(1 - SHARE) * noise(field.noise, (m, seeds), rng)
    luck += np.sqrt(SHARE) * rng.normal(size=seeds)
    values = field.means[:, None] + field.spreads[:, None] * luck
    drawn = None
    if field.of_rows is not None:
        common = np.sqrt(ALIKE) * rng.normal(size=(DRAWN + 1, 1))
        strayed = field.of_rows * (common + np.sqrt(1 - ALIKE) * rng.normal(size=(DRAWN + 1, m)))
        values, drawn = values + strayed[0][:, None], strayed[1:]
    return {
        str(at): Scores(
            tuple(range(seeds)),
            values[at],
            None if drawn is None else np.broadcast_to(drawn[:, at, None], (DRAWN, seeds)),
            field.rows,
        )
        for at in range(m)
    }


def first(scores: Scores, seeds: int) -> Scores:
    """The scores of the first seeds."""
    drawn = None if scores.resampled is None else scores.resampled[:, :seeds]
    return replace(
        scores, seeds=scores.seeds[:seeds], values=scores.values[:seeds], resampled=drawn
    )


def race(scores: Mapping[str, Scores], rule: Rule) -> Ended:
    """Look and decide until it is over."""
    standings: Mapping[str, Standing] = {name: Standing() for name in scores}
    ran = dict.fromkeys(scores, 0)
    for look, seeds in enumerate(rule.looks):
        ran |= {name: seeds for name, one in standings.items() if one.state == LIVE}
        cells = {name: Known(first(one, ran[name]), {}) for name, one in scores.items()}
        decision = decide(rule, look, cells, standings)
        standings = decision.standings
        if decision.decided:
            break
    worse = any(one.state == WORSE for one in standings.values())
    return Ended(worse, ran, rule.levels[look])


def page(scores: Mapping[str, Scores], level: float) -> tuple[int, np.ndarray]:
    """The report's leader, and which pairs it tells apart (row better than column)."""
    cells = list(scores.values())
    above = pairs(cells, spreads(cells)).above(1 - level)
    many = max(len(cell.seeds) for cell in cells)
    means = [cell.values.mean() if len(cell.seeds) == many else -np.inf for cell in cells]
    return int(np.argmax(means)), above


def once(field: Field, rule: Rule, rng: np.random.Generator) -> list[float]:
    """One race: lies, cells, verdicts of the full grid and those kept, leaders, wrong verdicts."""
    scores = draw(field, rule.looks[-1], rng)
    ended = race(scores, rule)
    ran = {name: first(one, ended.seeds[name]) for name, one in scores.items()}
    (leader, above), (by_all, all_above) = page(ran, ended.level), page(scores, rule.alpha)
    wrong = above & (field.means[:, None] <= field.means)
    all_wrong = all_above & (field.means[:, None] <= field.means)
    if rule.question == "best":
        kept, every = above[leader] & all_above[by_all], all_above[by_all]
        wrong, all_wrong = wrong[leader], all_wrong[by_all]
    else:
        kept, every = above & all_above, all_above
    cells = sum(ended.seeds.values()) / len(scores) / rule.looks[-1]
    return [ended.worse, above[leader].any(), cells, every.sum(), kept.sum(), leader == by_all,
            wrong.any(), all_wrong.any()]  # fmt: skip


def piece(work: tuple[Field, Rule, int]) -> np.ndarray:
    """Several races over one field: draws x numbers of `once`."""
    field, rule, start = work
    rng = np.random.default_rng(start)
    return np.array([once(field, rule, rng) for _ in range(CHUNK)], float)


def many(pool, fields: list[Field], rule: Rule, draws: int) -> np.ndarray:
    """Races over each field: numbers of `once` by draw."""
    work = [(field, rule, start) for field in fields for start in range(draws // CHUNK)]
    return np.concatenate(list(pool.imap(piece, work)))


def rule_of(question: str, seeds: int) -> Rule:
    """The defaults."""
    return Rule(question, alpha=0.05, margin=0.01, futility=0.2, looks=looks(seeds))


def equals(pool, quick: bool, draws: int) -> Iterator[list[str]]:
    """A row a shape: how often equal methods are called unequal."""
    sizes = ((4, 5), (10, 10)) if quick else tuple(product((4, 10, 34), (3, 5, 10)))
    for question, (methods, seeds), kind in product(QUESTIONS, sizes, NOISES):
        rule = replace(rule_of(question, seeds), margin=0.0)
        races = many(pool, [equal(methods, kind)], rule, draws)
        lies, on_page = (share(int(column.sum()), len(races)) for column in races.T[:2])
        yield [question, str(methods), str(seeds), kind, lies, on_page, f"{races[:, 2].mean():.2f}"]


def records(pool, draws: int) -> Iterator[list[str]]:
    """A row a set of records: cells and verdicts."""
    for question, name, seeds, kind in product(QUESTIONS, RECORDS, (5, 10), ("normal", "collapse")):
        fields = [replace(field, noise=kind) for field in like(name)]
        races = many(pool, fields, rule_of(question, seeds), draws)
        _, _, cells, every, kept, same, wrong, by_all = races.mean(axis=0)
        yield [question, name, str(seeds), kind, f"{cells:.2f}", f"{kept / every:.3f}",
               f"{same:.3f}", f"{100 * wrong:.1f} %", f"{100 * by_all:.1f} %"]  # fmt: skip


def main() -> None:
    """Measure and print, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes and draws: two minutes")
    parser.add_argument("--only", default="equal,records", help="which tables")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    with multiprocessing.Pool(given.jobs) as pool:
        if "equal" in given.only:
            head = ["question", "methods", "seeds", "luck of seeds", "race % (low)",
                    "page % (low)", "cells"]  # fmt: skip
            show(head, equals(pool, given.quick, 300 if given.quick else 2000))
        if "records" in given.only:
            head = ["question", "records", "seeds", "luck of seeds", "cells", "kept",
                    "same leader", "wrong", "wrong, full grid"]  # fmt: skip
            show(head, records(pool, 50 if given.quick else 200))


if __name__ == "__main__":
    main()
