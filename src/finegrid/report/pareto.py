"""The Pareto front: what nothing else outdoes in any cost without a loss in another."""

import numpy as np
from numpy.typing import NDArray


def dominates(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """N x N: whether the row is as low as the column in every cost, and lower in one.

    costs: N x K, the lower the better (a score with a minus sign). Equal rows do not dominate.
    """
    as_low = (costs[:, None] <= costs[None]).all(-1)
    lower = (costs[:, None] < costs[None]).any(-1)
    return np.asarray(as_low & lower)


def front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """N: whether no other row dominates this one."""
    return np.asarray(~dominates(costs).any(0))
