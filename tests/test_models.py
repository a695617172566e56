"""Every conf/model/*.yaml holds what it says, and every anatomy names the modules that act so."""

import copy
import pathlib
from collections import defaultdict
from functools import cache

import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finegrid.models.anatomy import ANATOMY, DECODERS, ENCODERS, widths
from finegrid.models.sites import SiteError, Sites

CONF = pathlib.Path(__file__).parents[1] / "conf"
FILES = sorted((CONF / "model").glob("*.yaml"))
MODELS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
PUBLISHED = {(arch := model["architecture"])["model_type"]: arch for model in MODELS.values()}

LINEAR = {
    "query", "key", "value", "qkv", "attention_output", "gate", "intermediate", "output"
}  # fmt: skip
NORMS = {"attention_norm", "output_norm"}
SINGLE = {"embeddings", "word_embeddings", "pooler", "stack"}
SUBLAYERS = [  # a block, the norm it feeds, and a module that reads the residual it is added to
    ("attention_block", "attention_norm", "value"),
    ("output_block", "output_norm", "intermediate"),
]
POST_LN = sorted(set(ENCODERS) - {"modernbert"})
PRE_LN = ["modernbert", *DECODERS]

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dim": 64,  # DistilBERT's word for it
    "embedding_size": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_dropout_prob": 0.3,
    "dropout": 0.3,  # DistilBERT's
    "attention_dropout": 0.3,  # ModernBERT's, behind its attention too
    "initializer_range": 0.2,  # the usual 0.02 leaves effects too small to see in two layers
}
# Decoders unlike one another in what is a trap: fewer key heads than query heads, heads whose
# widths do not add up to the hidden size, a window; and the words that only they use.
GROUPED = {"num_key_value_heads": 2}
WIDER = {"num_key_value_heads": 1, "head_dim": 16}
GEMMA = WIDER | {"sliding_window": 5, "query_pre_attn_scalar": 16}
DIFFERENT: dict[str, dict[str, object]] = {
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 5, "head_dim": 8},
    "qwen2": GROUPED,
    "qwen3": WIDER,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": GROUPED | {"resid_pdrop": 0.3},
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3, "n_inner": 64},
    "gpt_neox": {"hidden_dropout": 0.3},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
B, T = 3, 7


def build(architecture: dict[str, object]) -> PreTrainedModel:
    config = AutoConfig.for_model(**architecture)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture(scope="module", params=sorted(MODELS))
def published(request: pytest.FixtureRequest) -> tuple[dict, PreTrainedModel]:
    with torch.device("meta"):
        return MODELS[request.param], build(MODELS[request.param]["architecture"])


@pytest.fixture(params=sorted(ANATOMY))
def small(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build_small(request.param)


def build_small(model_type: str) -> PreTrainedModel:
    """A small random model of an architecture, alike at every call."""
    return copy.deepcopy(_small(model_type))


@cache
def _small(model_type: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return build(small_architecture(model_type)).eval()


def small_architecture(model_type: str) -> dict[str, object]:
    """What differs from the defaults of a small random model."""
    published = PUBLISHED.get(model_type, {"model_type": model_type})
    return published | SMALL | DIFFERENT.get(model_type, {})


def logits(model: PreTrainedModel) -> Tensor:
    ids = torch.arange(1, B * T + 1).view(B, T)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def record(sites: Sites, *roles: str) -> dict[tuple[str, str], list[tuple[Tensor, Tensor]]]:
    """(role, site name) -> the (input, output) of each call, filled by the next forward passes."""
    calls: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for role in roles:
        for site in sites[role]:
            site.module.register_forward_hook(
                lambda _, args, out, key=(role, site.name): calls[key].append((args[0], out))
            )
    return calls


# --- what the YAML files say ---------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_yaml_names_itself_and_describes_itself(path):
    assert MODELS[path.stem]["name"] == path.stem
    assert path.read_text().startswith(f"# {path.stem}: ")
    assert set(MODELS[path.stem]) >= {"path", "architecture"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_yaml_architecture_repeats_no_default(name):
    architecture = dict(MODELS[name]["architecture"])
    defaults = AutoConfig.for_model(architecture.pop("model_type"))
    same = [key for key, value in architecture.items() if getattr(defaults, key, None) == value]
    assert not same


def test_parameters_of_the_base_model(published):
    model, network = published
    assert sum(p.numel() for p in network.base_model.parameters()) == model["parameters"]


# --- where the sites are -------------------------------------------------------------------------


def test_every_role_resolves_in_every_layer(published):
    _, network = published
    config, sites = network.config, Sites.of(network)
    depth = config.num_hidden_layers
    if config.model_type == "albert":
        depth = config.num_hidden_groups * config.inner_group_num
    assert sites.roles == (*ANATOMY[config.model_type], "layernorm")
    assert sites.n_layers == depth
    assert sites.hidden_size == config.hidden_size
    for role in ANATOMY[config.model_type]:
        layers = [None] if role in SINGLE else list(range(depth))
        assert [site.layer for site in sites[role]] == layers
        assert len({id(site.module) for site in sites[role]}) == len(layers)


def test_sites_are_named_by_the_whole_model_and_lie_outside_the_head(published):
    _, network = published
    sites = Sites.of(network)
    for site in (site for role in sites.roles for site in sites[role]):
        assert site.name.startswith(f"{network.base_model_prefix}.")
        assert network.get_submodule(site.name) is site.module


def test_pooler_is_a_role_where_the_base_model_has_one(published):
    _, network = published
    assert ("pooler" in Sites.of(network)) == bool(getattr(network.base_model, "pooler", None))


def test_sites_are_of_the_kind_their_role_promises(published):
    _, network = published
    sites = Sites.of(network)
    width = sites.hidden_size
    for role in LINEAR & set(sites.roles):
        assert all(isinstance(site.module, nn.Linear | Conv1D) for site in sites[role])
    for role in NORMS & set(sites.roles):
        assert all(site.module.normalized_shape == (width,) for site in sites[role])
    assert all(widths(site.module)[0] == width for site in sites["intermediate"])
    for role in ("attention_output", "output"):
        assert all(widths(site.module)[1] == width for site in sites[role])
    for role, expected in (("query", sites.query_width), ("key", sites.key_width)):
        found = {widths(site.module)[1] for site in sites[role]} if role in sites else {expected}
        assert found == {expected}
    if "qkv" in sites:
        assert widths(sites["qkv"][0].module)[1] == sites.query_width + 2 * sites.key_width


def test_layernorm_is_every_one_below_the_base_model_with_its_layer(small):
    sites = Sites.of(small)
    kinds = {n: type(m).__name__ for n, m in small.base_model.named_modules()}
    norms = {name for name, kind in kinds.items() if kind.endswith("Norm")}
    assert {site.name for site in sites["layernorm"]} == {
        f"{small.base_model_prefix}.{name}" for name in norms
    }
    for site in sites["layernorm"]:
        inside = [layer.layer for layer in sites["layer"] if site.name.startswith(layer.name)]
        assert [site.layer] == (inside or [None])


def test_no_matrix_plays_two_roles(published):
    _, network = published
    sites = Sites.of(network)
    names = [site.name for role in LINEAR & set(sites.roles) for site in sites[role]]
    assert len(names) == len(set(names))
    for role in {"query", "key", "value"} & set(sites.roles):
        assert all(site.name.rsplit(".", 1)[1].startswith(role[0]) for site in sites[role])


# --- that the sites act as their roles say -------------------------------------------------------


@pytest.mark.parametrize("role", ["attention_block", "output_block"])
def test_a_tensor_added_at_a_block_reaches_the_logits(small, role):
    before = logits(small)
    for site in Sites.of(small)[role]:
        shapes = []

        def add(_module, _args, out, shapes=shapes):
            shapes.append(tuple(out.shape))
            return out + torch.linspace(-1, 1, out.numel()).view_as(out).sin()

        handle = site.module.register_forward_hook(add)
        after = logits(small)
        handle.remove()
        rows = (B * T,) if (small.config.model_type, role) == ("opt", "output_block") else (B, T)
        assert set(shapes) == {(*rows, SMALL["hidden_size"])}
        assert (after - before).abs().max() > 1e-3, site.name
    assert torch.equal(logits(small), before)


@pytest.mark.parametrize("model_type", POST_LN)
@pytest.mark.parametrize(("block", "norm", "reader"), SUBLAYERS)
def test_post_ln_norm_reads_residual_plus_block(model_type, block, norm, reader):
    model = build_small(model_type).train()  # dropout on: before or after it is a difference
    sites = Sites.of(model)
    delta = torch.randn(B, T, SMALL["hidden_size"])
    for site in sites[block]:
        site.module.register_forward_hook(lambda _module, _args, out: out + delta)
    calls = record(sites, block, norm, reader)
    logits(model)
    for at_block, at_norm, at_reader in zip(
        *([calls[role, site.name] for site in sites[role]] for role in (block, norm, reader)),
        strict=True,
    ):
        assert at_norm
        for (_, added), (total, _), (residual, _) in zip(at_block, at_norm, at_reader, strict=True):
            torch.testing.assert_close(total, residual + added)


@pytest.mark.parametrize("model_type", PRE_LN)
def test_pre_ln_layer_adds_both_blocks_to_the_residual(model_type):
    model = build_small(model_type)
    if model_type != "opt":  # whose dropout is no module
        model.train()
    sites = Sites.of(model)
    calls = record(sites, "layer", "attention_block", "output_block")
    logits(model)
    for layer in range(sites.n_layers):
        (whole,), (attention,), (output,) = (
            calls[role, sites[role][layer].name]
            for role in ("layer", "attention_block", "output_block")
        )
        added = output[1].view_as(attention[1])  # in OPT's feed-forward all tokens are one row
        torch.testing.assert_close(whole[1], whole[0] + attention[1] + added)


def test_albert_calls_its_one_layer_as_often_as_it_is_deep():
    model = build_small("albert")
    sites = Sites.of(model)
    calls = record(sites, "output_block")
    logits(model)
    assert [len(made) for made in calls.values()] == [SMALL["num_hidden_layers"]]
    assert sites.n_layers == 1


def test_deberta_v3_projects_its_relative_positions_with_query_and_key():
    model = build_small("deberta-v2")
    sites = Sites.of(model)
    calls = record(sites, "query", "key", "value")
    logits(model)
    rows = {role: [x.shape[0] for x, _ in calls[role, sites[role][0].name]] for role, _ in calls}
    assert rows == {"query": [B, 1], "key": [B, 1], "value": [B]}


def test_layers_are_counted_across_groups():
    model = build(PUBLISHED["albert"] | SMALL | {"num_hidden_groups": 2, "inner_group_num": 2})
    assert [site.layer for site in Sites.of(model)["query"]] == [0, 1, 2, 3]


def test_layers_come_in_numeric_order():
    model = build(PUBLISHED["bert"] | SMALL | {"num_hidden_layers": 11})
    names = [site.name for site in Sites.of(model)["layer"]]
    assert names == [f"bert.encoder.layer.{i}" for i in range(11)]


# --- what goes wrong, and how it is said ---------------------------------------------------------


def test_unknown_architecture_is_named_with_the_known_ones():
    model = build({"model_type": "xlnet", "n_layer": 1, "d_model": 8, "n_head": 2, "vocab_size": 4})
    with pytest.raises(SiteError, match=r"'xlnet'.*bert, .*modernbert.*`sites:`"):
        Sites.of(model)


def test_unknown_role_is_named_with_the_roles_there_are():
    with pytest.raises(LookupError, match=r"bert has no role 'querry'.*query, key, value"):
        Sites.of(build_small("bert"))["querry"]


def test_fused_projection_is_offered_where_query_is_missing():
    sites = Sites.of(build_small("modernbert"))
    assert "query" not in sites
    with pytest.raises(SiteError, match=r"modernbert has no role 'query'.*qkv"):
        sites["query"]


def test_own_anatomy_and_a_pattern_that_matches_nothing():
    anatomy = {"layer": "encoder.layer.*", "output": "encoder.block.*.out"}
    sites = Sites(build_small("bert"), anatomy, "bert")
    assert sites.roles == ("layer", "layernorm")
    assert "output" not in sites
    with pytest.raises(SiteError, match=r"'bert.encoder.block.\*.out' matches no module.*layer"):
        sites["output"]
