"""Trainable counts on published shapes, against their formulas; no download."""

import re

import pytest
import torch
from conftest import METHODS, ROOT, composed, tuning_method
from transformers import AutoConfig, AutoModelForSequenceClassification

from finegrid.config import to_plain
from finegrid.errors import UserError
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.training.cost import count_parameters

H, LAYERS, FF = 768, 12, 3072  # BERT-base
BIASES = LAYERS * (4 * H + FF + H + 2 * H) + H  # layers, and the embeddings' LayerNorm
NORMS = 2 * H
SQUARE, WIDE = H * H, H * FF  # attention's matrices, feed-forward's
MATRICES = LAYERS * (4 * SQUARE + 2 * WIDE)
EMBEDDINGS = (30_522 + 512 + 2) * H + NORMS
LAYER = 4 * (SQUARE + H) + WIDE + FF + WIDE + H + 2 * NORMS


def entries(density: float) -> int:
    """A share of each matrix, rounded down."""
    return LAYERS * (4 * int(density * SQUARE) + 2 * int(density * WIDE))


WIDTH = H // 16
BOTTLENECK = H * WIDTH + WIDTH + WIDTH * H + H

HALF = LAYERS * (2 * (SQUARE + H) + WIDE + NORMS)  # and as many biases as the matrices drawn have

EVERYTHING = {"full", "two_stage", "lottery_ticket", "mask_agnostic", "mask_agnostic_magnitude",
              "debias_diff", "galore", "apollo"}  # fmt: skip
BERT_BASE = {  # method -> (delta, pooler)
    "full": (109_482_240 - H * H - H, H * H + H),
    "galore": (109_482_240 - H * H - H, H * H + H),
    "apollo": (109_482_240 - H * H - H, H * H + H),
    "two_stage": (109_482_240 - H * H - H, H * H + H),
    "head": (0, 0),
    "bitfit": (BIASES, H),
    "bitfit_added": (BIASES, H),  # BERT's matrices have one each
    "bitfit_q_m2": (LAYERS * (H + FF), 0),
    "layernorm": (LAYERS * 2 * NORMS + NORMS, 0),
    "houlsby": (LAYERS * 2 * BOTTLENECK, 0),
    "houlsby_layernorm": (LAYERS * 2 * (BOTTLENECK + NORMS), 0),
    "layers": (2 * LAYER, 0),
    "subtuning": (LAYERS * LAYER, 0),  # while it searches
    "critical_layers": (LAYERS * (2 * (SQUARE + H) + WIDE + H), 0),
    "sparse": (entries(0.005), 0),
    "sparse_random": (entries(0.005), 0),
    "sparse_magnitude": (entries(0.005), 0),
    "sparse_sam": (entries(0.005), 0),
    "layernorm_fisher": ((2 * LAYERS + 1) * 2 * int(0.2 * H), 0),  # 7,680 once chosen together
    "supermask": (MATRICES, 0),
    "mask_l0": (MATRICES, 0),
    "mask_threshold": (MATRICES, 0),
    "mask_threshold_magnitude": (MATRICES, 0),
    "lottery_ticket": (109_482_240 - H * H - H, H * H + H),
    "mask_agnostic": (109_482_240 + MATRICES - H * H - H, H * H + H),  # while it masks
    "mask_agnostic_magnitude": (109_482_240 - H * H - H, H * H + H),
    "mask_random": (0, 0),
    "mask_magnitude": (0, 0),
    "diff_pruning": (2 * MATRICES, 0),  # while it searches
    "debias_diff": (109_482_240 - H * H - H, H * H + H),  # the task; the difference comes after it
    "diff_pruning_structured": (2 * MATRICES + 6 * LAYERS, 0),
    "bitfit_lora": (BIASES + LAYERS * 2 * 8 * 2 * H, H),
    "dsee": (LAYERS * 2 * (16 * 2 * H + int(1e-4 * SQUARE)), 0),
    "mpo": (LAYERS * 6 * 2 * (16**2 + 256**2), 0),  # widths split 4 4 3 4 4 and 4 4 12 4 4
    "mam": (LAYERS * (2 * 30 * H + H * (H // 2) * 2 + H // 2 + H), 0),
    "unipelt": (LAYERS * (2 * 10 * H + BOTTLENECK + 2 * 8 * 2 * H + 4 * (H + 1)), 0),
    "pfeiffer": (LAYERS * BOTTLENECK, 0),
    "lora": (LAYERS * 2 * (8 * H + H * 8), 0),
    "lora_all": (LAYERS * 8 * (4 * 2 * H + 2 * (H + FF)), 0),
    "rslora": (LAYERS * 2 * (8 * H + H * 8), 0),
    "lora_plus": (LAYERS * 2 * (8 * H + H * 8), 0),
    "lora_fa": (LAYERS * 2 * H * 8, 0),
    "dora": (LAYERS * 2 * (8 * H + H * 8 + H), 0),
    "adalora": (LAYERS * 2 * 12 * (H + 1 + H), 0),
    "pissa": (LAYERS * 2 * (8 * H + H * 8), 0),
    "vera": (LAYERS * 2 * (256 + H), 0),
    "loha": (LAYERS * 2 * 2 * (8 * H + H * 8), 0),
    "lokr": (LAYERS * 2 * (24 * 24 + 8 * 32 + 32 * 8), 0),
    "hira": (LAYERS * 2 * (8 * H + H * 8), 0),
    "fourierft": (LAYERS * 2 * 1000, 0),
    "miss": (LAYERS * 2 * 16 * H, 0),
    "oft": (LAYERS * 2 * (H // 32) * (32 * 31 // 2), 0),
    "shira": (LAYERS * 2 * (8 * H + H * 8), 0),
    "randlora": (LAYERS * 2 * (32 * 24 + 24 * H), 0),
    "ia3": (LAYERS * (H + H + FF), 0),
    "parallel": (LAYERS * (H * H // 2 + H // 2 + H // 2 * H + H), 0),
    "compacter": (4**3 + LAYERS * 2 * (2 * (H + H // 32) + H // 32 + H), 0),
    "prefix": (LAYERS * 2 * 10 * H, 0),
    "control_prefix": (LAYERS * 2 * (10 + 3) * H, 0),  # of one value
    "loreft": (LAYERS * (2 * H + 1), 0),
    "prompt": (10 * H, 0),
    "prompt_deep": (LAYERS * 10 * H, 0),
    "vfpt": (LAYERS * 10 * H, 0),
}


def on_meta(model: str) -> tuple[torch.nn.Module, Sites]:
    """A published architecture without its weights, frozen but for the head."""
    architecture = to_plain(composed(f"model={model}").model.architecture)
    config = AutoConfig.for_model(**architecture)
    with torch.device("meta"):
        network = AutoModelForSequenceClassification.from_config(config)
    surgery.freeze(network.base_model)
    return network, Sites.of(network)


def counted(name: str, model: str) -> dict[str, int]:
    """The counts of a method on a published architecture."""
    network, sites = on_meta(model)
    with torch.device("meta"):
        tuning_method(f"method={name}").apply(network.base_model, sites)
    return count_parameters(network, sites)


@pytest.mark.parametrize(("name", "expected"), BERT_BASE.items())
def test_bert_base(name: str, expected: tuple[int, int]) -> None:
    counts = counted(name, "bert-base")
    assert (counts["params_delta"], counts["params_pooler"]) == expected
    assert counts["params_head"] == 2 * H + 2


@pytest.mark.parametrize("name", sorted(BERT_BASE.keys() - EVERYTHING))
def test_roberta_base_has_the_same_layers(name: str) -> None:
    """BERT-base's count, but RoBERTa has no pooler in its base model."""
    counts = counted(name, "roberta-base")
    assert (counts["params_delta"], counts["params_pooler"]) == (BERT_BASE[name][0], 0)


def test_half_fine_tuning_on_bert_base() -> None:
    """Half of the matrices, norms and the embeddings; the biases depend on what is drawn."""
    found = counted("hft", "bert-base")["params_delta"] - HALF - EMBEDDINGS
    drawn, rest = divmod(found - LAYERS * H, FF - H)  # `intermediate` brings FF biases, not H
    assert rest == 0
    assert 0 <= drawn <= LAYERS


def test_lisa_on_bert_base() -> None:
    """What lies outside the layers, and each layer that any round draws."""
    counts = counted("lisa", "bert-base")
    drawn, rest = divmod(counts["params_delta"] - EMBEDDINGS, LAYER)
    assert rest == 0
    assert 2 <= drawn <= LAYERS
    assert counts["params_pooler"] == H * H + H


def test_every_method_is_counted() -> None:
    assert {*BERT_BASE, "hft", "lisa"} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_yaml_tells_the_count(name: str) -> None:
    """`(294,912 on BERT-base ...)` in the headline is what is counted, delta and pooler."""
    headline = (ROOT / f"conf/method/{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    match = re.search(r"\((keeps |at most )?([\d,.]+)( M)?( bits)? on BERT-base", headline)
    assert match, headline
    told = float(match[2].replace(",", "")) * (1e6 if match[3] else 1)
    if match[1] == "keeps ":  # diff pruning searches among all and keeps some
        assert told == int(0.005 * MATRICES)
        return
    counts = counted(name, "bert-base")
    exact = counts["params_delta"] + counts["params_pooler"]
    if match[1]:  # lisa draws its layers
        assert told == sum(BERT_BASE["full"]) >= exact
        return
    chosen_together = 7_680 if name == "layernorm_fisher" else exact
    assert told == pytest.approx(chosen_together, rel=1e-3 if match[3] else 0, abs=0)


def test_published_totals() -> None:
    """The numbers that papers and libraries print for these methods."""
    assert sum(BERT_BASE["bitfit"]) == 102_912
    assert BERT_BASE["bitfit_q_m2"][0] == 46_080
    assert BERT_BASE["layernorm"][0] == 38_400
    assert BERT_BASE["houlsby"][0] == 1_789_056
    assert BERT_BASE["pfeiffer"][0] == 894_528
    assert BERT_BASE["supermask"][0] == 84_934_656
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
        tuning_method(f"method={method}").apply(network.base_model, sites)


@pytest.mark.parametrize("method", ["full", "head", "layernorm", "houlsby", "pfeiffer"])
def test_methods_that_fit_modernbert(method: str) -> None:
    network, sites = on_meta("modernbert-base")
    with torch.device("meta"):
        tuning_method(f"method={method}").apply(network.base_model, sites)
    assert (count_parameters(network, sites)["params_delta"] > 0) == (method != "head")


# SmolLM2-135M: hidden size, its layers, the width of keys, of feed-forward
H2, LAYERS2, KEY2, FF2 = 576, 30, 192, 1536
SQUARE2 = 2 * H2 * H2 + 2 * H2 * KEY2 + 3 * H2 * FF2
SMOLLM2 = {  # method -> delta; keys and values are a third as wide as queries
    "head": 0,
    "full": 134_515_008,
    "bitfit_added": LAYERS2 * (3 * H2 + 2 * KEY2 + 2 * FF2),
    "layernorm": (2 * LAYERS2 + 1) * H2,
    "lora": LAYERS2 * 8 * (H2 + H2 + H2 + KEY2),
    "lora_all": LAYERS2 * 8 * (2 * 2 * H2 + 2 * (H2 + KEY2) + 3 * (H2 + FF2)),
    "rslora": LAYERS2 * 8 * (H2 + H2 + H2 + KEY2),
    "lora_plus": LAYERS2 * 8 * (H2 + H2 + H2 + KEY2),
    "lora_fa": LAYERS2 * 8 * (H2 + KEY2),
    "dora": LAYERS2 * (8 * (H2 + H2 + H2 + KEY2) + H2 + KEY2),
    "adalora": LAYERS2 * 12 * (H2 + 1 + H2 + H2 + 1 + KEY2),
    "pissa": LAYERS2 * 8 * (H2 + H2 + H2 + KEY2),
    "vera": LAYERS2 * (2 * 256 + H2 + KEY2),
    "loha": LAYERS2 * 2 * 8 * (H2 + H2 + H2 + KEY2),
    "lokr": LAYERS2 * (24 * 24 + 24 * 8 * 2 + 12 * 24 + 24 * 8 + 16 * 8),
    "hira": LAYERS2 * 8 * (H2 + H2 + H2 + KEY2),
    "fourierft": LAYERS2 * 2 * 1000,
    "miss": LAYERS2 * 16 * (H2 + KEY2),
    "oft": LAYERS2 * 2 * (H2 // 32) * (32 * 31 // 2),
    "shira": LAYERS2 * 8 * (H2 + H2 + H2 + KEY2),
    "randlora": LAYERS2 * (32 * 18 + 18 * H2 + 32 * 6 + 6 * KEY2),
    "ia3": LAYERS2 * (2 * KEY2 + FF2),
    "prefix": LAYERS2 * 2 * 10 * KEY2,
    "prompt": 10 * H2,
    "houlsby": LAYERS2 * 2 * (2 * H2 * (H2 // 16) + H2 // 16 + H2),
    "supermask": LAYERS2 * SQUARE2,
    # 576 = 4 3 4 3 4, 192 = 4 2 3 2 4, 1536 = 4 4 6 4 4
    "mpo": LAYERS2 * 2 * (7 * 16**2 + 2 * 144**2 + 2 * 96**2 + 3 * 192**2),
}


@pytest.mark.parametrize(("name", "expected"), SMOLLM2.items())
def test_smollm2(name: str, expected: int) -> None:
    counts = counted(name, "smollm2-135m")
    assert (counts["params_delta"], counts["params_head"]) == (expected, 2 * H2)


def test_published_counts_of_decoders() -> None:
    """peft prints 460,800 for LoRA r8 on query and value of SmolLM2-135M."""
    assert SMOLLM2["lora"] == 460_800
    assert SMOLLM2["bitfit_added"] == 155_520
    assert sum(BERT_BASE["bitfit_added"]) == 102_912
