"""The contract of a tuning method, held by every conf/method/*.yaml on both builtin models."""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import METHODS, composed, tuning_method
from hydra.utils import get_class
from safetensors.torch import load_file
from torch import Tensor, nn

from finegrid.config import NOT_ARGUMENTS, MethodConfig, OptimConfig, RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples
from finegrid.data.tokenization import encode
from finegrid.errors import UserError
from finegrid.methods.base import TuningMethod
from finegrid.models import backbone, surgery
from finegrid.models.backbone import Backbone
from finegrid.runs import delta
from finegrid.tasks.classification import Classification
from finegrid.training.components import build_method
from finegrid.training.module import FineTuner, logits_of, predict

OPTIM = OptimConfig(
    lr=1e-2, head_lr=None, weight_decay=0.1, warmup=0.0, schedule="constant", clip=1.0
)
MODELS = ("tiny", "tiny_llama")
UNFIT = {  # what cannot be applied to a model
    "tiny": (),
    "tiny_llama": ("bitfit", "bitfit_lora", "bitfit_q_m2"),  # it has no biases
}
BY_ROUNDS = ("lisa",)  # of what belongs to its delta, a part alone trains in each round
CASES = [(name, model) for model in MODELS for name in METHODS if name not in UNFIT[model]]
TASK = Classification(name="t", text=["a"], metrics=["accuracy"], labels=["no", "yes"])


@cache
def _built(seed: int, model: str) -> Backbone:
    return backbone.build(RunConfig.of(composed(f"model={model}")).model, outputs=2, seed=seed)


def fresh(seed: int = 0, model: str = "tiny") -> Backbone:
    """A builtin model, frozen, with a head drawn from a seed."""
    return copy.deepcopy(_built(seed, model))


@cache
def _config_of(name: str) -> MethodConfig:
    return RunConfig.of(composed(f"method={name}")).method


def method_of(name: str) -> TuningMethod:
    """A method as its YAML says."""
    return build_method(_config_of(name))


def tuned(name: str, seed: int = 0, model: str = "tiny") -> Backbone:
    """A builtin model after a method was applied."""
    base = fresh(seed, model)
    method_of(name).tune(base, seed=seed)
    return base


@pytest.fixture(scope="module")
def encoded() -> TokenizedDataset:
    """Sixteen rows of builtin text."""
    return encoded_for("tiny")


@cache
def encoded_for(model: str) -> TokenizedDataset:
    """Sixteen rows of builtin text as a model reads them."""
    from finegrid.data import builtin

    rows = builtin.load("builtin_paraphrase")["train"][:16]
    texts = ([str(row["sentence1"]) for row in rows], [str(row["sentence2"]) for row in rows])
    labels = torch.tensor([int(row["label"]) for row in rows]).numpy()
    tokenizer = backbone.tokenizer(RunConfig.of(composed(f"model={model}")).model)
    return TokenizedDataset(Examples(texts, labels, list(range(16))), encode(texts, tokenizer, 64))


def steps(
    base: Backbone, encoded: TokenizedDataset, count: int = 3, method: TuningMethod | None = None
) -> Iterator[FineTuner]:
    """Train for some steps, yielding before each optimizer step."""
    module = FineTuner(base, TASK, OPTIM, seed=0)
    optimizer = module.configure_optimizers()
    module.model.train()
    for _ in range(count):
        optimizer.zero_grad()
        module.loss(encoded.batch(range(16))).backward()
        if method is not None:
            method.after_backward(base.model.base_model, 0.0)
        yield module
        optimizer.step()


def _draws_what_trains(name: str, model: str) -> bool:
    return (
        surgery.trainable(tuned(name, model=model).model).keys()
        != surgery.trainable(tuned(name, seed=5, model=model).model).keys()
    )


def delivered(name: str, model: str) -> Backbone:
    """A builtin model after some training steps, as a run would deliver it."""
    return copy.deepcopy(_delivered(name, model))


@cache
def _delivered(name: str, model: str) -> Backbone:
    base, method = fresh(model=model), method_of(name)
    method.tune(base, seed=0)
    for _ in steps(base, encoded_for(model)):
        pass
    method.after_step(base.model.base_model, 1.0)
    assert method.checkpointable
    return base


def bits(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of a model."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_yaml_binds_to_the_signature(name: str) -> None:
    cfg = composed(f"method={name}").method
    assert cfg.name == name
    given = {key for key in cfg if key not in (*NOT_ARGUMENTS, "_target_", "search")}
    target = get_class(cfg._target_)
    plain = target.__init__ is TuningMethod.__init__
    wanted = set() if plain else set(inspect.signature(target).parameters)
    given |= {"layers"} & wanted  # which every method takes, in its YAML or beside it
    assert given == wanted - {"search"}, "that is of the rates to try; once it was an argument"
    assert "default" in cfg.recipe.lr


@pytest.mark.parametrize(("name", "model"), CASES)
class TestContract:
    """What holds for every method, on an encoder and on a decoder."""

    @pytest.fixture
    def encoded(self, model: str) -> TokenizedDataset:
        """Sixteen rows of builtin text."""
        return encoded_for(model)

    def test_starts_as_the_pretrained_model_where_it_says_so(
        self, name: str, model: str, encoded: TokenizedDataset
    ) -> None:
        expected = predict(fresh(model=model).model, encoded, batch_size=8)
        found = predict(tuned(name, model=model).model, encoded, batch_size=8)
        assert (
            torch.allclose(found, expected, rtol=0, atol=1e-6) == method_of(name).starts_pretrained
        )

    def test_keeps_the_backbones_names(self, name: str, model: str) -> None:
        assert (
            fresh(model=model).model.state_dict().keys()
            <= tuned(name, model=model).model.state_dict().keys()
        )

    def test_every_trainable_gets_a_gradient_and_nothing_else(
        self, name: str, model: str, encoded: TokenizedDataset
    ) -> None:
        for module in steps(tuned(name, model=model), encoded, count=1):
            for parameter_name, parameter in module.model.named_parameters():
                trains = parameter.requires_grad
                # Positions beyond the batch and unused ids get a zero gradient, not none.
                assert (parameter.grad is not None) == trains, parameter_name
                if trains:
                    assert torch.isfinite(parameter.grad).all()

    def test_optimizer_holds_exactly_the_trainables(self, name: str, model: str) -> None:
        base = tuned(name, model=model)
        optimizer = FineTuner(base, TASK, OPTIM, seed=0).configure_optimizers()
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        wanted = [id(p) for p in surgery.trainable(base.model).values()]
        assert sorted(held) == sorted(wanted)
        assert len(held) == len(set(held))

    def test_trains_what_it_says_and_freezes_the_rest_bit_by_bit(
        self, name: str, model: str, encoded: TokenizedDataset
    ) -> None:
        base, method = fresh(model=model), method_of(name)
        method.tune(base, seed=0)
        before, asked = bits(base.model), set()
        for module in steps(base, encoded, method=method):
            asked |= {name for name, p in module.model.named_parameters() if p.grad is not None}
        trains = surgery.trainable(base.model)
        for key, value in base.model.state_dict().items():
            if key not in trains:
                assert torch.equal(value, before[key]), f"{key} moved"
        assert asked == trains.keys() or (name in BY_ROUNDS and asked < trains.keys())
        moved = {key for key in trains if not torch.equal(trains[key], before[key])}
        assert moved == asked

    def test_dropout_is_on_in_training_and_off_in_prediction(
        self, name: str, model: str, encoded: TokenizedDataset
    ) -> None:
        base = tuned(name, model=model)
        module = FineTuner(base, TASK, OPTIM, seed=0)
        module.on_train_start()
        drops = [m for m in base.model.modules() if isinstance(m, nn.Dropout)]
        assert bool(drops) == (model == "tiny"), "a Llama has none"
        assert all(drop.training and drop.p > 0 for drop in drops)
        first, second = (module.loss(encoded.batch(range(16))) for _ in range(2))
        assert first != second or not drops
        once, twice = (predict(base.model, encoded, batch_size=8) for _ in range(2))
        assert torch.equal(once, twice)
        assert base.model.training

    def test_applying_twice_is_applying_once(
        self, name: str, model: str, encoded: TokenizedDataset
    ) -> None:
        base, once = fresh(model=model), tuned(name, model=model)
        method = method_of(name)
        for _ in range(2):
            method.tune(base, seed=0)
        assert surgery.trainable(base.model).keys() == surgery.trainable(once.model).keys()
        assert torch.equal(
            predict(base.model, encoded, batch_size=8), predict(once.model, encoded, batch_size=8)
        )
        grown = sum(len(module._forward_hooks) for module in base.model.modules())
        assert grown == sum(len(module._forward_hooks) for module in once.model.modules())

    def test_never_touches_the_head(self, name: str, model: str) -> None:
        base = tuned(name, model=model)
        prefix = f"{base.model.base_model_prefix}."
        heads = {
            k: v
            for k, v in fresh(model=model).model.state_dict().items()
            if not k.startswith(prefix)
        }
        found = {k: v for k, v in base.model.state_dict().items() if not k.startswith(prefix)}
        assert found.keys() == heads.keys()
        assert all(torch.equal(found[key], heads[key]) for key in heads)
        assert heads.keys() <= surgery.trainable(base.model).keys()

    def test_leaves_the_random_stream_alone(self, name: str, model: str) -> None:
        base = fresh(model=model)
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        method_of(name).tune(base, seed=1)
        assert torch.equal(torch.rand(3), expected)

    def test_same_seed_same_start(self, name: str, model: str) -> None:
        first, again = tuned(name, seed=3, model=model), tuned(name, seed=3, model=model)
        for key, value in first.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[key]), key

    def test_delta_round_trip(
        self, name: str, model: str, encoded: TokenizedDataset, tmp_path: Path
    ) -> None:
        base = delivered(name, model)
        path = tmp_path / "delta.safetensors"
        facts = {"method": name, "fingerprint": base.fingerprint}
        size = delta.save(path, base.model, labels=["no", "yes"], **facts)
        assert size == path.stat().st_size
        state = delta.state(base.model)
        assert size <= 1.02 * delta.bound(state) + 250 * (len(state) + 2)
        other = tuned(name, 0 if _draws_what_trains(name, model) else 5, model)
        delta.load(path, other.model, **facts)
        assert delta.state(other.model).keys() == state.keys()
        for key, value in delta.state(other.model).items():
            assert torch.equal(value, state[key]), key
        found, expected = (predict(b.model, encoded, batch_size=8) for b in (other, base))
        assert torch.equal(found, expected)

    def test_bfloat16_delta_scores_as_the_rounded_model(
        self, name: str, model: str, encoded: TokenizedDataset, tmp_path: Path
    ) -> None:
        base = delivered(name, model)
        delta.round_to(base.model, torch.bfloat16)
        path = tmp_path / "delta.safetensors"
        facts = {"method": name, "fingerprint": base.fingerprint}
        delta.save(path, base.model, labels=[], dtype=torch.bfloat16, **facts)
        stored = {value.dtype for value in load_file(path).values()}
        assert stored <= {torch.bfloat16, torch.uint8}, "masks are bytes"
        other = tuned(name, 0 if _draws_what_trains(name, model) else 5, model)
        delta.load(path, other.model, **facts)
        found, expected = (predict(b.model, encoded, batch_size=8) for b in (other, base))
        assert torch.equal(found, expected)

    def test_a_copy_is_independent(self, name: str, model: str, encoded: TokenizedDataset) -> None:
        base = tuned(name, model=model)
        copied = copy.deepcopy(base.model)
        before = predict(copied, encoded, batch_size=8)
        with torch.no_grad():
            for parameter in surgery.trainable(base.model).values():
                parameter.add_(0.1)
        assert torch.equal(predict(copied, encoded, batch_size=8), before)

    def test_rows_do_not_meet(self, name: str, model: str, encoded: TokenizedDataset) -> None:
        """A row's logits do not depend on who shares its batch."""
        base = delivered(name, model)
        torch.testing.assert_close(
            predict(base.model, encoded, batch_size=1),
            predict(base.model, encoded, batch_size=16),
            rtol=1e-4,
            atol=1e-5,
        )


def test_delta_of_another_method_or_backbone_is_refused(tmp_path: Path) -> None:
    base = tuned("bitfit")
    path = tmp_path / "delta.safetensors"
    delta.save(path, base.model, method="bitfit", fingerprint=base.fingerprint, labels=[])
    with pytest.raises(UserError, match="trained with method bitfit, not another"):
        delta.load(path, base.model, method="another", fingerprint=base.fingerprint)
    with pytest.raises(UserError, match=r"backbone fingerprint .* not 123"):
        delta.load(path, base.model, method="bitfit", fingerprint="123")


def test_modules_over_one_tensor_apply_in_order_and_merge() -> None:
    class Affine(nn.Module):
        """w -> a w + b."""

        def __init__(self, a: float, b: float) -> None:
            super().__init__()
            self.a, self.b = a, b

        def forward(self, weight: Tensor) -> Tensor:
            return self.a * weight + self.b

    layer, x = nn.Linear(3, 2), torch.randn(5, 3)
    before = layer.weight.detach().clone()
    surgery.reparametrize(layer, "weight", "doubled", Affine(2.0, 0.0))
    surgery.reparametrize(layer, "weight", "raised", Affine(1.0, 0.5))
    expected = nn.functional.linear(x, 2 * before + 0.5, layer.bias)
    assert torch.equal(surgery.raw_parameter(layer, "weight"), before)
    torch.testing.assert_close(layer(x), expected)
    surgery.merge(layer)
    assert type(layer) is nn.Linear
    assert not list(layer.children())
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", ["lora", "ia3", "bitfit_lora"])
def test_what_is_merged_leaves_neither_modules_nor_hooks(
    name: str, encoded: TokenizedDataset
) -> None:
    base, plain = tuned(name), fresh()
    with torch.no_grad():
        for parameter in surgery.trainable(base.model.base_model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = predict(base.model, encoded, batch_size=8)
    surgery.merge(base.model)
    torch.testing.assert_close(
        predict(base.model, encoded, batch_size=8), expected, rtol=1e-4, atol=1e-5
    )
    assert base.model.state_dict().keys() == plain.model.state_dict().keys()
    for (path, mine), theirs in zip(base.model.named_modules(), plain.model.modules(), strict=True):
        assert type(mine) is type(theirs), path
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            assert len(getattr(mine, hooks)) == len(getattr(theirs, hooks)), path


def test_predictions_are_in_the_rows_order_whatever_their_length(encoded: TokenizedDataset) -> None:
    model = fresh().model.eval()
    assert (np.diff(encoded.lengths) > 0).any(), "longest first is not their order"
    with torch.no_grad():
        alone = torch.cat([logits_of(model, encoded.batch([row])) for row in range(16)])
    torch.testing.assert_close(predict(model, encoded, batch_size=4), alone, rtol=1e-4, atol=1e-5)
    assert not model.training, "its mode is left as it was"


@pytest.mark.parametrize("head_lr", [None, 3e-3])
def test_only_matrices_decay_and_the_head_has_a_rate_of_its_own(head_lr: float | None) -> None:
    module = FineTuner(tuned("houlsby"), TASK, replace(OPTIM, head_lr=head_lr), seed=0)
    module.state.lr_scale = 0.5  # of a method's second stage
    found = {
        id(parameter): (group["lr"], group["initial_lr"], group["weight_decay"])
        for group in module.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    for name, parameter in surgery.trainable(module.model).items():
        lr = head_lr or 1e-2 if name.startswith("classifier.") else 0.5e-2
        assert found[id(parameter)] == (lr, lr, 0.1 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize(
    ("stored", "into", "message"),
    [
        (["method=houlsby"], ["method=houlsby", "method.reduction_factor=32"], "has shape"),
        (["method=bitfit_q_m2"], ["method=bitfit"], "lacks"),
        (["method=bitfit"], ["method=bitfit_q_m2"], "has the unknown"),
    ],
)
def test_a_delta_of_other_tensors_is_refused(
    stored: list[str], into: list[str], message: str, tmp_path: Path
) -> None:
    base, other = fresh(), fresh()
    tuning_method(*stored).tune(base, seed=0)
    tuning_method(*into).tune(other, seed=0)
    facts = {"method": "one", "fingerprint": base.fingerprint}
    delta.save(tmp_path / "delta", base.model, labels=[], **facts)
    with pytest.raises(UserError, match=message):
        delta.load(tmp_path / "delta", other.model, **facts)


def test_pfeiffer_is_its_formula(encoded: TokenizedDataset) -> None:
    """LN(x + h + A(LN(x + h))), A being the bottleneck."""
    base = tuned("pfeiffer")
    norm = base.sites["output_norm"][0].module
    bottleneck = norm.get_submodule("pfeiffer")
    nn.init.normal_(bottleneck.up.weight)  # away from the identity
    total = torch.randn(2, 5, base.sites.hidden_size)
    plain = nn.functional.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    corrected = total + bottleneck(plain)
    expected = nn.functional.layer_norm(
        corrected, norm.normalized_shape, norm.weight, norm.bias, norm.eps
    )
    torch.testing.assert_close(norm(total), expected)
    assert not torch.allclose(expected, plain)


def test_houlsby_corrects_a_sublayers_output_before_the_residual() -> None:
    base = tuned("houlsby")
    base.model.eval()
    for role in ("attention_block", "output_block"):
        block = base.sites[role][0].module
        bottleneck = block.get_submodule("houlsby")
        nn.init.normal_(bottleneck.up.weight)
        h = torch.randn(2, 5, base.sites.hidden_size)
        torch.testing.assert_close(block(h), h + bottleneck(h))


def test_only_our_own_classes_are_instantiated() -> None:
    with pytest.raises(UserError, match=r"os\.system must be a class in finegrid"):
        tuning_method("method._target_=os.system")
