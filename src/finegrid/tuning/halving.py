"""Successive halving: few steps for many trials, a full run for the best few.

Jamieson & Talwalkar 2016, arXiv 1502.07943. Every rung is a run of its own whose schedule ends
there; no run is continued, since a learning rate that still has to fall tells little. The effort is
the same for every method by construction: the ladder depends on the number of trials alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from finegrid.tuning.design import BASES, position

FIRST, SECOND = 1 / 8, 1 / 4  # of the budget; the last rung has all of it
LAST = 2  # trials that run at full length if a search does not say
STATES = ("ok", "constant", "failed")  # the best first
COUNTED = ("steps", "examples", "tokens")  # budgets in whole numbers


@dataclass(frozen=True)
class Rung:
    """One round of a search: how many trials run, at which share of the budget."""

    trials: int
    share: float


@dataclass(frozen=True)
class Score:
    """How one trial of a rung ended."""

    trial: int
    state: str  # ok, constant (one prediction for all rows), or failed
    value: float  # mean validation score; of no meaning for a failed one
    loss: float | None = None  # mean log of the validation loss; None: not recorded or not finite

    @property
    def rank(self) -> tuple[int, float, float, int]:
        """Sorts the best first: failed trials lose to constant ones, these to all others.

        Of equal ones the nearest to the middle, which is the published rate.
        """
        order = STATES.index(self.state)
        value = -self.value if self.state != "failed" else 0.0
        return order, value, abs(position(self.trial, BASES[0]) - 0.5), self.trial


def ladder(n: int, full: int = LAST) -> tuple[Rung, ...]:
    """The rungs of a search over `n` trials: all at 1/8, half at 1/4, `full` at full length.

    A rung that would drop nothing is left out; one trial is the published value, and needs none.
    """
    if n < 2:
        return ()
    sizes = {FIRST: n, SECOND: ceil(n / 2), 1.0: min(n, full)}
    shares = [share for share, size in sizes.items() if size > sizes[1.0] or share == 1]
    return tuple(Rung(sizes[share], share) for share in shares)


def survivors(scores: Sequence[Score], rung: Rung) -> list[int]:
    """The trials that enter a rung by how they ended the one before, the best first.

    Those that predict one class lose to those that tell rows apart; among each, by validation loss,
    which moves in a few steps where scores do not. It falls too at rates so low that nothing else
    moves, so it does not come first. Runs of versions that recorded no loss count by their score.
    """
    ranked = sorted(scores, key=lambda s: (s.rank[0], _or_infinite(s.loss), *s.rank))
    return [score.trial for score in ranked][: rung.trials]


def _or_infinite(loss: float | None) -> float:
    return inf if loss is None else loss


def winner(scores: Sequence[Score]) -> int | None:
    """The best trial of the last rung; None if all of them failed."""
    best = min(scores, key=lambda score: score.rank)
    return None if best.state == "failed" else best.trial


def amount(unit: str, budget: float, share: float) -> float:
    """A rung's budget in the same unit; whole numbers are rounded, and at least 1."""
    if share == 1:
        return budget
    part = budget * share
    return float(max(1, round(part))) if unit in COUNTED else part
