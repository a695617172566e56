"""When a race looks at its records, and the level at which it tests there.

Testing at every look at 5 % would call equal methods unequal more often than that. Alpha spending
(Lan and DeMets 1983, doi 10.1093/biomet/70.3.659) fixes how much of it is spent by each share t of
the seeds; their spending after O'Brien and Fleming keeps nearly all of it for the last look. The
levels follow by recursive numerical integration (Armitage, McPherson and Rowe 1969; Jennison and
Turnbull 2000, chapter 19): the test statistic times the root of t is a Brownian motion.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from finegrid.errors import require
from finegrid.report.stats.significance import Floats, falling_root

SHARES = (30, 50, 70, 100)  # per cent of the seeds, rounded up
LEAST = 2  # seeds at a look: one says nothing of chance
POINTS = 801  # of the grid on which the motion's density is known


def looks(seeds: int) -> tuple[int, ...]:
    """The numbers of seeds at which a race of so many looks, each once.

    Raises:
        UserError: if there are too few seeds to look at.
    """
    require(seeds >= LEAST, f"a race needs at least {LEAST} seeds, not {seeds}; see `seed=`")
    return tuple(sorted({max(LEAST, -(-share * seeds // 100)) for share in SHARES}))


@cache
def levels(alpha: float, at: tuple[int, ...]) -> tuple[float, ...]:
    """The two-sided level of each look, which together make `alpha`.

    at: seeds at each look, the last one all of them.
    """
    times = np.array(at) / at[-1]
    spent = np.diff(spending(alpha, times), prepend=0.0)
    nominal: list[float] = []
    where, density = np.zeros(1), np.ones(1)  # of the motion, as far as no look has stopped it
    for step, time, share in zip(np.diff(times, prepend=0.0), times, spent, strict=True):
        bound = _bound(where, density, step=step, share=share)
        nominal.append(float(2 * special.ndtr(-bound / np.sqrt(time))))
        next_where = np.linspace(-bound, bound, POINTS)
        kernel = np.exp(-((next_where[:, None] - where) ** 2) / (2 * step))
        density = kernel @ density / np.sqrt(2 * np.pi * step) * _weights(next_where)
        where = next_where
    return tuple(nominal)


def spending(alpha: float, times: NDArray[np.float64]) -> Floats:
    """How much of alpha is spent by each share of the seeds, half of it on either side."""
    return np.asarray(4 * special.ndtr(special.ndtri(alpha / 4) / np.sqrt(times)))


def _bound(where: Floats, density: Floats, *, step: float, share: float) -> float:
    """The distance from 0 that the motion exceeds after a step with a probability of `share`."""
    scale = np.sqrt(step)

    def beyond(bound: float) -> float:
        tails = special.ndtr((where - bound) / scale) + special.ndtr((-where - bound) / scale)
        return float(density @ tails)

    return falling_root(beyond, share, 1e-3, 40.0)


def _weights(grid: Floats) -> Floats:
    """Simpson's weights, so that densities become probabilities."""
    weights = np.full(len(grid), 2.0)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    return np.asarray(weights * (grid[1] - grid[0]) / 3)
