"""The settings of a race."""

from dataclasses import dataclass
from typing import ClassVar

from finegrid.errors import one_of, require


@dataclass
class RaceConfig:
    """Whether a sweep stops cells that cannot change its answer, and how sure it has to be."""

    question: str  # none; best: which methods may be the best; table: which pairs differ
    alpha: float  # of calling a method worse that is not, over all looks
    margin: float  # of score, within which two methods are equal
    futility: float  # chance of ever telling two apart below which they are not told apart
    max_seeds: int | None  # declared at the start; null: as many as are given

    QUESTIONS: ClassVar[tuple[str, ...]] = ("none", "best", "table")

    def __post_init__(self) -> None:
        one_of("race", self.question, self.QUESTIONS)
        require(0 < self.alpha < 1, f"race.alpha={self.alpha:g} must lie in (0, 1)")
        require(self.margin >= 0, f"race.margin={self.margin:g} is negative")
        require(0 <= self.futility < 1, f"race.futility={self.futility:g} must lie in [0, 1)")
        seeds = self.max_seeds
        require(seeds is None or seeds > 1, f"race.max_seeds={seeds} must be at least 2, or null")
