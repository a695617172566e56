"""What a look at a ranking decides: who is worse, equal or not told apart, and whether it is over.

Differences, spreads, intervals and the leader are those of the report. A look tests at its own
level (`levels`), so all looks together call equal methods unequal as often as the page does. The
chance of ever telling two methods apart is predictive: a later difference strays from today's by
the seeds to come, and then has to exceed the later look's half-width, in which the chance of seeds
has shrunk and that of test rows has not. M methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy import special

from finegrid.grid.race.levels import levels
from finegrid.report.load.races import LIVE
from finegrid.report.stats.compare import leading
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Known
from finegrid.report.stats.shrunken_variance import spreads
from finegrid.report.stats.significance import Floats
from finegrid.report.stats.simultaneous import Pairs, pairs

WORSE, EQUAL, LEVEL, UNSCORED = "worse", "equal", "level", "unscored"  # or LIVE


@dataclass(frozen=True)
class Rule:
    """What a race asks, and how sure it has to be."""

    question: str  # best: which methods may be the best; table: which pairs differ
    alpha: float  # of calling a method worse that is not, over all looks
    margin: float  # of score within which two methods are equal
    futility: float  # the chance of ever telling two apart below which they are not told apart
    looks: tuple[int, ...]  # seeds at each

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The level of each look."""
        return levels(self.alpha, self.looks)


@dataclass(frozen=True)
class Standing:
    """Where a method stands against the leader at the last look that it took part in."""

    state: str = LIVE
    difference: float = nan  # the leader's score less the method's, over common seeds
    low: float = nan  # simultaneous interval at the look's level
    high: float = nan
    chance: float = nan  # of ever telling the two apart


@dataclass(frozen=True)
class Decision:
    """What one look at a ranking decided."""

    leader: str  # empty: none has learned anything; the best mean then stands in for it
    standings: Mapping[str, Standing]  # by method, of all that ever took part
    decided: str = ""  # best, equal, not told apart, all seeds, nothing learned; empty: it goes on

    @property
    def live(self) -> list[str]:
        """The methods that go on."""
        of_live = [name for name, one in self.standings.items() if one.state == LIVE]
        return [] if self.decided else of_live


def decide(
    rule: Rule, look: int, cells: dict[str, Known], before: Mapping[str, Standing]
) -> Decision:
    """Decide by the scores up to a look.

    Args:
        look: its position among the rule's.
        cells: of each method that has a score, over the seeds that it has run up to this look.
        before: how all methods stood before; one that has stopped stays so.
    """
    last = look == len(rule.looks) - 1
    standings = {
        name: Standing(UNSCORED) if one.state == LIVE and name not in cells else one
        for name, one in before.items()
    }
    names = list(cells)
    live = np.array([standings[name].state == LIVE for name in names], bool)
    if not live.any():
        return Decision("", standings, "not told apart")
    scores = [cell.scores for cell in cells.values()]
    seen = pairs(scores, spreads(scores))
    half = seen.half(1 - rule.levels[look])
    stopped = [name for name in names if standings[name].state != LIVE]
    learned = leading(cells, seen, 1 - rule.levels[look], stopped)
    leader = _best(scores, live) if learned is None else learned
    chance = chances(seen, rule, look)
    stops = ~_open(seen.difference, half, chance, rule)
    rivals = live if rule.question == "table" else np.arange(len(names)) == leader
    for at in np.flatnonzero(live & (np.arange(len(names)) != leader)):
        difference, width = float(seen.difference[leader, at]), float(half[leader, at])
        low, high = difference - width, difference + width
        state = _state(low, high, rule.margin) if stops[at, rivals].all() else LIVE
        standings[names[at]] = Standing(state, difference, low, high, float(chance[leader, at]))
    decided = _decided(standings, names[leader], last)
    if learned is None:
        return Decision("", standings, decided and "nothing learned")
    return Decision(names[leader], standings, decided)


def _best(scores: Sequence[Scores], live: NDArray[np.bool_]) -> int:
    """The best mean of those that go on: where none has learned, the others still need it."""
    means = np.array([one.values.mean() for one in scores])
    return int(np.where(live, means, -np.inf).argmax())


def chances(seen: Pairs, rule: Rule, look: int) -> Floats:
    """The chance that two methods are told apart at the later look where it is highest, M x M.

    By Student's t around today's difference, as if nothing had been known of it before.
    """
    now, distance = rule.looks[look], np.abs(seen.difference)
    over_seeds = next((one for one in seen.sources if one.chance == "seeds"), None)
    highest = np.zeros_like(distance)
    for then, level in zip(rule.looks[look + 1 :], rule.levels[look + 1 :], strict=True):
        if over_seeds is None:
            return np.ones_like(distance)
        bound = _after(seen, now, then).half(1 - level)
        strayed = np.sqrt(over_seeds.variance * (1 - now / then))
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = special.stdtr(over_seeds.df, (distance - bound) / strayed)
            beyond += special.stdtr(over_seeds.df, (-distance - bound) / strayed)
        highest = np.maximum(highest, np.where(strayed > 0, beyond, distance > bound))
    return highest


def _after(seen: Pairs, now: int, then: int) -> Pairs:
    """The same differences with more seeds: their chance shrinks and is better known."""
    sources = tuple(
        replace(one, variance=one.variance * now / then, df=one.df * (then - 1) / (now - 1))
        if one.chance == "seeds"
        else one
        for one in seen.sources
    )
    return replace(seen, sources=sources)


def _open(difference: Floats, half: Floats, chance: Floats, rule: Rule) -> NDArray[np.bool_]:
    """Which pairs are neither told apart, nor shown equal, nor without hope, M x M."""
    distance = np.abs(difference)
    closed = (distance > half) | (distance + half <= rule.margin) | (chance < rule.futility)
    np.fill_diagonal(closed, True)
    return np.asarray(~closed)


def _state(low: float, high: float, margin: float) -> str:
    """Of a method that stops, by the interval of the leader's difference from it."""
    if low > 0:
        return WORSE
    return EQUAL if max(-low, high) <= margin else LEVEL


def _decided(standings: Mapping[str, Standing], leader: str, last: bool) -> str:
    """How a ranking ended; empty if it goes on."""
    states = {one.state for name, one in standings.items() if name != leader}
    if LIVE in states and not last:
        return ""
    if states & {LIVE, LEVEL}:
        return "all seeds" if last else "not told apart"
    return "equal" if EQUAL in states else "best"
