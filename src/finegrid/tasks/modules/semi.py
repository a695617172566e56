"""What a run does with the training rows that `data.rows` or `data.fraction` leaves out (`semi=`).

    none  nothing: it trains on the labelled rows alone
    upet  uncertainty-aware self-training, see `training.self_training`

Their labels stay unseen. Which options fit a kind says the kind, in `Task.SEMI`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finegrid.errors import nearest, require
from finegrid.tasks.task import Task


@dataclass
class Supervised:
    """The labelled rows alone."""

    name: str = "none"


@dataclass
class UPET:
    """A teacher's certain predictions as labels for a student."""

    name: str
    teacher_share: float  # of the budget
    estimate_share: float  # of the budget, at most
    passes: int  # over each row, with dropout
    sampled: float  # share of these rows
    tau: float | None  # of the student's loss; None: the run's own

    def __post_init__(self) -> None:
        for key in ("teacher_share", "estimate_share"):
            share = getattr(self, key)
            require(0 < share < 1, f"semi.{key}={share:g} is no share of the budget in (0, 1)")
        shares = self.teacher_share + self.estimate_share
        require(
            shares < 1,
            f"semi.teacher_share and semi.estimate_share are {shares:g} of the budget; leave some "
            "of it to the student",
        )
        require(self.passes >= 2, f"semi.passes={self.passes} must be at least 2")
        require(0 < self.sampled <= 1, f"semi.sampled={self.sampled:g} must lie in (0, 1]")
        tau = self.tau
        require(tau is None or tau > 1, f"semi.tau={tau} must be above 1, or null")


Semi = Supervised | UPET
SEMI: dict[str, type[Semi]] = {"none": Supervised, "upet": UPET}


def class_of(node: Mapping[Any, Any], task: Task) -> type[Semi]:
    """The class of an option's settings.

    Raises:
        UserError: for one that nobody knows, or that does not fit the task's kind.
    """
    name = str(node.get("name"))
    require(
        name in task.SEMI,
        f"semi={name} does not fit task.kind={task.kind}; {nearest(name, task.SEMI)}",
    )
    return SEMI[name]


def check_rows(semi: Semi, *, fraction: float, rows: int | None) -> None:
    """Refuse self-training where settings tell that no row is labelled, or none is left out."""
    require(
        rows is not None or fraction < 1,
        f"semi={semi.name} trains on rows that are left out, and data.fraction=1 leaves out none; "
        "lower it, or set data.rows",
    )
    require(rows != 0, f"data.rows=0 leaves nothing for the teacher of semi={semi.name} to learn")
