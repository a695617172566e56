"""The relatives of the two papers, each against its formula in cases worked out by hand."""

import math
import re

import pytest
import torch
from conftest import METHODS, ROOT, tuning_method
from test_methods import encoded, fresh, steps  # noqa: F401

from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.mask_l0 import HardConcreteMask
from finegrid.models.backbone import Backbone
from finegrid.runs import delta
from finegrid.training.module import predict

COVERAGE = ROOT / "docs/explanation/coverage.md"


def applied(*overrides: str) -> Backbone:
    """The builtin model after a method with overrides."""
    base = fresh()
    tuning_method(*overrides).tune(base, seed=0)
    return base


# --- what is here and what is not ----------------------------------------------------------------


def test_coverage_names_methods_that_there_are() -> None:
    """`method=x` in the page of works is an option, and every paper has one row."""
    text = COVERAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`method=(\w+)`", text))
    assert named <= set(METHODS)
    assert len(named) >= 15
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    numbers = [number for row in rows for number in re.findall(r"\b\d{4}\.\d{5}\b", row)[:1]]
    assert len(numbers) == len(set(numbers)) > 30
    assert all(row.count("|") == 4 for row in rows)


# --- mask_l0 -------------------------------------------------------------------------------------


def gates(evaluate: str = "gate", size: int = 3) -> HardConcreteMask:
    """Gates of a square matrix."""
    return HardConcreteMask((size, size), evaluate=evaluate, device=torch.device("cpu"))


def test_gates_start_at_nine_tenths_and_are_hard_at_both_ends() -> None:
    mask = gates().eval()
    torch.testing.assert_close(mask(torch.ones(3, 3)), torch.full((3, 3), 0.9))
    with torch.no_grad():
        mask.scores.copy_(torch.linspace(-8, 8, 9))
    opened = mask(torch.ones(3, 3)).flatten()
    assert opened[[0, 4, 8]].tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)


def test_the_penalty_is_the_share_of_gates_above_zero() -> None:
    """In 100,000 draws, at scores of which the formula says 0.05, 0.5 and 0.95."""
    for share in (0.05, 0.5, 0.95):
        mask = gates(size=316).train()
        score = math.log(share / (1 - share)) + 2 / 3 * math.log(0.1 / 1.1)
        torch.nn.init.constant_(mask.scores, score)
        assert mask.expected().item() == pytest.approx(share, abs=1e-4)
        assert (mask.straight_through() > 0).float().mean().item() == pytest.approx(share, abs=0.01)


def test_the_gradient_of_a_soft_gate_is_that_of_its_draw() -> None:
    mask = gates().train()
    torch.manual_seed(0)
    noise = torch.rand(9).clamp(1e-4, 1 - 1e-4).logit()
    torch.manual_seed(0)
    drawn = mask.straight_through()
    drawn.sum().backward()
    share = torch.sigmoid((noise + mask.scores.detach()) / (2 / 3))
    soft = (share * 1.2 - 0.1 > 0) & (share * 1.2 - 0.1 < 1)
    expected = torch.where(soft, 1.2 * share * (1 - share) * 1.5, 0.0)
    torch.testing.assert_close(mask.scores.grad, expected)


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0), (0.25, 0), (0.5, 0.5), (0.75, 1), (1.0, 1)]
)
def test_the_penalty_rises_over_the_middle_half(progress: float, strength: float) -> None:
    base, method = fresh(), tuning_method("method=mask_l0", "method.l0=2")
    method.tune(base, seed=0)
    method.after_backward(base.model.base_model, progress)
    masks = [m for m in base.model.modules() if isinstance(m, HardConcreteMask)]
    assert len(masks) == 18
    start = math.log(5)  # of the gate 0.9
    opened = 1 / (1 + math.exp(-start + 2 / 3 * math.log(0.1 / 1.1)))
    for mask in masks:
        expected = strength * 2 * opened * (1 - opened) / mask.scores.numel() / 18
        found = 0.0 if mask.scores.grad is None else mask.scores.grad[0].item()
        assert found == pytest.approx(expected, rel=1e-3)


def test_gates_are_stored_as_numbers_and_masks_as_bits(encoded: TokenizedDataset) -> None:  # noqa: F811
    plain = predict(fresh().model, encoded, batch_size=8)
    for evaluate, dtype in (("binary", torch.bool), ("gate", torch.float32)):
        base = applied("method=mask_l0", f"method.evaluate={evaluate}")
        same = torch.equal(predict(base.model, encoded, batch_size=8), plain)
        assert (
            same
            == (evaluate == "binary")
            == tuning_method("method=mask_l0", f"method.evaluate={evaluate}").starts_pretrained
        )
        masks = [v for k, v in delta.state(base.model).items() if k.endswith("mask")]
        assert {mask.dtype for mask in masks} == {dtype}


@pytest.mark.parametrize("override", ["method.l0=-1", "method.evaluate=draw"])
def test_a_mask_that_cannot_be_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        tuning_method("method=mask_l0", override)
