"""Methods that choose which weights train: layers, halves, sparse differences, compositions."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import run_cell, tuning_method
from test_methods import OPTIM, TASK, encoded, fresh, method_of, steps  # noqa: F401
from torch import nn

from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.base import TuningMethod
from finegrid.methods.compose import Compose
from finegrid.methods.hft import HFT, _half
from finegrid.methods.modules.sparse_delta import SparseDifference, top
from finegrid.methods.sparse import Sparse
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.training.module import FineTuner
from finegrid.training.state import TrainState


def applied(*overrides: str) -> tuple[Backbone, TuningMethod]:
    """The builtin model after a method with overrides."""
    base, method = fresh(), tuning_method(*overrides)
    method.tune(base, seed=0)
    return base, method


def trains(*overrides: str) -> set[str]:
    """Names of what trains below the head."""
    base, _ = applied(*overrides)
    return set(surgery.trainable(base.model.base_model))


# --- layers and roles ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [("[0,2]", "02"), ("[-1]", "2"), ("top-2", "12"), ("bottom-1", "0"), ("null", "012")],
)
def test_layers_by_number_and_end(layers: str, numbers: str) -> None:
    names = trains("method=layers", f"method.layers={layers}")
    every = {name for name, _ in fresh().model.base_model.named_parameters()}
    assert names == {n for n in every if any(n.startswith(f"encoder.layer.{i}.") for i in numbers)}


def test_layers_by_role_within_layers() -> None:
    names = trains("method=layers", "method.layers=[1]", "method.roles=[query,layernorm]")
    layer = "encoder.layer.1"
    # the embeddings' LayerNorm lies in no layer, so the choice of layers does not exclude it
    assert {name for name in names if name.startswith("encoder")} == {
        f"{layer}.{site}.{kind}"
        for site in ("attention.self.query", "attention.output.LayerNorm", "output.LayerNorm")
        for kind in ("weight", "bias")
    }
    assert {name for name in names if not name.startswith("encoder")} == {
        "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias",
    }  # fmt: skip


def test_everything_except() -> None:
    every = {name for name, _ in fresh().model.base_model.named_parameters()}
    chosen = trains("method=layers", "method.roles=[embeddings]", "method.layers=null")
    rest = trains("method=layers", "method.roles=[embeddings]", "method.layers=null",
                  "method.invert=true")  # fmt: skip
    assert chosen
    assert rest == every - chosen


@pytest.mark.parametrize("layers", ["[3]", "[-4]", "top-0", "top-4", "middle-1", "[]"])
def test_layers_that_are_not_there(layers: str) -> None:
    with pytest.raises(UserError, match="is no choice among the 3 layers"):
        applied("method=layers", f"method.layers={layers}")


# --- half fine-tuning ----------------------------------------------------------------------------


def test_half_of_every_category() -> None:
    names = trains("method=hft")
    for layer in range(3):
        inside = {n for n in names if n.startswith(f"encoder.layer.{layer}.")}
        attention = [n for n in inside if "attention" in n and n.endswith("e.weight")]
        attention += [n for n in inside if n.endswith(("query.weight", "key.weight"))]
        matrices = {n for n in inside if n.endswith(".weight") and "LayerNorm" not in n}
        assert sum("attention" in n for n in matrices) == 2
        assert sum("attention" not in n for n in matrices) == 1
        assert {n.replace(".weight", ".bias") for n in matrices} <= inside
    assert sum("LayerNorm.weight" in n for n in names if n.startswith("encoder")) == 3
    assert "embeddings.word_embeddings.weight" in names
    assert not any("pooler" in n for n in names)


def test_another_seed_draws_another_half() -> None:
    halves = []
    for seed in (0, 1):
        base = fresh()
        method_of("hft").tune(base, seed=seed)
        halves.append(frozenset(surgery.trainable(base.model)))
    assert halves[0] != halves[1]


def test_half_of_an_odd_number_is_rounded_up() -> None:
    modules: list[nn.Module] = [nn.Identity() for _ in range(5)]
    half = _half(modules)
    assert len({id(module) for module in half} & {id(module) for module in modules}) == 3


def test_a_round_moves_only_its_own_half(encoded: TokenizedDataset) -> None:  # noqa: F811
    base, method = applied("method=hft", "method.rounds=2", "method.embeddings=false")
    module = FineTuner(base, TASK, OPTIM, seed=0)
    optimizer = module.configure_optimizers()
    moved = []
    for progress in (0.0, 0.4, 0.5, 0.9, 1.0):
        before = {
            n: p.detach().clone() for n, p in surgery.trainable(base.model.base_model).items()
        }
        optimizer.zero_grad()
        module.loss(encoded.batch(range(16))).backward()
        method.after_backward(base.model.base_model, progress)
        optimizer.step()
        now = surgery.trainable(base.model.base_model)
        moved.append({name for name in before if not torch.equal(before[name], now[name])})
    assert isinstance(method, HFT)
    name_of = {id(p): name for name, p in base.model.base_model.named_parameters()}
    first, second = (
        {name_of[id(p)] for module in half for p in module.parameters()} for half in method.halves
    )
    assert moved == [first, first, second, second, second], "neither decay nor momentum elsewhere"
    assert first != second
    assert first | second == surgery.trainable(base.model.base_model).keys()


# --- sparse differences --------------------------------------------------------------------------


def differences(base: Backbone) -> dict[str, SparseDifference]:
    """Path -> sparse difference."""
    named = base.model.base_model.named_modules()
    return {name: module for name, module in named if isinstance(module, SparseDifference)}


@pytest.mark.parametrize("rule", ["random", "magnitude", "fisher", "sam"])
def test_density_per_tensor(rule: str) -> None:
    base, _ = applied("method=sparse", f"method.rule={rule}", "method.density=0.01")
    for module in differences(base).values():
        assert len(module.values) == int(0.01 * module.shape[0] * module.shape[1])
        assert len(module.places.unique()) == len(module.places)


def test_magnitude_takes_the_largest_weights() -> None:
    base, _ = applied("method=sparse_magnitude", "method.roles=[query]", "method.layers=[0]")
    (module,) = differences(base).values()
    weight = surgery.raw_parameter(base.sites["query"][0].module, "weight").abs().flatten()
    assert weight[module.places].min() >= weight.sort().values[-len(module.places)]


def test_global_scope_compares_all_tensors() -> None:
    first, second = top([torch.tensor([1.0, 9.0]), torch.tensor([8.0, 7.0])], 0.5, together=True)
    assert (first.tolist(), sorted(second.tolist())) == ([1], [0])


@pytest.mark.parametrize("rule", ["fisher", "sam"])
def test_gradient_rules_choose_by_the_gradients(rule: str, encoded: TokenizedDataset) -> None:  # noqa: F811
    overrides = ("method=sparse", f"method.rule={rule}", "method.samples=8", "method.roles=[value]")
    base, method = applied(*overrides)
    module = FineTuner(base, TASK, OPTIM, seed=0, train=encoded)
    plain = FineTuner(fresh(), TASK, OPTIM, seed=0, train=encoded)
    weights = [site.module.weight.requires_grad_(True) for site in plain.backbone.sites["value"]]
    totals = [torch.zeros_like(weight) for weight in weights]
    for loss in plain.losses(8, 1):
        for total, gradient in zip(totals, torch.autograd.grad(loss, weights), strict=True):
            total += gradient**2 if rule == "fisher" else gradient
    before = {name: m.places.clone() for name, m in differences(base).items()}
    method.choose(base.model.base_model, module.losses)
    for (name, chosen), total in zip(differences(base).items(), totals, strict=True):
        score = total.abs().flatten()
        worst, count = score[chosen.places].min(), len(chosen.places)
        assert worst >= score.sort().values[-count] * (1 - 1e-4)
        assert not torch.equal(chosen.places, before[name])
    assert all(not site.module._parameters["weight"].requires_grad for site in base.sites["value"])


def test_residual_takes_what_a_low_rank_misses() -> None:
    method = tuning_method(
        "method=sparse", "method.rule=residual", "method.rank=1", "method.density=0.03"
    )
    assert isinstance(method, Sparse)
    outer = torch.linspace(1, 2, 6)[:, None] * torch.linspace(3, 5, 6)
    outer[2, 4] += 0.5
    (places,) = method._places([nn.Parameter(outer)])
    assert places.tolist() == [2 * 6 + 4]


def test_losses_for_a_choice_are_of_random_rows_without_dropout(encoded: TokenizedDataset) -> None:  # noqa: F811
    base = fresh()
    first, other = (FineTuner(base, TASK, OPTIM, seed=seed, train=encoded) for seed in (0, 1))
    base.model.train()
    once, again, shuffled = (
        torch.stack([*module.losses(16, 4)]).detach() for module in (first, first, other)
    )
    assert torch.equal(once, again)
    assert base.model.training
    assert not torch.allclose(once, shuffled), "each seed takes the rows in an order of its own"
    base.model.eval()
    every = first.loss(encoded.batch(range(16))).detach()
    torch.testing.assert_close(torch.stack([once.mean(), shuffled.mean()]), every.expand(2))
    [*first.losses(4, 4)]
    assert not base.model.training


def test_weight_decay_moves_no_other_entry(encoded: TokenizedDataset) -> None:  # noqa: F811
    base, _ = applied("method=sparse_random", "method.density=0.01")
    site = base.sites["query"][0].module
    before = site.weight.detach().clone()
    for _ in steps(base, encoded, count=5):
        pass
    changed = (site.weight != before).flatten().nonzero().squeeze(-1)
    (module,) = [
        m for name, m in differences(base).items() if "layer.0.attention.self.query" in name
    ]
    assert set(changed.tolist()) <= set(module.places.tolist())
    assert len(changed) > 0


@pytest.mark.parametrize("density", ["0", "-0.1", "1.5"])
def test_density_out_of_range(density: str) -> None:
    with pytest.raises(UserError, match=r"density=.* must lie in \(0, 1\]"):
        applied("method=sparse", f"method.density={density}")


def test_unknown_rule_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'fisher'"):
        applied("method=sparse", "method.rule=fischer")


def test_a_run_chooses_by_gradients_before_it_trains(tmp_path: Path) -> None:
    record = run_cell(tmp_path, "method=sparse", "experiment=smoke", "method.samples=4")
    assert record.status == "ok"
    assert record.params_delta == 1950
    assert record.delta_bytes / record.delta_bound_bytes < 2


# --- compositions --------------------------------------------------------------------------------


def composition(*names: str) -> Compose:
    """A composition of methods as their YAML files say."""
    return Compose(members={name: method_of(name) for name in names})


def test_a_composition_trains_what_its_members_train() -> None:
    both, one, other = (
        trains(f"method={name}") for name in ("bitfit_lora", "bitfit", "lora")
    )  # fmt: skip
    assert both == one | other


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (("bitfit", "layernorm"), "embeddings.LayerNorm.bias"),
        (("full", "bitfit"), "bias"),
        (("lora", "dsee"), "lora"),
        (("sparse", "supermask"), "layer.0.attention.output.dense.weight"),
        (("houlsby", "houlsby_layernorm"), "houlsby"),
        (("layers", "sparse"), "layer.1"),
    ],
)
def test_members_that_claim_the_same_are_both_named(names: tuple[str, str], where: str) -> None:
    method = composition(*names)
    message = f"methods {names[0]} and {names[1]} both claim .*{where}"
    with pytest.raises(UserError, match=message):
        method.tune(fresh(), seed=0)


def test_compositions_that_do_not_overlap_are_allowed() -> None:
    for names in (("bitfit", "houlsby"), ("lora", "prefix", "layernorm"), ("prompt", "ia3")):
        base = fresh()
        composition(*names).tune(base, seed=0)
        assert surgery.trainable(base.model.base_model)


def test_a_composition_passes_everything_on() -> None:
    front = tuning_method("method=prompt", "method.place=front")
    method = Compose(members={"prompt": front, "diff_pruning": method_of("diff_pruning")})
    assert (method.positions, method.starts_pretrained) == (10, False)
    base = fresh()
    method.tune(base, seed=0)
    assert not method.after_step(base.model.base_model, 0.1)
    assert not method.checkpointable
    assert method.after_step(base.model.base_model, 1.0)
    assert method.checkpointable


class Member(TuningMethod):
    """A method that notes what it is asked."""

    def __init__(
        self, *, changes: bool, checkpointable: bool, starts_pretrained: bool = True
    ) -> None:
        self.changes, self.checkpointable = changes, checkpointable
        self.starts_pretrained = starts_pretrained
        self.lr_scale, self.positions = 0.5, 3
        self.asked: list[str] = []

    def choose(self, backbone: nn.Module, losses: object) -> None:
        self.asked.append("choose")

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        self.asked.append("after_step")
        return self.changes

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        self.asked.append("after_backward")


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_composition_is_the_sum_of_its_members(first: bool, second: bool) -> None:
    pair = [
        Member(changes=one, checkpointable=one, starts_pretrained=one) for one in (first, second)
    ]
    method = Compose(members=dict(zip("ab", pair, strict=True)))
    nothing = nn.Linear(1, 1)
    method.choose(nothing, lambda count, size: iter(()))
    method.after_backward(nothing, 0.5)
    assert method.after_step(nothing, 0.5) == (first or second)
    assert method.checkpointable == method.starts_pretrained == (first and second)
    assert (method.lr_scale, method.positions) == (0.25, 6)
    assert [member.asked for member in pair] == [["choose", "after_backward", "after_step"]] * 2


@pytest.mark.parametrize("changes", [False, True])
def test_the_optimizer_follows_what_a_method_changes(changes: bool) -> None:
    made: list[object] = []
    losses: list[object] = []
    strategy = SimpleNamespace(setup_optimizers=made.append)
    trainer: Any = SimpleNamespace(strategy=strategy)
    module: Any = SimpleNamespace(
        model=SimpleNamespace(base_model=None),
        state=TrainState(progress=0.5),
        use_loss=losses.append,
    )
    member = Member(changes=changes, checkpointable=changes)
    member.on_after_backward(trainer, module)
    member.on_train_batch_end(trainer, module, None, None, 0)
    assert member.asked == ["after_backward", "after_step"]
    assert module.state.checkpointable == changes
    assert (module.state.lr_scale, made) == ((0.5, [trainer]) if changes else (1.0, []))
    assert losses == ([None] if changes else []), "the loss of the phase, here the run's"


def test_a_method_is_applied_by_the_runs_own_seed_and_chooses_then() -> None:
    member = Member(changes=False, checkpointable=True)
    member.tune = lambda backbone, *, seed: member.asked.append(f"tune {seed}")  # type: ignore[method-assign]
    module: Any = SimpleNamespace(
        backbone=None, init_seed=7, model=SimpleNamespace(base_model=None), losses=None,
        state=TrainState(), use_loss=lambda given: member.asked.append(f"loss {given}"),
        to=lambda device: member.asked.append(f"to {device}"),
    )  # fmt: skip
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device="cpu"))
    member.setup(trainer, module, "fit")
    assert member.asked == ["tune 7", "loss None", "to cpu", "choose"]
    assert module.state.lr_scale == member.lr_scale


def test_sparse_members_choose_in_a_composition(encoded: TokenizedDataset) -> None:  # noqa: F811
    member = tuning_method("method=sparse", "method.samples=4")
    assert isinstance(member, Sparse)
    base, method = fresh(), Compose(members={"lora": method_of("lora"), "sparse": member})
    method.tune(base, seed=0)
    before = next(iter(differences(base).values())).places.clone()
    module = FineTuner(base, TASK, OPTIM, seed=0, train=encoded)
    method.choose(base.model.base_model, module.losses)
    assert not torch.equal(before, next(iter(differences(base).values())).places)
