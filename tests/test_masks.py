"""Methods that zero weights, diff pruning, and what their deltas take on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import run_cell, tuning_method
from test_methods import encoded, fresh, method_of, steps  # noqa: F401
from torch import nn

from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.modules.gated_difference import GatedDifference
from finegrid.methods.modules.mask import (
    THRESHOLD,
    LearnedMask,
    Mask,
    ThresholdMask,
    pruned_count,
    smallest,
)
from finegrid.methods.modules.sparse_delta import SparseDifference, count
from finegrid.methods.supermask import BernoulliMask
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.runs import delta
from finegrid.training.module import predict

LEARNED = ["supermask", "mask_threshold", "mask_threshold_magnitude"]
FIXED = ["mask_random", "mask_magnitude"]


def applied(*overrides: str) -> Backbone:
    """The builtin model after a method with overrides."""
    base = fresh()
    tuning_method(*overrides).tune(base, seed=0)
    return base


def masked(base: Backbone) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(pre-trained weight, mask) of every masked matrix."""
    return [
        (
            surgery.raw_parameter(site, "weight").detach(),
            site.get_submodule(name).to_delta()["mask"],
        )
        for _, site, name in surgery.injected(base.model.base_model)
    ]


@pytest.mark.parametrize("name", [*LEARNED, *FIXED])
def test_initial_sparsity_of_each_matrix(name: str) -> None:
    pairs = masked(applied(f"method={name}", "method.sparsity=0.2"))
    assert len(pairs) == 18  # six matrices in each of three layers
    for _, mask in pairs:
        zeros = 1 - mask.float().mean().item()
        # uniform scores are drawn, so their share is a sample's
        assert zeros == pytest.approx(0.2, abs=0.015 if name == "mask_threshold" else 1e-4)


@pytest.mark.parametrize("name", ["supermask", "mask_threshold_magnitude", "mask_magnitude"])
def test_magnitude_zeroes_the_smallest(name: str) -> None:
    for weight, mask in masked(applied(f"method={name}", "method.sparsity=0.3")):
        assert weight[~mask].abs().max() <= weight[mask].abs().min()


def test_no_sparsity_is_the_pretrained_model(encoded: TokenizedDataset) -> None:  # noqa: F811
    expected = predict(fresh().model, encoded, batch_size=8)
    for name in ("supermask", "mask_threshold_magnitude", *FIXED):
        found = predict(applied(f"method={name}", "method.sparsity=0").model, encoded, batch_size=8)
        assert torch.equal(found, expected), name


@pytest.mark.parametrize(
    ("overrides", "low", "high"),
    [
        ("method=supermask method.initial=3", -3.0, 3.0),
        ("method=mask_threshold_magnitude", 0, 0.02),
    ],
)
def test_scores_start_at_two_values(overrides: str, low: float, high: float) -> None:
    base = applied(*overrides.split(), "method.sparsity=0.2")
    for module in base.model.modules():
        if isinstance(module, LearnedMask):
            assert module.scores.unique().tolist() == pytest.approx([low, high])


def test_masks_only_the_chosen_matrices() -> None:
    base = applied("method=supermask", "method.roles=[value]", "method.layers=top-1")
    sites = [path for path, _, _ in surgery.injected(base.model)]
    assert sites == ["bert.encoder.layer.2.attention.self.value"]


# --- supermask -----------------------------------------------------------------------------------


def test_training_draws_with_the_scores_probability() -> None:
    torch.manual_seed(0)
    for score, kept in ((-5.0, 0.0067), (0.0, 0.5), (5.0, 0.9933)):
        mask = BernoulliMask(torch.full((200, 100), score), evaluate="mode").train()
        assert mask(torch.ones(200, 100)).mean().item() == pytest.approx(kept, abs=0.012)


def test_the_gradient_goes_straight_through_the_draw() -> None:
    weight, upstream = torch.randn(4, 5), torch.randn(4, 5)
    mask = BernoulliMask(torch.randn(4, 5), evaluate="mode").train()
    (mask(weight) * upstream).sum().backward()
    p = torch.sigmoid(mask.scores.detach())
    expected = (upstream * weight).flatten() * p * (1 - p)
    torch.testing.assert_close(mask.scores.grad, expected)


def test_both_rules_of_evaluation_are_masks_and_repeat() -> None:
    scores = torch.randn(60, 50, generator=torch.Generator().manual_seed(1))  # the draw's is 0
    mode = BernoulliMask(scores, evaluate="mode").eval()
    draw = BernoulliMask(scores, evaluate="draw").eval()
    weight = torch.ones(60, 50)
    assert torch.equal(mode(weight), (scores > 0).float())
    first = draw(weight)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(1)
    assert torch.equal(draw(weight), first)
    assert not torch.equal(first, mode(weight))
    agreement = (first == mode(weight)).float().mean().item()
    expected = torch.maximum(torch.sigmoid(scores), 1 - torch.sigmoid(scores)).mean().item()
    assert agreement == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("rule", ["mode", "draw"])
def test_either_rule_round_trips(rule: str, encoded: TokenizedDataset, tmp_path: Path) -> None:  # noqa: F811
    base = applied("method=supermask", f"method.evaluate={rule}", "method.initial=0.5")
    for _ in steps(base, encoded):
        pass
    facts = {"method": "supermask", "fingerprint": base.fingerprint}
    delta.save(tmp_path / "delta", base.model, labels=[], **facts)
    other = applied("method=supermask", f"method.evaluate={rule}")
    delta.load(tmp_path / "delta", other.model, **facts)
    found, expected = (predict(b.model, encoded, batch_size=8) for b in (other, base))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "made",
    [
        lambda scores: BernoulliMask(scores, evaluate="mode"),
        lambda scores: BernoulliMask(scores, evaluate="draw"),
        ThresholdMask,
        lambda scores: Mask(scores > 0),
    ],
    ids=["mode", "draw", "threshold", "fixed"],
)
def test_a_stored_mask_replaces_the_scores_for_good(
    made: Callable[[torch.Tensor], nn.Module],
) -> None:
    one, other, weight = made(torch.randn(6, 5)), made(torch.randn(6, 5)), torch.randn(6, 5)
    expected = one.eval()(weight)
    assert not torch.equal(other.eval()(weight), expected)
    other.from_delta({name: value.clone() for name, value in one.to_delta().items()})
    for mode in (False, True):
        assert torch.equal(other.train(mode)(weight), expected)


@pytest.mark.parametrize(("sparsity", "size", "count"), [(0.2, 7, 1), (0.5, 3, 1), (0, 9, 0)])
def test_a_sparsity_is_rounded_down(sparsity: float, size: int, count: int) -> None:
    assert pruned_count(sparsity, size) == count
    assert int(smallest(torch.randn(size), sparsity).sum()) == count


def test_a_sparse_difference_keeps_values_and_places_together() -> None:
    """Whatever the order in which its places were chosen."""
    weight, places = torch.randn(4, 5), torch.tensor([17, 3, 8])
    for moved in (False, True):
        one = SparseDifference((4, 5), torch.tensor([1, 2]) if moved else places)
        if moved:
            nn.init.ones_(one.values)
            one.move(places)
            assert torch.equal(one(weight), weight), "from zero again"
        with torch.no_grad():
            one.values.copy_(torch.tensor([1.0, 2.0, 3.0]))
        other = SparseDifference((4, 5), torch.tensor([0]))
        other.from_delta(one.to_delta())
        assert torch.equal(other(weight), one(weight))
        added = (one(weight) - weight).flatten()
        assert added[[3, 8, 17]].tolist() == pytest.approx([1, 2, 3], abs=1e-5)


@pytest.mark.parametrize(("density", "size", "kept"), [(0.5, 7, 3), (1e-9, 7, 1), (1, 7, 7)])
def test_a_density_is_rounded_down_to_one_at_least(density: float, size: int, kept: int) -> None:
    assert count(density, size) == kept


def test_threshold_gradient_is_the_masks() -> None:
    weight, upstream = torch.randn(4, 5), torch.randn(4, 5)
    mask = ThresholdMask(torch.randn(4, 5)).train()
    (mask(weight) * upstream).sum().backward()
    torch.testing.assert_close(mask.scores.grad, (upstream * weight).flatten())


def test_a_score_at_the_threshold_is_cut() -> None:
    scores = torch.tensor([THRESHOLD - 1e-4, THRESHOLD, THRESHOLD + 1e-4])
    assert ThresholdMask(scores).binarize().tolist() == [False, False, True]


def test_no_weight_decay_on_scores() -> None:
    for name in (*LEARNED, "diff_pruning_structured"):
        for module in applied(f"method={name}").model.modules():
            if isinstance(module, LearnedMask | GatedDifference):
                assert all(p.ndim == 1 for p in module.parameters()), "only matrices decay"


@pytest.mark.parametrize("name", [*LEARNED, *FIXED])
@pytest.mark.parametrize("sparsity", ["-0.1", "1", "2"])
def test_sparsity_out_of_range(name: str, sparsity: str) -> None:
    with pytest.raises(UserError, match=r"sparsity=.* must lie in \[0, 1\)"):
        applied(f"method={name}", f"method.sparsity={sparsity}")


def test_a_role_that_is_no_matrix() -> None:
    with pytest.raises(UserError, match="'output_norm' is no weight matrix of bert; choose among"):
        applied("method=supermask", "method.roles=[output_norm]")


# --- diff pruning --------------------------------------------------------------------------------


def gated(base: Backbone) -> list[GatedDifference]:
    """The gated differences of a model."""
    return [m for m in base.model.modules() if isinstance(m, GatedDifference)]


def test_gates_follow_their_formula() -> None:
    module = GatedDifference(torch.zeros(3, 4), structured=True)
    nn.init.normal_(module.difference)
    nn.init.uniform_(module.gates, -0.2, 0.1)  # times 50, plus 5: from shut to open
    nn.init.constant_(module.group, -0.1)

    def hard(gates: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(5 + 50 * gates) * 3 - 1.5).clamp(0, 1)

    expected = module.difference * hard(module.gates) * hard(module.group)
    torch.testing.assert_close(module.eval().gated(), expected)
    penalty = torch.sigmoid(5 + 50 * module.gates).sum() * torch.sigmoid(5 + 50 * module.group)[0]
    torch.testing.assert_close(module.expected(), penalty)
    module.train()
    assert not torch.equal(module.gated(), module.gated()), "drawn in training"


def test_the_penalty_reaches_the_gates() -> None:
    base = applied("method=diff_pruning")
    tuning_method("method=diff_pruning", "method.l0=0.5").after_backward(base.model, 0.0)
    for module in gated(base):
        (expected,) = torch.autograd.grad(module.expected(), module.gates)
        assert (expected > 0).all()
        torch.testing.assert_close(module.gates.grad, 0.5 * expected)
        assert module.difference.grad is None


@pytest.mark.parametrize("name", ["diff_pruning", "diff_pruning_structured"])
def test_projection_keeps_the_largest_of_all(name: str, encoded: TokenizedDataset) -> None:  # noqa: F811
    base, method = fresh(), method_of(name)
    method.tune(base, seed=0)
    for _ in steps(base, encoded):
        pass
    base.model.eval()
    dense = torch.cat([module.gated().detach() for module in gated(base)])
    base.model.train()  # as in a run, where gates are drawn
    assert not method.after_step(base.model.base_model, 0.59)
    assert (method.checkpointable, method.lr_scale) == (False, 1.0)
    assert method.after_step(base.model.base_model, 0.6)
    assert (method.checkpointable, method.lr_scale) == (True, 5.0)
    assert not method.after_step(base.model.base_model, 0.7), "once"
    assert base.model.base_model.training
    method.after_backward(base.model.base_model, 0.7)  # no gates, no penalty
    base.model.eval()
    kept = torch.cat([module(torch.zeros(module.shape)).flatten() for module in gated(base)])
    count = int(0.005 * len(dense))
    assert (kept != 0).sum() == count
    assert torch.equal(kept[kept != 0], dense[kept != 0])
    assert dense[kept != 0].abs().min() >= dense[kept == 0].abs().max()
    trains = surgery.trainable(base.model.base_model)
    assert sum(p.numel() for p in trains.values()) == count
    assert len(trains) == len(gated(base)), "neither gates nor dense differences"


def test_a_run_of_diff_pruning_delivers_its_density(tmp_path: Path) -> None:
    record = run_cell(tmp_path, "method=diff_pruning", "experiment=smoke", "budget.steps=4")
    assert record.status == "ok"
    entries = 3 * (4 * 128 * 128 + 2 * 128 * 256)
    values = int(0.005 * entries)
    assert record.delta_bound_bytes < 4 * (values + 258) + 9 * values / 8 * 1.3
    assert record.delta_bytes < 20_000


# --- what a task takes ---------------------------------------------------------------------------


def bert_base_masks(zeros: float) -> nn.ModuleDict:
    """A mask for each of BERT-base's 72 matrices, with random zeros; 0: none."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    return nn.ModuleDict(
        {
            f"bert_encoder_layer_{layer}_matrix_{number}_supermask": Mask(
                torch.rand(shape, generator=generator) >= zeros if zeros else torch.ones(shape) > 0
            )
            for layer in range(12)
            for number, shape in enumerate(shapes)
        }
    )


@pytest.mark.parametrize("zeros", [0.5, 0.05, 0.01, 0.001])
def test_bytes_of_a_supermask_over_bert_base(zeros: float, tmp_path: Path) -> None:
    masks = bert_base_masks(zeros)
    path = tmp_path / "delta.safetensors"
    size = delta.save(path, masks, method="supermask", fingerprint="0", labels=[])
    bound = delta.bound(delta.state(masks))
    assert sum(module.mask.numel() for module in masks.values()) == 84_934_656
    assert size <= 10.2 * 2**20
    if zeros <= 0.05:
        assert bound <= size <= 1.1 * bound
    other = bert_base_masks(0)
    delta.load(path, other, method="supermask", fingerprint="0")
    assert all(torch.equal(other[name].mask, masks[name].mask) for name in masks)


def test_bytes_of_a_sparse_difference() -> None:
    shape, places = (3072, 768), torch.randperm(3072 * 768)[:11_796]
    module = SparseDifference(shape, places)
    bound = delta.bound(delta.state(nn.ModuleDict({"site": module})))
    assert 4 * 11_796 < bound < 5.2 * 11_796  # the places of half a percent: 9 bits each
