"""Every method on decoders: it works as on encoders, or says in one line why it does not fit."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import METHODS, composed, tuning_method
from test_decoders import TEXT, logits, padded, small
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.kernels.dropout import draw_from
from finegrid.kernels.optimize import optimize
from finegrid.methods.base import TuningMethod
from finegrid.models import surgery
from finegrid.models.anatomy import DECODERS, widths
from finegrid.models.backbone import Backbone
from finegrid.strategies.fused_model import FusedBackbone, UnfusableError
from finegrid.training import components, gradient_checkpointing

KINDS = ["llama", "gpt2", "gpt_neox", "gemma3_text", "phi3", "opt"]
NO_BIASES = ("llama", "gemma3_text", "phi3")
FUSED = ("gpt2", "gpt_neox", "phi3")  # query, key and value in one matrix
# What a method is called with so that it fits models this small, or fused ones.
SMALLER = {
    "compacter": ["method.reduction_factor=8"],
    "fourierft": ["method.frequencies=100"],
    "shira": ["method.rank=4"],
}
BIASES = ("bitfit", "bitfit_q_m2", "bitfit_lora")
LORA = ("adalora", "rslora", "lora_plus", "lora_fa", "dora", "pissa", "vera", "loha", "lokr",
        "hira", "fourierft", "miss", "oft", "shira", "randlora")  # fmt: skip
LABELS = torch.tensor([0, 1, 2])


def refusal(kind: str, name: str) -> str | None:
    """Why a method does not fit an architecture, if it does not."""
    if name in BIASES and kind in NO_BIASES and name != "bitfit_q_m2":
        return f"{kind} has no biases to train; method=bitfit_added"
    if name in BIASES and kind in NO_BIASES:
        return f"{kind} has no biases to train at method.roles=.*; method=bitfit_added"
    return None


def tuned(kind: str, name: str, *overrides: str) -> tuple[Backbone, TuningMethod]:
    """A small decoder with a method on it, at its start."""
    base = small(kind)
    method = tuning_method(f"method={name}", *SMALLER.get(name, []), *overrides)
    method.tune(base, seed=0)
    method.choose(base.model.base_model, lambda count, size: losses(base))
    return base, method


def losses(base: Backbone) -> Iterator[Tensor]:
    for row, label in zip(TEXT, LABELS, strict=True):
        yield functional.cross_entropy(base.model(**padded([row])).logits, label[None])


@cache
def _plain(kind: str) -> Tensor:
    return logits(small(kind).model, padded(TEXT))


CASES = [(kind, name) for kind in KINDS for name in METHODS]
FITTING = [case for case in CASES if refusal(*case) is None]


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case not in FITTING])
def test_what_does_not_fit_is_refused_in_one_line(kind: str, name: str) -> None:
    with pytest.raises(UserError, match=refusal(kind, name)) as caught:
        tuned(kind, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), FITTING)
def test_every_method_starts_trains_and_merges(kind: str, name: str) -> None:
    """From the pre-trained model; what trains gets a gradient, all else stays as it is."""
    base, method = tuned(kind, name)
    model = base.model
    if method.starts_pretrained:
        torch.testing.assert_close(logits(model, padded(TEXT)), _plain(kind), rtol=0, atol=1e-5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, method)
    trained = surgery.trainable(model)
    for key, value in model.state_dict().items():
        if key not in trained:
            assert torch.equal(value, before[key]), key
    for key, parameter in trained.items():
        assert not (len(parameter) and torch.equal(parameter, before[key])), key
    merges(model)


def train(model: nn.Module, method: TuningMethod) -> None:
    """Three steps, each with a gradient for all that trains after the first."""
    optimizer = torch.optim.AdamW(surgery.trainable(model).values(), lr=1e-2)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(model(**padded(TEXT)).logits, LABELS).backward()
        method.after_backward(model.base_model, 0.1)
        optimizer.step()
    model.eval()


def merges(model: nn.Module) -> None:
    if any(surgery.unmergeable(model)):
        return
    expected, plain = logits(model, padded(TEXT)), copy.deepcopy(model)
    surgery.merge(plain)
    torch.testing.assert_close(logits(plain, padded(TEXT)), expected, rtol=0, atol=1e-5)
    assert not list(surgery.injected(plain))


FUSED_TOO = ["lora method.roles=[qkv,attention_output,intermediate,output]",
             "ia3 method.roles=[qkv,attention_output,output]",
             *(f"{name} method.roles=null" for name in LORA)]  # fmt: skip


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("words", FUSED_TOO)
def test_a_fused_matrix_is_tuned_under_its_own_role(kind: str, words: str) -> None:
    base, method = tuned(kind, *words.split())
    train(base.model, method)
    assert (logits(base.model, padded(TEXT)) - _plain(kind)).abs().max() > 1e-4
    merges(base.model)


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_roles_within_a_fused_matrix_mean_all_of_it_once(kind: str, name: str) -> None:
    base, _ = tuned(kind, name)
    layers, (inputs, outputs) = base.sites.n_layers, widths(base.sites["qkv"][0].module)
    feed_forward = widths(base.sites["output"][0].module)[0]
    count = sum(p.numel() for p in surgery.trainable(base.model.base_model).values())
    assert count == layers * (8 * (inputs + outputs) if name == "lora" else outputs + feed_forward)


def test_counts_on_gpt2() -> None:
    """12 layers, 768 wide: a matrix of 768 x 2,304, and 3,072 units."""

    def count(name: str) -> int:
        config = composed("task=builtin_paraphrase", "model=gpt2", f"method={name}")
        base = components.outlined(RunConfig.of(config))
        return sum(p.numel() for p in surgery.trainable(base.model.base_model).values())

    qkv, square, up = 768 * 2304 + 2304, 768 * 768 + 768, 3072 * 768 + 768
    assert count("lora") == 12 * 8 * (768 + 2304) == 294_912
    assert count("ia3") == 12 * (2304 + 3072)
    assert count("bitfit_q_m2") == 12 * (2304 + 3072)
    assert count("critical_layers") % (qkv + square + up) == 0


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_a_fused_matrix_is_tuned_as_in_peft(kind: str, name: str) -> None:
    """With the modules that peft chooses by itself, and the same random numbers in them."""
    peft = pytest.importorskip("peft")
    other: Any = small(kind).model
    settings = peft.LoraConfig(r=8, lora_alpha=16) if name == "lora" else peft.IA3Config()
    theirs = peft.get_peft_model(other, settings)
    base, _ = tuned(kind, name)
    draw = torch.Generator().manual_seed(0)
    pairs = []
    parts = {"a": "lora_A.default.weight", "b": "lora_B.default.weight", "scale": "ia3_l.default"}
    for key, ours in surgery.trainable(base.model.base_model).items():
        path, _, part = key.rpartition(".")
        path = path.rpartition(f".{name}")[0]
        their = other.base_model.get_submodule(path).get_parameter(parts[part])
        with torch.no_grad():
            ours.add_(torch.randn(ours.shape, generator=draw) * 0.3)
            their.copy_(ours.view_as(their))
        pairs.append((ours, their))
    assert pairs
    assert len(pairs) == sum(p.requires_grad for p in theirs.parameters())
    found = [functional.cross_entropy(model(**padded(TEXT)).logits, LABELS)
             for model in (base.model, theirs)]  # fmt: skip
    expected = logits(theirs, padded(TEXT))
    torch.testing.assert_close(logits(base.model, padded(TEXT)), expected, rtol=0, atol=1e-5)
    assert (expected - _plain(kind)).abs().max() > 1e-3
    for loss in found:
        loss.backward()
    for ours, their in pairs:
        torch.testing.assert_close(ours.grad, their.grad.view_as(ours), rtol=1e-4, atol=1e-5)


def test_a_run_says_that_it_tunes_all_of_a_fused_matrix(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="finegrid"):
        tuned("gpt2", "lora")
    (told,) = [record.getMessage() for record in caplog.records if "one matrix" in record.message]
    assert told.startswith("gpt2 keeps query, key and value in one matrix: roles query, value mean")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["prefix", "prompt", "prompt_deep", "mam"])
def test_what_a_method_adds_does_not_depend_on_the_padding(kind: str, name: str) -> None:
    base, _ = tuned(kind, name)
    with torch.no_grad():
        for parameter in surgery.trainable(base.model.base_model).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    one = torch.cat([logits(base.model, padded([row])) for row in TEXT])
    window = kind == "gemma3_text" and name.startswith("prompt")  # which pads in between use up
    left = [] if window else [padded(TEXT, side="left", more=3, pad=7)]
    for batch in (padded(TEXT), *left):
        torch.testing.assert_close(logits(base.model, batch), one, rtol=0, atol=2e-5)
    assert (one - _plain(kind)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["prefix", "prompt", "prompt_deep"])
def test_generation_with_a_cache_is_generation_without(kind: str, name: str) -> None:
    base = small(kind, "AutoModelForCausalLM")
    tuning_method(f"method={name}").tune(base, seed=0)
    with torch.no_grad():
        for parameter in surgery.trainable(base.model.base_model).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    found = [
        base.model.generate(**padded(TEXT, side="left"), max_new_tokens=5, do_sample=False,
                            pad_token_id=0, use_cache=cached)
        for cached in (True, False)
    ]  # fmt: skip
    assert torch.equal(*found)


def test_a_prefix_on_shared_heads_is_attention_over_more_keys() -> None:
    """Recomputed: two query heads a key head, rotated queries and keys, an unrotated prefix."""
    base, _ = tuned("llama", "prefix", "method.length=4")
    sites = base.sites
    attention = sites["attention"][0].module
    prefix, calls, called = attention.get_submodule("prefix"), {}, []
    assert prefix.key.shape == (4, 16)
    for role in ("query", "key", "value", "attention_output"):
        sites[role][0].module.register_forward_hook(
            lambda _, inputs, out, role=role: calls.update({role: (inputs[0], out)})
        )
    attention.register_forward_pre_hook(lambda _, i, named: called.append(named), with_kwargs=True)
    batch = padded([TEXT[0]])
    logits(base.model, batch)

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], -1, 8).transpose(-3, -2)  # .. heads T d

    q, k, v = (split(calls[role][1]) for role in ("query", "key", "value"))
    q, k = apply_rotary_pos_emb(q, k, *called[0]["position_embeddings"])
    k = torch.cat([split(prefix.key)[None], k], dim=2).repeat_interleave(2, dim=1)
    v = torch.cat([split(prefix.value)[None], v], dim=2).repeat_interleave(2, dim=1)
    scores = q @ k.transpose(2, 3) * 8**-0.5
    hidden = torch.ones(8, 8, dtype=torch.bool).triu(1)
    scores[..., 4:].masked_fill_(hidden, -torch.inf)  # nothing hides the prefix
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(calls["attention_output"][0], expected, rtol=1e-4, atol=1e-5)


def test_counts_on_shared_heads() -> None:
    """Key and value are half as wide as the query: 16 of 32."""

    def count(name: str, *overrides: str) -> int:
        base, _ = tuned("llama", name, *overrides)
        return sum(p.numel() for p in surgery.trainable(base.model.base_model).values())

    layers, h, kv, ff = 2, 32, 16, 64
    assert count("lora", "method.rank=4") == layers * 4 * (2 * h + h + kv)
    assert count("ia3") == layers * (2 * kv + ff)
    assert count("prefix") == layers * 10 * 2 * kv
    assert count("layernorm") == (2 * layers + 1) * h
    assert count("bitfit_added") == layers * (3 * h + 2 * kv + 2 * ff)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("name", ["full", "lora"])
def test_kernels_give_the_same_loss_and_gradients(kind: str, name: str) -> None:
    found = []
    for kernels in (False, True):
        base = small(kind)
        drop_nothing(base.model)
        if kernels:
            optimize(base.model)
        tuning_method(f"method={name}").tune(base, seed=0)
        with torch.no_grad():
            for parameter in surgery.trainable(base.model.base_model).values():
                parameter.add_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
        base.model.train()
        loss = functional.cross_entropy(base.model(**padded(TEXT)).logits, LABELS)
        loss.backward()
        trained = surgery.trainable(base.model).items()
        found.append({"loss": loss.detach()} | {key: p.grad for key, p in trained})
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-5)


def drop_nothing(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def test_decoders_share_no_pass() -> None:
    base = small("llama")
    with pytest.raises(UnfusableError, match="llama cannot be shared among runs"):
        FusedBackbone(base, [base.sharing(seed=0), base.sharing(seed=1)])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("name", ["full", "parallel", "prefix", "supermask"])
@pytest.mark.parametrize("kernels", [False, True])
def test_gradient_checkpointing_changes_no_gradient(kind: str, name: str, kernels: bool) -> None:
    """With dropout and masks drawn, from PyTorch's generator or from the kernels' stream."""
    found = []
    for checkpointing in (False, True):
        base = small(kind)
        if kernels:
            optimize(base.model)
        if checkpointing:
            gradient_checkpointing.enable(base.model)
        tuning_method(f"method={name}").tune(base, seed=0)
        if kernels:
            draw_from(base.model, np.random.SFC64(0))
        calls: list[int] = []
        inner = base.sites["intermediate"][0].module
        inner.register_forward_hook(lambda _, __, ___, calls=calls: calls.append(1))
        base.model.train()
        torch.manual_seed(3)
        for _ in range(2):  # the second step draws on where the first ended
            functional.cross_entropy(base.model(**padded(TEXT)).logits, LABELS).backward()
        assert len(calls) == (4 if checkpointing else 2)
        found.append({key: p.grad for key, p in surgery.trainable(base.model).items()})
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-5, atol=1e-6)
