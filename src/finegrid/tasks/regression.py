"""Regression: each row has a number, such as a graded similarity; one logit, the value itself."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from finegrid.errors import UserError, require
from finegrid.tasks.task import NUMBER, Task

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = 2.0**63  # a label's; the square of an error must fit into fp32
QUANTILES = 10  # strata of a split


@dataclass
class Regression(Task):
    """A number for each row: squared error; Pearson and Spearman correlation."""

    METRICS: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    CORRELATIONS: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    PROBLEM_TYPE: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.positive is None, "task.positive names a class; regression has none")
        require(not self.labels, f"task.labels={self.labels} names classes; regression has none")

    def read_labels(self, values: Sequence[str | None], where: str, *, typed: bool) -> "Array":
        """fp32 numbers of N rows."""
        for row, label in enumerate(values, start=1):
            number = label is not None and NUMBER.fullmatch(label)
            if not number or not abs(float(str(label))) < LARGEST:
                wanted = "a number below 2**63" if number else "a number"
                raise UserError(
                    f"{where}, row {row}: label {label!r} in column {self.label!r} must be {wanted}"
                )
        return np.asarray([float(str(label)) for label in values], dtype=np.float32)

    def strata(self, labels: "Array") -> "Array":
        """The label's tenth."""
        ranks = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return ranks * QUANTILES // len(labels)

    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Mean squared error."""
        from torch.nn import functional

        return functional.mse_loss(logits.squeeze(-1), labels)

    def predictions(self, logits: "Tensor") -> "Tensor":
        """The logit itself."""
        return logits.squeeze(-1)

    def metric(self, name: str, predicted: "Tensor", labels: "Tensor") -> float:
        """By torchmetrics."""
        from torchmetrics import regression as metrics

        make = {"pearson": metrics.PearsonCorrCoef, "spearman": metrics.SpearmanCorrCoef}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant predictions are reported as `degenerate`
            return float(make[name]()(predicted, labels))
