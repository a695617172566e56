"""The relatives of the two papers, each against its formula in cases worked out by hand."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import METHODS, ROOT, run_cell, tuning_method
from test_methods import encoded, fresh, steps  # noqa: F401

from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.mask_l0 import HardConcreteMask
from finegrid.methods.mpo import MatrixProduct, factors
from finegrid.methods.prompt import FourierVectors
from finegrid.models import backbone, surgery
from finegrid.models.backbone import Backbone
from finegrid.runs import delta
from finegrid.strategies import single
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


# --- two_stage -----------------------------------------------------------------------------------


def test_the_stages_follow_the_budget() -> None:
    base, method = fresh(), tuning_method("method=two_stage", "method.head_share=0.5")
    method.tune(base, seed=0)
    below = base.model.base_model
    every = sum(1 for _ in below.parameters())
    assert len(surgery.trainable(below)) == every, "what is counted, loaded and stored"
    assert (method.lr_scale, method.checkpointable) == (0.0, False)
    assert method.after_step(below, 0.1)
    assert not surgery.trainable(below)
    assert surgery.trainable(base.model), "the head"
    assert not method.after_step(below, 0.49)
    assert method.phase_loss == {"name": "reweighted", "beta": 0.9999}
    assert method.after_step(below, 0.5)
    assert len(surgery.trainable(below)) == every
    assert (method.lr_scale, method.checkpointable, method.phase_loss) == (1.0, True, None)
    assert not method.after_step(below, 0.6), "once"


@pytest.mark.parametrize("task", ["builtin_paraphrase", "builtin_similarity"])
def test_only_the_head_moves_in_the_first_stage(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run: the weights after each step, and the loss that the step was by."""
    seen: list[tuple[bool, str]] = []

    class Watch(pl.Callback):
        """Notes whether the backbone is as pre-trained, before the method acts on a step."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            same = (
                backbone.fingerprint(pl_module.model.base_model) == pl_module.backbone.fingerprint
            )
            seen.append((same, pl_module.criterion.__qualname__.split(".")[0]))

    overrides = ("method=two_stage", f"task={task}", "experiment=smoke", "budget.steps=6")
    monkeypatch.setattr(single, "extend", lambda components: [Watch()])
    record = run_cell(tmp_path, *overrides)
    assert record.status == "ok"
    trained = (record.params_delta, record.params_pooler, record.params_head)
    assert sum(trained) == record.params_total
    assert [same for same, _ in seen] == [True] * 4 + [False] * 2
    own = {"builtin_paraphrase": "Classification", "builtin_similarity": "Regression"}[task]
    balanced = "Reweighted" if task == "builtin_paraphrase" else own
    assert [loss for _, loss in seen] == [balanced] * 3 + [own] * 3


# --- vfpt ----------------------------------------------------------------------------------------


def test_the_first_half_of_a_prompt_is_its_cosine_sum() -> None:
    """Re DFT: sum over positions p and units h of x cos(2 pi (k p / P + l h / H))."""
    vectors = torch.randn(5, 6)
    made = FourierVectors(vectors, 1, turned=3)(torch.zeros(2, 9, 6))
    p, h = torch.arange(3.0)[:, None], torch.arange(6.0)
    for k in range(3):
        for m in range(6):
            waves = torch.cos(2 * math.pi * (k * p / 3 + m * h / 6))
            expected = (vectors[:3] * waves).sum()
            torch.testing.assert_close(made[0, 1 + k, m], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(made[1, 4:6], vectors[3:])
    assert not made[:, [0, 6, 7, 8]].any()


def test_a_share_without_a_vector_is_refused() -> None:
    with pytest.raises(UserError, match=r"method.fourier=0.05 must be a share"):
        tuning_method("method=vfpt", "method.fourier=0.05")
    assert tuning_method("method=vfpt", "method.fourier=1").turned == 10


# --- mpo -----------------------------------------------------------------------------------------


def trained_chain() -> tuple[MatrixProduct, torch.Tensor]:
    """A chain over a matrix of 32 x 72 after its tensors have moved, and the matrix."""
    weight = torch.randn(32, 72, dtype=torch.float64)
    chain = MatrixProduct(weight, outer=3)
    for parameter in chain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return chain, weight


@pytest.mark.parametrize(
    ("width", "outer", "expected"),
    [
        (768, 4, (4, 4, 3, 4, 4)),
        (3072, 4, (4, 4, 12, 4, 4)),
        (768, 2, (2, 2, 48, 2, 2)),
        (128, 4, (4, 2, 2, 2, 4)),
        (30, 4, (1, 1, 30, 1, 1)),
    ],
)
def test_a_width_is_split_alike_from_both_ends(
    width: int, outer: int, expected: tuple[int, ...]
) -> None:
    assert factors(width, outer) == expected
    assert math.prod(expected) == width


def test_a_chain_is_the_product_of_its_five_tensors() -> None:
    """W[i, j] = T_1[i_1 j_1] .. T_5[i_5 j_5], each a matrix from bond to bond."""
    chain, weight = trained_chain()
    i, j = factors(32, 3), factors(72, 3)
    assert (i, j) == ((2, 2, 2, 2, 2), (3, 2, 2, 2, 3))
    eye = torch.eye
    one, two, four, five = (
        p.detach() + eye(len(p), dtype=p.dtype)
        for p in (chain.first, chain.second, chain.fourth, chain.fifth)
    )
    d1, d2 = len(one), len(two)
    central = weight.view(*i, *j).permute(0, 5, 1, 6, 2, 7, 3, 8, 4, 9).reshape(d2, 2, 2, d2)
    tensors = (
        one.view(2, 3, d1), two.view(d1, 2, 2, d2), central,
        four.view(d2, 2, 2, d1), five.view(d1, 2, 3),
    )  # fmt: skip
    product = torch.einsum("afp,pbgq,qchr,rdis,sej->abcdefghij", *tensors)
    torch.testing.assert_close(chain(weight), product.reshape(32, 72))


def test_the_identity_choice_reaches_what_singular_vectors_reach() -> None:
    """Other auxiliary tensors around the authors' central one are a chain of ours."""
    chain, weight = trained_chain()
    long = len(chain.second)
    split = (*factors(32, 3), *factors(72, 3))
    permuted = weight.view(split).permute(0, 5, 1, 6, 2, 7, 3, 8, 4, 9).reshape(long, -1)
    u, s, v = torch.linalg.svd(permuted, full_matrices=False)
    rest = (s[:, None] * v).reshape(-1, long)  # d_2 i_3 j_3, the right half
    ours, t, w = torch.linalg.svd(rest, full_matrices=False)
    central = (ours * t).view(long, -1, long)
    moved = [torch.randn(long, long, dtype=torch.float64) for _ in range(2)]
    theirs = torch.einsum("ab,bcd,de->ace", moved[0], central, moved[1])
    with torch.no_grad():
        chain.first.zero_()
        chain.fifth.zero_()
        identity = torch.eye(long, dtype=torch.float64)
        chain.second.copy_(moved[0] @ u.inverse() - identity)
        chain.fourth.copy_(w.inverse() @ moved[1] - identity)
    expected = theirs.view(2, 3, 2, 2, 2, 2, 2, 2, 2, 3).permute(0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    torch.testing.assert_close(chain(weight), expected.reshape(32, 72))


def test_a_chain_merges_into_its_matrix(encoded: TokenizedDataset) -> None:  # noqa: F811
    base = applied("method=mpo")
    for parameter in surgery.trainable(base.model.base_model).values():
        torch.nn.init.normal_(parameter, std=0.01)
    expected = predict(base.model, encoded, batch_size=8)
    surgery.merge(base.model)
    assert base.model.state_dict().keys() == fresh().model.state_dict().keys()
    torch.testing.assert_close(predict(base.model, encoded, batch_size=8), expected)


def test_widths_without_factors_are_refused() -> None:
    base = fresh()
    base.sites["query"][0].module.weight = torch.nn.Parameter(torch.zeros(30, 30))
    with pytest.raises(UserError, match="30 x 30 has no factors"):
        tuning_method("method=mpo").apply(base.model.base_model, base.sites)
