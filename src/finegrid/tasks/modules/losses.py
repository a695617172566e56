"""The loss that a run trains with (`loss=`, the options of `conf/loss`).

With n_c training rows of class c, C classes, logits z (B, C) and labels y,

    cross_entropy  the kind's own loss, `Task.loss`
    reweighted     mean over rows of w_y CE(z, y),  w_c = C v_c / sum v,  v_c = 1 / (1 - beta^n_c)
                   (Cui et al. 2019, arXiv 1901.05555, eq. 9)
    ldam           mean over rows of CE(s (z - m_y e_y), y),  m_c = margin (min n / n_c)^(1/4)
                   (Cao et al. 2019, arXiv 1906.07413, eqs. 10 and 12)
    phce           mean over rows of -log p_y, but -tau p_y + log tau + 1 where p_y <= 1 / tau
                   (Menon et al., ICLR 2020, partially Huberised, for noisy labels)

Where we differ: reweighted means are over rows, as in the paper; torch's weighted mean, which the
authors of LDAM use, divides by the batch's weights. The authors of LDAM scale cosines of normalised
features and weights by s = 30; the heads here give plain logits, so s is 1.

Only training sees it: validation losses and scores are the kind's own. Which losses fit a kind says
the kind, in `Task.LOSSES`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finegrid.errors import nearest, require
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

Criterion = Callable[["Tensor", "Tensor"], "Tensor"]  # (fp32 logits, labels) -> mean loss


@dataclass
class CrossEntropy:
    """The kind's own loss."""

    name: str = "cross_entropy"

    def criterion(self, task: Task, labels: "Array | None") -> Criterion:
        """The loss over training rows with these labels."""
        return task.loss


@dataclass
class Reweighted:
    """Cross-entropy in which rows of rare classes count more."""

    name: str
    beta: float

    def __post_init__(self) -> None:
        require(0 <= self.beta < 1, f"loss.beta={self.beta:g} must lie in [0, 1)")

    def criterion(self, task: Task, labels: "Array | None") -> Criterion:
        """The loss over training rows with these labels."""
        import torch
        from torch.nn import functional

        rows = _rows(task, labels)
        weights = 1 / (1 - self.beta**rows)
        weights = (weights * (len(rows) / weights.sum())).float()

        def loss(logits: "Tensor", labels: "Tensor") -> "Tensor":
            terms = functional.cross_entropy(logits, labels, reduction="none")
            return torch.mean(terms * weights.to(labels.device)[labels])

        return loss


@dataclass
class LDAM:
    """Cross-entropy with a margin that is wider for rare classes."""

    name: str
    margin: float
    scale: float

    def __post_init__(self) -> None:
        require(self.margin >= 0, f"loss.margin={self.margin:g} is negative")
        require(self.scale > 0, f"loss.scale={self.scale:g} must be above 0")

    def criterion(self, task: Task, labels: "Array | None") -> Criterion:
        """The loss over training rows with these labels."""
        from torch.nn import functional

        rows = _rows(task, labels)
        margins = (self.margin * (rows.min() / rows) ** 0.25).float()

        def loss(logits: "Tensor", labels: "Tensor") -> "Tensor":
            of_row = margins.to(labels.device)[labels][:, None]
            less = logits.scatter_add(1, labels[:, None], -of_row)
            return functional.cross_entropy(self.scale * less, labels)

        return loss


@dataclass
class PHCE:
    """Cross-entropy that is linear in the probability of a label it thinks unlikely."""

    name: str
    tau: float

    def __post_init__(self) -> None:
        require(self.tau > 1, f"loss.tau={self.tau:g} must be above 1")

    def criterion(self, task: Task, labels: "Array | None") -> Criterion:
        """The loss, whatever the training rows."""
        import torch
        from torch.nn import functional

        def loss(logits: "Tensor", labels: "Tensor") -> "Tensor":
            terms = functional.cross_entropy(logits, labels, reduction="none")  # -log p
            p = (-terms).exp()
            linear = math.log(self.tau) + 1 - self.tau * p
            return torch.where(p <= 1 / self.tau, linear, terms).mean()

        return loss


Loss = CrossEntropy | Reweighted | LDAM | PHCE
LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "reweighted": Reweighted,
    "ldam": LDAM,
    "phce": PHCE,
}


def class_of(node: Mapping[Any, Any], task: Task) -> type[Loss]:
    """The class of a loss's settings.

    Raises:
        UserError: for a loss that nobody knows, or that does not fit the task's kind.
    """
    name = str(node.get("name"))
    require(
        name in task.LOSSES,
        f"loss={name} does not fit task.kind={task.kind}; {nearest(name, task.LOSSES)}",
    )
    return LOSSES[name]


def _rows(task: Task, labels: "Array | None") -> "Tensor":
    """Training rows of each class, C; a class without one counts as one."""
    import torch

    counts = {} if labels is None else task.class_counts(labels)
    found = [max(1, counts.get(number, 0)) for number in range(task.outputs)]
    return torch.tensor(found, dtype=torch.float64)
