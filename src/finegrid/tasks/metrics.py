"""Scores over the full set, by torchmetrics; never averaged over batches."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from finegrid.tasks.task import MEAN, Task

# name -> the metric for so many classes
MAKE: dict[str, Callable[[int], Metric]] = {
    "accuracy": lambda classes: MulticlassAccuracy(num_classes=classes, average="micro"),
    "f1": lambda classes: MulticlassF1Score(num_classes=classes),
    "matthews": lambda classes: MulticlassMatthewsCorrCoef(num_classes=classes),
    "pearson": lambda _: PearsonCorrCoef(),
    "spearman": lambda _: SpearmanCorrCoef(),
}
CORRELATIONS = ("matthews", "pearson", "spearman")


def predictions(task: Task, logits: Tensor) -> Tensor:
    """Class numbers (N,) or, for regression, values (N,) from logits (N, outputs)."""
    return logits.squeeze(-1) if task.kind == "regression" else logits.argmax(-1)


def score(task: Task, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Every metric of the task and, where there are several, their mean.

    A correlation that is undefined, because predictions or labels are constant, counts as 0, as
    in GLUE. For Matthews torchmetrics gives a small number then, of either sign.
    """
    predicted = predictions(task, logits.float().cpu())
    undefined = _constant(predicted) or _constant(labels)
    scores = {}
    for name in task.metrics:
        if undefined and name in CORRELATIONS:
            scores[name] = 0.0
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant predictions are reported as `degenerate`
            value = _value(name, task, predicted, labels.cpu())
        scores[name] = value if value == value else 0.0
    if len(scores) > 1:
        scores[MEAN] = sum(scores.values()) / len(scores)
    return scores


def _value(name: str, task: Task, predicted: Tensor, labels: Tensor) -> float:
    if name == "f1" and (of := task.f1_class) is not None:
        return float(BinaryF1Score()(predicted == of, labels == of))
    return float(MAKE[name](task.outputs)(predicted, labels))


def _constant(values: Tensor) -> bool:
    return bool((values == values[0]).all())


def degenerate(task: Task, logits: Tensor) -> bool:
    """Whether the predictions are the same for every row."""
    predicted = predictions(task, logits.float())
    return bool(torch.all((predicted - predicted[0]).abs() <= 1e-6))
