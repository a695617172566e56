"""Trainable counts on published shapes, against their formulas; no download."""

import pytest
import torch
from conftest import composed
from transformers import AutoConfig, AutoModelForSequenceClassification

from finegrid import surgery
from finegrid.errors import UserError
from finegrid.meter import count_parameters
from finegrid.run import build_method
from finegrid.sites import Sites

H, LAYERS, FF = 768, 12, 3072  # BERT-base
BIASES = LAYERS * (4 * H + FF + H + 2 * H) + H  # layers, and the embeddings' LayerNorm
NORMS = 2 * H
WIDTH = H // 16
BOTTLENECK = H * WIDTH + WIDTH + WIDTH * H + H

BERT_BASE = {  # method -> (delta, pooler)
    "full": (109_482_240 - H * H - H, H * H + H),
    "head": (0, 0),
    "bitfit": (BIASES, H),
    "bitfit_q_m2": (LAYERS * (H + FF), 0),
    "layernorm": (LAYERS * 2 * NORMS + NORMS, 0),
    "houlsby": (LAYERS * 2 * BOTTLENECK, 0),
    "houlsby_layernorm": (LAYERS * 2 * (BOTTLENECK + NORMS), 0),
    "pfeiffer": (LAYERS * BOTTLENECK, 0),
    "lora": (LAYERS * 2 * (8 * H + H * 8), 0),
    "ia3": (LAYERS * (H + H + FF), 0),
    "parallel": (LAYERS * (H * H // 2 + H // 2 + H // 2 * H + H), 0),
    "compacter": (4**3 + LAYERS * 2 * (2 * (H + H // 32) + H // 32 + H), 0),
    "prefix": (LAYERS * 2 * 10 * H, 0),
    "prompt": (10 * H, 0),
    "prompt_deep": (LAYERS * 10 * H, 0),
}


def on_meta(model: str) -> tuple[torch.nn.Module, Sites]:
    """A published architecture without its weights, frozen but for the head."""
    architecture = dict(composed(f"model={model}").model.architecture)
    config = AutoConfig.for_model(**architecture)
    with torch.device("meta"):
        network = AutoModelForSequenceClassification.from_config(config)
    surgery.freeze(network.base_model)
    return network, Sites.of(network)


@pytest.mark.parametrize(("name", "expected"), BERT_BASE.items())
def test_bert_base(name: str, expected: tuple[int, int]) -> None:
    network, sites = on_meta("bert-base")
    with torch.device("meta"):
        build_method(composed(f"method={name}")).apply(network.base_model, sites)
    counts = count_parameters(network, sites)
    assert (counts["params_delta"], counts["params_pooler"]) == expected
    assert counts["params_head"] == 2 * H + 2


def test_published_totals() -> None:
    """The numbers that papers and libraries print for these methods."""
    assert sum(BERT_BASE["bitfit"]) == 102_912
    assert BERT_BASE["bitfit_q_m2"][0] == 46_080
    assert BERT_BASE["layernorm"][0] == 38_400
    assert BERT_BASE["houlsby"][0] == 1_789_056
    assert BERT_BASE["pfeiffer"][0] == 894_528
    assert BERT_BASE["lora"][0] == 294_912
    assert BERT_BASE["ia3"][0] == 55_296
    assert BERT_BASE["parallel"][0] == 7_091_712
    assert BERT_BASE["compacter"][0] == 57_088
    assert BERT_BASE["prefix"][0] == 184_320


def test_roberta_head_is_counted_as_head() -> None:
    network, sites = on_meta("roberta-base")
    counts = count_parameters(network, sites)
    assert counts["params_head"] == 592_130
    assert counts["params_pooler"] == 0


@pytest.mark.parametrize("method", ["bitfit", "bitfit_q_m2"])
def test_bitfit_on_modernbert_is_refused(method: str) -> None:
    network, sites = on_meta("modernbert-base")
    with pytest.raises(UserError, match=r"ModernBert|modernbert"):
        build_method(composed(f"method={method}")).apply(network.base_model, sites)


@pytest.mark.parametrize("method", ["full", "head", "layernorm", "houlsby", "pfeiffer"])
def test_methods_that_fit_modernbert(method: str) -> None:
    network, sites = on_meta("modernbert-base")
    with torch.device("meta"):
        build_method(composed(f"method={method}")).apply(network.base_model, sites)
    assert (count_parameters(network, sites)["params_delta"] > 0) == (method != "head")


@pytest.mark.parametrize(
    "method", ["lora", "ia3", "parallel", "compacter", "prefix", "prompt", "prompt_deep"]
)
def test_roberta_base_counts_as_bert_base(method: str) -> None:
    network, sites = on_meta("roberta-base")
    with torch.device("meta"):
        build_method(composed(f"method={method}")).apply(network.base_model, sites)
    assert count_parameters(network, sites)["params_delta"] == BERT_BASE[method][0]
