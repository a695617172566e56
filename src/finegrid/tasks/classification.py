"""Classification: each row is of one class, by name or number; one logit a class."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from finegrid.errors import UserError, one_of, require, shown
from finegrid.tasks.modules.names import in_order, listed, need_unlike
from finegrid.tasks.task import NUMBER, Task

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

MOST = 1000  # classes


@dataclass
class Classification(Task):
    """A class for each row: cross-entropy; accuracy, F1 and Matthews correlation."""

    numbered: bool = True  # labels may be given by number; not where the rows gave the names

    CLASSES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")
    USUAL: ClassVar[tuple[str, ...]] = ("accuracy",)
    CORRELATIONS: ClassVar[tuple[str, ...]] = ("matthews",)
    HEADS: ClassVar[tuple[str, ...]] = ("classifier", "pattern", "prototype")
    LOSSES: ClassVar[tuple[str, ...]] = ("cross_entropy", "reweighted", "ldam", "phce")
    SEMI: ClassVar[tuple[str, ...]] = ("none", "upet")
    PROBLEM_TYPE: ClassVar[str] = "single_label_classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(set(self.labels)) == len(self.labels) != 1,
            f"task.labels={self.labels} must name two or more classes, each once",
        )
        self.numbered = self.numbered and not any(map(NUMBER.fullmatch, self.labels))
        if self.positive is not None:
            if self.positive not in self.labels and self.positive in ("True", "False"):
                self.positive = self.positive.lower()  # which YAML took for a yes or no
            if self.labels:
                one_of("task.positive", self.positive, tuple(self.labels))
        if self.pattern is not None:
            self.pattern.check(self.text, self.labels)

    def named(self, labels: list[str]) -> Self:
        """The task with the class names of a run; they may be given by number."""
        return replace(self, labels=labels, numbered=bool(self.labels) or self.path != "files")

    @property
    def positive_class(self) -> int | None:
        """The class that F1 is of: `positive`, else the second of two."""
        if "f1" not in self.metrics:
            return None
        if self.positive is not None:
            return self.labels.index(self.positive)
        return 1 if len(self.labels) == 2 else None

    def with_labels_of(self, values: Sequence[str | None], where: str) -> Self:
        """The task with the distinct labels as class names, by number where all are digits."""
        for row, label in enumerate(values, start=1):
            _require_label(label, f"{where}, row {row}")
        names = sorted({str(label) for label in values})
        self._require_names(names, values, where)
        return self.named(in_order(names))

    def _require_names(self, names: list[str], values: Sequence[str | None], where: str) -> None:
        numbers = all(map(NUMBER.fullmatch, names))
        graded = [name for name in names if numbers and not float(name).is_integer()]
        row = next((row for row, label in enumerate(values, start=1) if label in graded), 0)
        require(
            not graded,
            f"{where}, row {row}: label {values[row - 1]} is not a class; use "
            "task.kind=regression for graded labels, or name the classes with task.labels",
        )
        what = f"{where}: column {self.label!r} holds"
        require(len(names) > 1, f"{what} one class only: {shown(names[0])}")
        require(
            len(names) <= MOST,
            f"{what} {len(names)} classes; is it text, or a number to predict "
            "(task.kind=regression)?",
        )
        need_unlike(names, f"{what} labels")

    def read_labels(self, values: Sequence[str | None], where: str, *, typed: bool) -> "Array":
        """Class numbers of N rows, given by name or, where the names allow it, by number."""
        number = {name: place for place, name in enumerate(self.labels)}
        if self.numbered:
            number = {str(place): place for place in range(len(self.labels))} | number
        if typed:  # 1 is the class 1.0 too, and true is True
            number |= {name.removesuffix(".0"): n for name, n in number.items()} | number
            booleans = {"True", "False"} & set(number)
            number |= {name.lower(): number[name] for name in booleans} | number
        classes = [number.get(label) for label in values]  # type: ignore[arg-type]
        if None in classes:
            row = classes.index(None)
            self._refuse(values[row], f"{where}, row {row + 1}")
        return np.asarray(classes, dtype=np.int64)

    def _refuse(self, label: str | None, where: str) -> None:
        _require_label(label, where)
        names = listed(self.labels)
        hidden = "; GLUE's test splits hide their labels (-1)" if label == "-1" else ""
        raise UserError(f"{where}: label {shown(label)} must be one of {names}{hidden}")

    def class_counts(self, labels: "Array") -> Counter[int]:
        """Class -> rows."""
        return Counter(labels.tolist())

    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Cross-entropy."""
        from torch.nn import functional

        return functional.cross_entropy(logits, labels)

    def predictions(self, logits: "Tensor") -> "Tensor":
        """The class with the largest logit."""
        return logits.argmax(-1)

    def written(self, predicted: "Tensor") -> list[Any]:
        """Class names."""
        return [self.labels[number] for number in predicted.tolist()]

    def metric(self, name: str, predicted: "Tensor", labels: "Tensor") -> float:
        """By torchmetrics; F1 of the positive class, or else its mean over the classes."""
        from torchmetrics import classification as metrics

        if name == "f1" and (of := self.positive_class) is not None:
            return float(metrics.BinaryF1Score()(predicted == of, labels == of))
        make: dict[str, Callable[[int], Any]] = {
            "accuracy": lambda classes: metrics.MulticlassAccuracy(classes, average="micro"),
            "f1": metrics.MulticlassF1Score,
            "matthews": metrics.MulticlassMatthewsCorrCoef,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant predictions are reported as `degenerate`
            return float(make[name](self.outputs)(predicted, labels))


def _require_label(label: str | None, where: str) -> None:
    require(label is not None and bool(label.strip()), f"{where}: label is missing")
