"""Losses as an axis: each against its paper's formula, and what is the same of all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import composed, run_cell
from omegaconf import OmegaConf
from torch.nn import functional

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.runs import identity
from finegrid.runs.record import read
from finegrid.tasks.classification import Classification
from finegrid.tasks.modules.losses import LDAM, LOSSES, PHCE, Criterion, CrossEntropy, Reweighted

TASK = Classification(name="t", text=["a"], metrics=["accuracy"], labels=["x", "y", "z"])
ROWS = np.repeat([0, 1, 2], [80, 16, 1])
OTHERS = ("loss=reweighted", "loss=ldam", "loss=phce")
SHORT = ("experiment=smoke", "method=bitfit", "trainer.threads=1")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of some rows of every class."""
    return torch.randn(8, 3), torch.tensor([0, 0, 1, 2, 1, 0, 2, 0])


def criterion(loss: Any) -> Criterion:
    """A loss over rows of which 80, 16 and 1 are of a class."""
    made: Criterion = loss.criterion(TASK, ROWS)
    return made


def test_reweighting_is_by_the_effective_number_of_rows() -> None:
    logits, labels = batch()
    beta, counts = 0.9, torch.tensor([80.0, 16.0, 1.0])
    weights = (1 - beta) / (1 - beta**counts)
    weights = 3 * weights / weights.sum()
    expected = (functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()
    torch.testing.assert_close(criterion(Reweighted("reweighted", beta))(logits, labels), expected)


@pytest.mark.parametrize(
    ("beta", "ratio"), [(0.0, 1.0), (1 - 1e-9, 80.0)], ids=["alike", "inverse"]
)
def test_beta_goes_from_no_weights_to_inverse_frequency(beta: float, ratio: float) -> None:
    loss = criterion(Reweighted("reweighted", beta))
    of_class = [loss(torch.zeros(1, 3), torch.tensor([c])).item() for c in (0, 2)]
    assert of_class[1] / of_class[0] == pytest.approx(ratio, rel=1e-3)


def test_the_margin_falls_with_the_fourth_root_of_the_rows() -> None:
    logits, labels = batch()
    margins = 0.6 * torch.tensor([80.0, 16.0, 1.0]) ** -0.25
    less = logits - functional.one_hot(labels, 3) * margins
    expected = functional.cross_entropy(2 * less, labels)
    found = criterion(LDAM("ldam", 0.6, 2.0))(logits, labels)
    torch.testing.assert_close(found, expected)
    plain = criterion(LDAM("ldam", 0.0, 1.0))(logits, labels)
    torch.testing.assert_close(plain, functional.cross_entropy(logits, labels))


@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(), Reweighted("reweighted", 0.99), LDAM("ldam", 0.5, 1.0), PHCE("phce", 2)],
)
def test_chunks_of_a_batch_add_up(loss: Any) -> None:
    """So that a batch may run in several passes."""
    (logits, labels), of = batch(), criterion(loss)
    parts = [of(logits[rows], labels[rows]) * len(rows) for rows in (range(3), range(3, 8))]
    torch.testing.assert_close(sum(parts) / 8, of(logits, labels))


def test_the_default_makes_the_cells_that_there_were() -> None:
    def cell(*overrides: str) -> str:
        plain: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
        return identity.cell(plain)

    older: Any = OmegaConf.to_container(composed(), resolve=True)
    del older["loss"]
    assert identity.cell(older) == cell() == cell("loss=cross_entropy")
    made = [cell(), *map(cell, OTHERS), cell("loss=ldam", "loss.margin=0.3")]
    assert len(set(made)) == 5
    assert RunConfig.of(OmegaConf.create(older)).loss == CrossEntropy()


@pytest.mark.parametrize("loss", OTHERS)
def test_regression_is_refused_before_anything_loads(loss: str) -> None:
    with pytest.raises(UserError, match=r"does not fit task.kind=regression.*cross_entropy"):
        RunConfig.of(composed("task=builtin_similarity", loss))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.name=ldan"], r"loss=ldan does not fit.*did you mean 'ldam'"),
        (["loss=reweighted", "loss.beta=1"], r"loss.beta=1 must lie in \[0, 1\)"),
        (["loss=ldam", "loss.scale=0"], r"loss.scale=0 must be above 0"),
        (["loss=ldam", "loss.margin=-1"], r"loss.margin=-1 is negative"),
        (["loss=ldam", "+loss.beta=0.5"], r"unknown key loss.beta"),
    ],
)
def test_a_loss_that_cannot_be_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.of(composed(*overrides))


def test_every_option_is_a_loss() -> None:
    from finegrid.commands.catalogue import options

    assert set(options("loss")) == set(LOSSES)
    for name in LOSSES:
        assert RunConfig.of(composed(f"loss={name}")).loss.name == name


def test_a_run_trains_with_its_loss_and_says_so(tmp_path: Path) -> None:
    usual = run_cell(tmp_path / "usual", *SHORT)
    assert usual.loss == "cross_entropy"
    for override in OTHERS:
        record = run_cell(tmp_path / override, *SHORT, override)
        assert (record.status, record.loss) == ("ok", override.removeprefix("loss="))
        assert read(tmp_path / override) == record
        assert record.validation_loss != usual.validation_loss
        assert record.validation_loss == pytest.approx(usual.validation_loss, abs=0.2)
