"""The decision rule of page, report and recommend: which method leads, which are level with it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Verdict:
    """Which of the methods compared lead, by their positions."""

    leader: int | None  # none if no method learned anything
    level: tuple[int, ...] = ()  # the others that are not told apart from it


def verdict(
    means: NDArray[np.float64], learned: NDArray[np.bool_], above: NDArray[np.bool_]
) -> Verdict:
    """The highest mean of those that learned something leads, the first of equal ones.

    above: M x M, whether the row is better than the column and told apart from it.
    """
    if not learned.any():
        return Verdict(None)
    leader = int(np.where(learned, means, -np.inf).argmax())
    others = [at for at in range(len(means)) if at != leader and not above[leader, at]]
    return Verdict(leader, tuple(others))
