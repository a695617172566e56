"""Multi-label classification: each row has any number of the classes; one logit a class."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from finegrid.errors import UserError, require, shown
from finegrid.tasks.modules.names import in_order, listed, need_unlike
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

MOST = 1000  # classes
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
NONE = "[]"  # no class
BETWEEN = re.compile(r"[,;|]")  # the classes of a row that are one text
COLLECTION = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)|\(\)|(set|frozenset|array)\(.*\)", re.DOTALL)
CHOSEN = "validation"  # as a threshold: the one of TRIED that scores highest there
TRIED = tuple(n / 20 for n in range(1, 20))


@dataclass
class Multilabel(Task):
    """Any number of classes for each row: binary cross-entropy; F1 over all and by class.

    A label is a list of class names or numbers, or one column of 0 and 1 for each class:
    `task.label=[toxic,insult]`.
    """

    threshold: Any = 0.5  # of a class's probability, or `validation`: chosen there

    CLASSES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1")
    PROBLEM_TYPE: ClassVar[str] = "multi_label_classification"
    NESTED: ClassVar[tuple[str, ...]] = ("label",)
    SEVERAL: ClassVar[tuple[str, ...]] = ("label",)
    EVERY_CLASS: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._chosen = False  # the threshold, on validation
        require(self.positive is None, "task.positive is for F1 of one class; multilabel has many")
        if len(self.label_columns) > 1:
            self.labels = self.labels or self.label_columns
            require(
                self.labels == self.label_columns,
                f"task.labels={self.labels} must be the columns of task.label, which name classes",
            )
        require(
            len(set(self.labels)) == len(self.labels) != 1,
            f"task.labels={self.labels} must name two or more classes, each once",
        )
        given, number = self.threshold, isinstance(self.threshold, int | float)
        require(
            given == CHOSEN or (number and 0 < given < 1),
            f"task.threshold={given} must lie in (0, 1), or be {CHOSEN}",
        )

    def with_labels_of(self, values: Sequence[Any], where: str) -> Self:
        """The task with the distinct classes of the rows, by number where all are digits."""
        rows = [_classes(value, f"{where}, row {row}") for row, value in enumerate(values, 1)]
        names = {name for row in rows for name in row}
        what = f"{where}: column {self.label!r} holds"
        require(len(names) > 1, f"{what} {len(names)} classes; two or more are needed")
        require(len(names) <= MOST, f"{what} {len(names)} classes; is it text?")
        need_unlike(names, f"{what} classes")
        return self.named(in_order(names))

    def read_labels(self, values: Sequence[Any], where: str, *, typed: bool) -> "Array":
        """N C of 0 and 1."""
        labels = np.zeros((len(values), self.outputs), dtype=np.int8)
        if len(self.label_columns) > 1:
            for row, flags in enumerate(values):
                labels[row] = [
                    _flag(flag, name, f"{where}, row {row + 1}")
                    for name, flag in zip(self.labels, flags, strict=True)
                ]
            return labels
        number = {name: place for place, name in enumerate(self.labels)}
        number = {str(place): place for place in range(self.outputs)} | number
        for row, value in enumerate(values):
            for name in _classes(value, f"{where}, row {row + 1}"):
                if name not in number:
                    self._refuse(name, f"{where}, row {row + 1}")
                labels[row, number[name]] = 1
        return labels

    def _refuse(self, name: str, where: str) -> None:
        raise UserError(f"{where}: class {shown(name)} must be one of {listed(self.labels)}")

    def strata(self, labels: "Array") -> "Array":
        """The rarest of a row's classes, so that splits and fractions have their share of it."""
        counts = labels.sum(0, dtype=np.int64)
        rank = np.empty(self.outputs, dtype=np.int64)
        rank[np.argsort(counts, kind="stable")] = np.arange(self.outputs)
        strata: Array = np.where(labels > 0, rank, self.outputs).min(1)
        return strata

    def class_counts(self, labels: "Array") -> Counter[int]:
        """Class -> rows that have it."""
        counts = enumerate(labels.sum(0, dtype=np.int64).tolist())
        return Counter({number: rows for number, rows in counts if rows})

    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Binary cross-entropy, the mean over rows and classes."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits, labels.float())

    @property
    def calibrates(self) -> bool:
        """Whether the threshold is chosen on validation."""
        return bool(self.threshold == CHOSEN)

    def calibrated(self, outputs: Any, labels: Any) -> Self:
        """The task with the threshold that scores highest, of those the one nearest to 0.5."""
        nearest = sorted(TRIED, key=lambda threshold: abs(threshold - 0.5))
        tasks = [replace(self, threshold=threshold) for threshold in nearest]
        best = max(tasks, key=lambda task: task.score(outputs, labels)[task.headline])
        best._chosen = True
        return best

    def facts(self) -> dict[str, Any]:
        """The threshold, and where it comes from."""
        return {"threshold": self.cut, "threshold_chosen": self._chosen}

    def of_record(self, values: Mapping[str, Any]) -> Self:
        """The task with the threshold that the run was scored with."""
        threshold = values.get("threshold")
        return self if threshold is None else replace(self, threshold=threshold)

    @property
    def cut(self) -> float:
        """The probability from which on a class is predicted; 0.5 before it is chosen."""
        return 0.5 if self.calibrates else float(self.threshold)

    def predictions(self, outputs: "Tensor") -> "Tensor":
        """N C of 0 and 1: the classes whose probability reaches the threshold."""
        return (outputs >= math.log(self.cut / (1 - self.cut))).long()

    def written(self, predicted: "Tensor") -> list[list[str]]:
        """Class names of each row."""
        return [self._names(row) for row in predicted.tolist()]

    def _names(self, flags: Sequence[int]) -> list[str]:
        return [name for name, flag in zip(self.labels, flags, strict=True) if flag]

    def chances(self, outputs: "Tensor") -> dict[str, list[float]]:
        """Class -> its probability in each row; they are independent."""
        shares = outputs.sigmoid()
        return {name: shares[:, number].tolist() for number, name in enumerate(self.labels)}

    def table(self, outputs: "Tensor", labels: "Array") -> dict[str, Any]:
        """Class names, gold and predicted, and the logits of all classes."""
        import pyarrow as pa

        names = pa.list_(pa.string())
        return {
            "label": pa.array([self._names(row) for row in labels.tolist()], names),
            "prediction": pa.array(self.written(self.predictions(outputs)), names),
            "scores": outputs.tolist(),
        }

    def statistics(self, outputs: "Tensor", labels: "Array") -> dict[str, "Array"]:
        """By class: predicted and gold, predicted, gold."""
        predicted = self.predictions(outputs).numpy().astype(np.int8)
        return {"classes": np.concatenate([predicted * labels, predicted, labels], axis=1)}

    def metric(self, name: str, predicted: "Tensor", labels: "Tensor") -> float:
        """By torchmetrics; a class that is neither predicted nor there counts 0 in the mean."""
        from torchmetrics.classification import MultilabelF1Score

        average: Any = name.removesuffix("_f1")
        return float(MultilabelF1Score(self.outputs, average=average)(predicted, labels))


def _classes(value: Any, where: str) -> list[str]:
    """The classes of a row, from a list or a text with commas between."""
    require(value is not None, f"{where}: label is missing; a row without a class is []")
    require(value != "", f"{where}: label is empty; a row without a class is []")
    if isinstance(value, str):
        value = "" if value.strip() == NONE else value
        require(
            not COLLECTION.fullmatch(value.strip()),
            f"{where}: label {shown(value)} is no list that can be read; write "
            '["joy", "love"] in each row, or joy, love',
        )
        value = [part.strip() for part in BETWEEN.split(value) if part.strip()]
    require(isinstance(value, list), f"{where}: label {shown(str(value))} is no list of classes")
    for one in value:
        good = (isinstance(one, str) and one.strip()) or type(one) is int
        require(bool(good), f"{where}: class {one!r:.40} must be a name or a number")
    return [str(one) for one in value]


def _flag(value: str | None, name: str, where: str) -> int:
    flag = FLAGS.get(str(value).strip().lower().removesuffix(".0"))
    if flag is None:
        raise UserError(f"{where}: column {name!r} holds {value!r:.40}; 0 or 1 is needed")
    return flag
