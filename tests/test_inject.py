"""Methods that inject: each is its formula, on every architecture, whatever shares its batch."""

import copy

import pytest
import torch
from conftest import tuning_method
from test_methods import fresh
from test_models import PUBLISHED, SMALL, build, build_small
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from finegrid.errors import UserError
from finegrid.methods.modules.adapter import width_of
from finegrid.methods.prompt import _some_words
from finegrid.models import surgery
from finegrid.models.anatomy import ANATOMY, ENCODERS
from finegrid.models.sites import Sites

B, T = 3, 7
METHODS = ["lora", "ia3", "parallel", "compacter", "prefix", "prompt", "prompt_deep"]


def tuned(model: PreTrainedModel, *overrides: str) -> Sites:
    """Apply a method to a model and move what it injects away from its start."""
    surgery.freeze(model.base_model)
    sites = Sites.of(model)
    torch.manual_seed(1)
    tuning_method(*overrides).apply(model.base_model, sites)
    with torch.no_grad():
        for parameter in surgery.trainable(model.base_model).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return sites


def tiny(*overrides: str) -> tuple[PreTrainedModel, Sites]:
    """The builtin model with a method applied."""
    model = fresh().model.eval()
    return model, tuned(model, *overrides)


def small(model_type: str, attention: str = "eager") -> PreTrainedModel:
    """A small random model of an architecture."""
    model = build_small(model_type)
    if model_type != "deberta-v2":
        model.set_attn_implementation(attention)
    return model


def logits(model: nn.Module, *, rows: slice = slice(None), tokens: int = T) -> Tensor:
    """Logits of some rows of a batch, of which row 0 has five tokens and two of padding."""
    ids = torch.arange(1, B * T + 1).view(B, T)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    ids = ids * mask
    with torch.no_grad():
        return model(input_ids=ids[rows, :tokens], attention_mask=mask[rows, :tokens]).logits


def seen(site: nn.Module) -> list[tuple[tuple, Tensor]]:
    """The (inputs, output) of the calls of a site in the passes to come, before any injection."""
    calls: list[tuple[tuple, Tensor]] = []
    site.register_forward_hook(lambda _, inputs, out: calls.append((inputs, out)), prepend=True)
    return calls


# --- formulas ------------------------------------------------------------------------------------


def test_lora_is_its_formula() -> None:
    _, sites = tiny("method=lora", "method.alpha=4")
    for role in ("query", "value"):
        site = sites[role][1].module
        child, x = site.get_submodule("lora"), torch.randn(2, 5, sites.hidden_size)
        expected = functional.linear(x, site.weight + 4 / 8 * child.b @ child.a, site.bias)
        torch.testing.assert_close(site(x), expected)
    assert "lora" not in sites["key"][0].module._modules


def test_lora_drops_what_it_reads_and_nothing_else() -> None:
    _, sites = tiny("method=lora", "method.dropout=0.5")
    site = sites["query"][0].module
    child, x = site.get_submodule("lora"), torch.randn(2, 5, sites.hidden_size)
    child.dropout.register_forward_hook(lambda _, inputs, out: inputs[0] * 3)
    torch.testing.assert_close(
        site(x), functional.linear(x, site.weight + 3 * 2 * child.b @ child.a, site.bias)
    )


def test_lora_starts_as_a_fresh_linear() -> None:
    base = fresh()
    tuning_method("method=lora", "method.rank=64").tune(base, seed=0)
    child = base.sites["query"][0].module.get_submodule("lora")
    bound = base.sites.hidden_size**-0.5
    assert 0.9 * bound < child.a.abs().max() <= bound
    assert not child.b.any()


BOTTLENECK = {"down.weight": 0.02, "down.bias": 0, "up.weight": 0, "up.bias": 0}
STARTS: dict[str, dict[str, float]] = {  # method -> parameter -> standard deviation at the start
    "method=houlsby": BOTTLENECK,
    "method=parallel": BOTTLENECK,
    "method=pfeiffer method.gated=true": {
        **BOTTLENECK, "gate.linear.weight": 0.02, "gate.linear.bias": 0,
    },
    "method=lora": {"lora.a": (3 * 128) ** -0.5, "lora.b": 0},
    "method=prefix": {"prefix.key": 0.02, "prefix.value": 0.02},
    "method=prefix method.reparametrization=16": {"prefix.embedding": 1},
    "method=prompt_deep": {"1.prompt.vectors": 0.02, "2.prompt.vectors": 0.02},
    "method=compacter method.reduction_factor=4": {
        "compacter.matrices": 0.2, "down.s": (2 / 33) ** 0.5, "down.t": (2 / 9) ** 0.5,
        "up.s": (2 / 9) ** 0.5, "up.t": 0, "bias": 0,
    },
    "method=diff_pruning_structured": {"difference": 0, "gates": 0, "group": 0},
    "method=sparse_random": {"values": 0},
}  # fmt: skip


@pytest.mark.parametrize("overrides", STARTS)
def test_what_is_injected_starts_as_its_method_says(overrides: str) -> None:
    base = fresh()
    tuning_method(*overrides.split()).tune(base, seed=0)
    named = surgery.trainable(base.model.base_model)
    for suffix, spread in STARTS[overrides].items():
        drawn = [p.detach().flatten() for name, p in named.items() if name.endswith(suffix)]
        values = torch.cat(drawn)
        assert float(values.std()) == pytest.approx(spread, rel=0.3 if len(values) < 99 else 0.08)
        assert abs(float(values.mean())) <= 4 * spread / len(values) ** 0.5


@pytest.mark.parametrize(("factor", "width"), [(3, 42), (128, 1), (1.5, 85), (1, 128)])
def test_a_bottlenecks_width_is_rounded_down(factor: float, width: int) -> None:
    assert width_of(128, factor) == width


def test_a_gated_update_scales_each_token() -> None:
    _, sites = tiny("method=lora", "method.gated=true")
    site = sites["query"][0].module
    child, x = site.get_submodule("lora"), torch.randn(2, 5, sites.hidden_size)
    gate = torch.sigmoid(x @ child.gate.linear.weight.T + child.gate.linear.bias)
    plain = functional.linear(x, site.weight, site.bias)
    torch.testing.assert_close(site(x), plain + gate * 2 * (x @ child.a.T @ child.b.T))
    assert not hasattr(child, "fold")


def test_a_gated_adapter_scales_each_token() -> None:
    _, sites = tiny("method=pfeiffer", "method.gated=true")
    child = sites["output_norm"][0].module.get_submodule("pfeiffer")
    x = torch.randn(2, 5, sites.hidden_size)
    gate = torch.sigmoid(x @ child.gate.linear.weight.T + child.gate.linear.bias)
    torch.testing.assert_close(child(x), gate * child.up(torch.relu(child.down(x))))


def test_ia3_is_its_formula() -> None:
    _, sites = tiny("method=ia3")
    for role, before in (("key", False), ("value", False), ("output", True)):
        site = sites[role][0].module
        scale, x = site.get_submodule("ia3").scale, torch.randn(2, 5, site.in_features)
        inner = x * scale if before else x
        plain = functional.linear(inner, site.weight, site.bias)
        torch.testing.assert_close(site(x), plain if before else plain * scale)


@pytest.mark.parametrize("model_type", sorted(ANATOMY))
def test_a_parallel_adapter_reads_what_feed_forward_reads(model_type: str) -> None:
    model = small(model_type)
    first = Sites.of(model)["output_block"][0].module
    plain = seen(first)  # without the adapter
    sites = tuned(model, "method=parallel")
    read = seen(sites["intermediate"][0].module)
    corrected: list[Tensor] = []
    first.register_forward_hook(lambda _, __, out: corrected.append(out))
    logits(model)
    child = first.get_submodule("parallel")
    x, h = read[0][0][0], plain[0][1]
    expected = h + 4.0 * child.up(torch.relu(child.down(x)))
    torch.testing.assert_close(corrected[0], expected)
    assert child.tap.held is None


def test_a_compacter_is_a_sum_of_kronecker_products() -> None:
    model, sites = tiny("method=compacter")
    rule = model.base_model.get_submodule("compacter").matrices
    for role in ("attention_block", "output_block"):
        site = sites[role][2].module
        child, h = site.get_submodule("compacter"), torch.randn(2, 5, sites.hidden_size)

        def dense(phm: nn.Module) -> Tensor:
            pairs = zip(rule, phm.s, phm.t, strict=True)
            return sum(torch.kron(a, torch.outer(s, t)) for a, s, t in pairs)

        inner = functional.gelu(h @ dense(child.down) + child.down.bias)
        expected = h + inner @ dense(child.up) + child.up.bias
        torch.testing.assert_close(site(h), expected, rtol=1e-4, atol=1e-4)


def test_a_compacters_rule_is_listed_once_and_learns() -> None:
    model, _ = tiny("method=compacter")
    assert sum("matrices" in name for name in model.state_dict()) == 1
    logits_with_grad = model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits
    logits_with_grad.sum().backward()
    assert model.base_model.get_submodule("compacter").matrices.grad.any()


def attended(model: PreTrainedModel, sites: Sites, layer: int, gated: bool) -> None:
    """Compare a layer's attention, recomputed from its projections, with what it was."""
    site = sites["attention"][layer].module
    child, called = site.get_submodule("prefix"), []
    site.register_forward_pre_hook(lambda _, i, named: called.append((i, named)), with_kwargs=True)
    names = ["qkv"] if "qkv" in sites else ["query", "key", "value"]
    projected = [seen(sites[name][layer].module) for name in names]
    joined = seen(sites["attention_output"][layer].module)
    logits(model)
    inputs, named = called[0]
    mask = named.get("attention_mask", inputs[1] if len(inputs) > 1 else None)
    mask = torch.zeros(B, 1, T, T) if mask is None else mask

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], 4, -1).transpose(-3, -2)  # .. heads T d

    q, k, v = (split(x) for x in torch.cat([c[0][1] for c in projected], dim=-1).chunk(3, dim=-1))
    if "qkv" in sites:
        q, k = apply_rotary_pos_emb(q, k, *named["position_embeddings"])
    gate = child.gate(q[:, :, 0].flatten(1))[..., None, None] if gated else torch.ones(B, 1, 1, 1)
    k = torch.cat([gate * split(child.key), k], dim=2)
    v = torch.cat([gate * split(child.value), v], dim=2)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    scores[..., 4:] += mask  # hides tokens; nothing hides the prefix
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(joined[0][0][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(set(ENCODERS) - {"deberta-v2"}))
@pytest.mark.parametrize("gated", [False, True])
def test_prefix_attention_is_attention_over_more_keys(model_type: str, gated: bool) -> None:
    model = small(model_type)
    sites = tuned(model, "method=prefix", f"method.gated={str(gated).lower()}", "method.length=4")
    attended(model, sites, 0, gated)


def test_local_attention_sees_the_whole_prefix() -> None:
    model = build(PUBLISHED["modernbert"] | SMALL | {"local_attention": 4}).eval()
    model.set_attn_implementation("eager")
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    sites = tuned(model, "method=prefix", "method.length=4")
    attended(model, sites, 1, False)


@pytest.mark.parametrize(("place", "at"), [("front", 0), ("after_cls", 1)])
def test_a_prompt_stands_in_its_place(place: str, at: int) -> None:
    model, sites = tiny("method=prompt_deep", f"method.place={place}", "method.length=3")
    (words,) = sites["word_embeddings"]
    embedded: list[Tensor] = []
    words.module.register_forward_hook(lambda _, __, out: embedded.append(out))
    entered = [seen(site.module) for site in sites["layer"]]
    hidden: list[tuple] = []
    sites["attention"][1].module.register_forward_pre_hook(lambda _, i: hidden.append(i))
    ids = torch.arange(5, 10)[None]
    with torch.no_grad():
        output = model.base_model(ids, torch.ones_like(ids))
    text = words.module.weight[ids[0]]
    vectors = words.module.get_submodule("prompt").vectors
    expected = torch.cat([text[:at], vectors, text[at:]])
    assert torch.equal(embedded[0][0], expected)
    assert all(calls[0][0][0].shape[1] == 8 for calls in entered)
    deep = sites["layer"][1].module.get_submodule("prompt").vectors
    assert torch.equal(hidden[0][0][0, at : at + 3], deep)
    assert output.last_hidden_state.shape[1] == (8 if place == "front" else 5)
    first = entered[-1][0][1][:, 0]
    assert torch.equal(output.last_hidden_state[:, 0], first)


def test_words_to_start_from_are_none_of_the_vocabularys_ends() -> None:
    table = nn.Embedding(100, 1)
    table.weight.data = torch.arange(100.0)[:, None]
    drawn = _some_words(table, 2000)
    assert (int(drawn.min()), int(drawn.max())) == (5, 94)


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_prompt_is_never_taken_for_padding(model_type: str) -> None:
    """RoBERTa tells positions by which ids are padding."""
    model = small(model_type)
    tuned(model, "method=prompt")
    assert model.base_model.get_submodule("prompt").filler != model.config.pad_token_id


def test_a_prompt_starts_as_words() -> None:
    base = fresh()
    method = tuning_method("method=prompt")
    method.tune(base, seed=0)
    (words,) = base.sites["word_embeddings"]
    vectors = words.module.get_submodule("prompt").vectors
    equal = (vectors[:, None] == words.module.weight).all(dim=-1)  # vector, word
    assert equal.any(dim=1).all()
    assert method.positions == 10


# --- every architecture, with and without padding ------------------------------------------------

PROMPTS = ["method=prefix", "method=prompt", "method=prompt_deep"]


def fits(model_type: str, override: str) -> bool:
    """Whether an architecture takes a method at all."""
    refused = {("deberta-v2", "method=prefix"), ("albert", "method=prompt_deep")}
    return (model_type, override.split()[0]) not in refused


CASES = [
    (model_type, override)
    for model_type in sorted(ANATOMY)
    for override in [*PROMPTS, "method=prefix method.gated=true"]
    if fits(model_type, override)
]


@pytest.mark.parametrize(("model_type", "override"), CASES)
def test_eager_and_sdpa_agree_with_and_without_padding(model_type: str, override: str) -> None:
    both = []
    both_known = model_type not in ("deberta-v2", "gemma2")
    for attention in ("eager", "sdpa") if both_known else ("eager",):
        model = small(model_type, attention)
        before = logits(model)
        tuned(model, *override.split())
        after = logits(model)
        assert (after - before).abs().max() > 1e-4
        alone = logits(model, rows=slice(0, 1), tokens=5)
        torch.testing.assert_close(after[:1], alone, rtol=1e-4, atol=1e-5)
        full = logits(model, rows=slice(1, 3))  # no padding, so no mask
        torch.testing.assert_close(after[1:], full, rtol=1e-4, atol=1e-5)
        both.append(after)
    torch.testing.assert_close(both[0], both[-1], rtol=1e-4, atol=1e-5)


def test_a_head_that_averages_reads_the_text_alone() -> None:
    model = small("modernbert")
    assert model.config.classifier_pooling == "mean"
    tuned(model, "method=prompt")
    assert logits(model).shape == (B, 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", ["albert", "modernbert"])
def test_a_copy_is_independent(method: str, model_type: str) -> None:
    if model_type == "albert" and method == "prompt_deep":
        pytest.skip("refused there")
    model, extra = small(model_type), {"compacter": "method.reduction_factor=8"}
    tuned(model, f"method={method}", *([extra[method]] if method in extra else []))
    logits(model)
    copied = copy.deepcopy(model)
    before, own = logits(copied), logits(model)
    assert torch.equal(before, own)
    with torch.no_grad():
        for parameter in surgery.trainable(model).values():
            parameter.add_(0.1)
    assert torch.equal(logits(copied), before)
    with torch.no_grad():
        for parameter in surgery.trainable(copied).values():
            parameter.add_(0.1)
    torch.testing.assert_close(logits(copied), logits(model))
    assert (logits(copied) - before).abs().max() > 1e-4


# --- folding and deltas ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lora"],
        ["method=lora", "method.roles=[query,key,value,attention_output,intermediate,output]"],
        ["method=ia3"],
        ["method=ia3", "method.roles=[query,intermediate,output]"],
    ],
    ids=" ".join,
)
def test_folding_leaves_the_logits(overrides: list[str]) -> None:
    plain = fresh().model.eval()
    model, _ = tiny(*overrides)
    expected = logits(model)
    assert (expected - logits(plain)).abs().max() > 1e-3
    for _, site, name in list(surgery.injected(model)):
        site.get_submodule(name).fold(site)
    plain.load_state_dict({key: model.state_dict()[key] for key in plain.state_dict()})
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gated", ["false", "true"])
def test_a_reparametrized_prefix_loads_its_delta_as_a_plain_one(gated: str) -> None:
    overrides = ["method=prefix", "method.reparametrization=16", f"method.gated={gated}"]
    trained, other = small("bert"), small("bert")
    sites, others = tuned(trained, *overrides), tuned(other, *overrides)
    with torch.no_grad():
        for parameter in surgery.trainable(other.base_model).values():
            parameter.add_(0.3)
    expected = logits(trained)
    for site, twin in zip(sites["attention"], others["attention"], strict=True):
        state = site.module.get_submodule("prefix").to_delta()
        assert {"key", "value"} <= state.keys()
        for _ in range(2):  # again changes nothing
            twin.module.get_submodule("prefix").from_delta(state)
        with pytest.raises(UserError, match=r"key has shape \(1, 32\), not \(10, 32\)"):
            twin.module.get_submodule("prefix").from_delta(state | {"key": state["key"][:1]})
    assert torch.equal(logits(other), expected)
    plain = small("bert")
    tuned(plain, "method=prefix", f"method.gated={gated}")
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert surgery.trainable(plain).keys() == surgery.trainable(other).keys()
    child = others["attention"][0].module.get_submodule("prefix")
    child.from_delta({name: value.bfloat16() for name, value in child.to_delta().items()})
    assert child.key.dtype == torch.float32
    assert torch.equal(child.key, child.key.bfloat16().float())


def test_only_a_prefix_with_a_network_has_a_delta_of_its_shape() -> None:
    _, sites = tiny("method=prefix")
    child = sites["attention"][0].module.get_submodule("prefix")
    assert not hasattr(child, "to_delta")
    assert not hasattr(child, "from_delta")


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("method=lora method.rank=0", r"method\.rank=0 must lie in \[1, 32\].*query"),
        ("method=lora method.rank=33", r"method\.rank=33 must lie in \[1, 32\]"),
        ("method=lora method.roles=[intermediate] method.rank=33", r"must lie in \[1, 32\]"),
        ("method=lora method.dropout=1", r"method\.dropout=1 must lie in \[0, 1\)"),
        ("method=lora method.roles=[querry]", r"no role 'querry'"),
        ("method=ia3 method.roles=[qkv]", r"no role 'qkv'"),
        ("method=parallel method.activation=relo", r"did you mean 'relu'"),
        (
            "method=parallel method.reduction_factor=33",
            r"reduction_factor=33 must lie in \(0, 32\]",
        ),
        ("method=compacter method.phm_dim=3", r"method\.phm_dim=3 must divide .* 32 "),
        ("method=compacter method.phm_dim=0", r"method\.phm_dim=0 must divide"),
        ("method=compacter method.reduction_factor=16", r"width 2 "),
        ("method=compacter method.reduction_factor=0", r"must lie in \(0, 32\]"),
        (
            "method=compacter method.reduction_factor=8 method.activation=gelo",
            r"did you mean 'gelu'",
        ),
        ("method=prefix method.length=0", r"method\.length=0 must lie in \[1"),
        ("method=prefix method.reparametrization=0", r"method\.reparametrization=0 must be null"),
        ("method=prompt method.length=0", r"method\.length=0 must lie in \[1, 63\]"),
        ("method=prompt method.length=64", r"method\.length=64 must lie in \[1, 63\]"),
        ("method=prompt method.place=after", r"did you mean 'after_cls'"),
    ],
)
def test_bad_input_is_one_clear_line(overrides: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        tuned(small("bert"), *overrides.split())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model_type", "overrides", "message"),
    [
        ("deberta-v2", "method=prefix", "deberta-v2 has no role 'attention'"),
        ("albert", "method=prompt_deep", "method.deep=true needs layers .* albert has one"),
        ("modernbert", "method=prompt method.place=front", "method.place=front does not fit"),
        ("roberta", "method=prompt method.length=63", r"must lie in \[1, 62\]"),
    ],
)
def test_what_does_not_fit_is_refused(model_type: str, overrides: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tuned(small(model_type), *overrides.split())


def test_another_attention_is_refused() -> None:
    model = small("bert")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match=r"'flex_attention' takes no prefix.*eager, sdpa"):
        tuned(model, "method=prefix")


@pytest.mark.parametrize(("model_type", "limit"), [("bert", 64), ("roberta", 63)])
def test_a_text_that_leaves_no_room_for_the_prompt(model_type: str, limit: int) -> None:
    model = small(model_type)
    tuned(model, "method=prompt")
    ids = torch.ones(1, limit - 9, dtype=torch.long)
    model(input_ids=ids[:, 1:])
    with pytest.raises(UserError, match=rf"=10 and {limit - 9} tokens .* than the {limit} posit"):
        model(input_ids=ids)
