"""Scores equal scikit-learn's and SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from finegrid.tasks.classification import Classification
from finegrid.tasks.regression import Regression
from finegrid.tasks.task import Task

CLASSES = ["a", "b", "c"]


def classification(names: list[str], classes: int) -> Task:
    """A classification task with these metrics."""
    return Classification(name="t", text=["x"], metrics=names, labels=CLASSES[:classes])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_classification(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=301)
    logits = random.normal(size=(301, classes)) + np.eye(classes)[labels]
    predicted = logits.argmax(-1)
    task = classification(["accuracy", "f1", "matthews"], classes)
    scores = task.score(torch.tensor(logits), torch.tensor(labels))
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average=average),
        "matthews": sk.matthews_corrcoef(labels, predicted),
    }
    expected["mean"] = sum(expected.values()) / 3
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_regression_with_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(6, size=301).astype(np.float32)
    logits = (labels + random.normal(size=301).round(1)).astype(np.float32)
    task = Regression(name="t", text=["x"], metrics=["pearson", "spearman"])
    scores = task.score(torch.tensor(logits)[:, None], torch.tensor(labels))
    assert scores["pearson"] == pytest.approx(stats.pearsonr(labels, logits).statistic, abs=1e-5)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(labels, logits).statistic, abs=1e-5)


def test_constant_predictions_are_degenerate_and_finite() -> None:
    logits = torch.tensor([[0.0, 1.0]] * 12)
    task = classification(["matthews"], 2)
    assert task.degenerate(logits)
    for labels in ([0, 1, 0] * 4, [0, 1, 1] * 4, [0, 1] * 6, [1] * 12, [0] * 12):
        assert task.score(logits, torch.tensor(labels)) == {"matthews": 0.0}
    graded = Regression(name="t", text=["x"], metrics=["pearson"])
    scores = graded.score(torch.full((10, 1), 2.5), torch.arange(10.0))
    assert scores == {"pearson": 0.0}
    assert not any(math.isnan(value) for value in scores.values())
    assert not task.degenerate(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert not graded.degenerate(torch.tensor([[0.5], [0.501], [0.5]]))
    assert graded.degenerate(torch.tensor([[0.5], [0.5], [0.5]]))


def test_correlations_with_constant_labels_are_zero() -> None:
    values = torch.linspace(0.1, 0.7, 12)
    graded = Regression(name="t", text=["x"], metrics=["pearson", "spearman"])
    found = graded.score(values[:, None], torch.full((12,), 0.1))
    assert found == {"pearson": 0.0, "spearman": 0.0, "mean": 0.0}


def test_two_metrics_have_a_mean_and_one_has_none() -> None:
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3), torch.tensor([0, 0, 1, 1, 1, 0])
    both = classification(["accuracy", "f1"], 2).score(logits, labels)
    assert both["mean"] == (both["accuracy"] + both["f1"]) / 2
    assert [*classification(["f1"], 2).score(logits, labels)] == ["f1"]
