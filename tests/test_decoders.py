"""Decoders: read at the last token whatever is padded, with the heads that a task asks for."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from conftest import composed
from test_models import small_architecture
from torch import Tensor
from transformers import AutoConfig, BertConfig, BertForMaskedLM, PreTrainedModel

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.models import backbone, decoder
from finegrid.models.anatomy import DECODERS
from finegrid.models.backbone import Backbone

TEXT = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15], [16]]
HEADS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification",
         "AutoModelForCausalLM")  # fmt: skip
NO_TOKEN_HEAD = ("gemma3_text", "opt")  # in transformers


@cache
def _small(kind: str, auto_class: str) -> Backbone:
    config = RunConfig.of(composed("model=bert-base", "model.pretrained=false")).model
    config.architecture = small_architecture(kind) | {"pad_token_id": None}
    return backbone.build(config, outputs=3, seed=0, auto_class=auto_class)


def small(kind: str, auto_class: str = HEADS[0]) -> Backbone:
    """A small random decoder with a head, alike at every call."""
    base = copy.deepcopy(_small(kind, auto_class))
    base.model.eval()
    return base


def padded(rows: list[list[int]], *, side: str = "right", more: int = 0, pad: int = 0) -> Any:
    """A batch of token ids with its mask."""
    width = max(map(len, rows)) + more
    ids, mask = [], []
    for row in rows:
        fill = width - len(row)
        left, right = (fill, 0) if side == "left" else (0, fill)
        ids.append([pad] * left + row + [pad] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def logits(model: PreTrainedModel, batch: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(
    ("side", "more", "pad"), [("right", 0, 0), ("left", 3, 7), ("right", 9, 9)]
)
def test_a_batch_of_one_is_a_batch_of_many(kind: str, side: str, more: int, pad: int) -> None:
    """Also where the padding is a word of the text."""
    model = small(kind).model
    one = torch.cat([logits(model, padded([row])) for row in TEXT])
    many = logits(model, padded(TEXT, side=side, more=more, pad=pad))
    torch.testing.assert_close(many, one, rtol=0, atol=1e-5)
    assert (one[0] - one[1]).abs().max() > 1e-3


def test_it_is_read_at_the_last_token_of_the_mask() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert decoder.last_token(mask).tolist() == [1, 3, 3, 0]
    assert decoder.positions(mask).tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [0, 1, 2, 3], [0] * 4]


@pytest.mark.parametrize("kind", DECODERS)
def test_states_of_all_tokens_do_not_depend_on_the_side_of_the_padding(kind: str) -> None:
    model = small(kind, HEADS[2]).model
    right, left = (padded(TEXT, side=side) for side in ("right", "left"))
    seen = [logits(model, batch)[batch["attention_mask"].bool()] for batch in (right, left)]
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("auto_class", HEADS)
def test_no_cache_unless_it_is_asked_for(auto_class: str) -> None:
    model, batch = small("llama", auto_class).model, padded(TEXT)
    assert model(**batch).get("past_key_values") is None
    if auto_class == HEADS[2]:
        assert model(**batch, use_cache=True).past_key_values is not None


@pytest.mark.parametrize("kind", DECODERS)
def test_generation_is_as_without_padding(kind: str) -> None:
    model = small(kind, HEADS[2]).model
    settings: Any = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    alone = [model.generate(**padded([row]), **settings)[0, len(row) :] for row in TEXT]
    together = model.generate(**padded(TEXT, side="left"), **settings)[:, -4:]
    assert torch.equal(together, torch.stack(alone))


def test_heads_of_a_decoder() -> None:
    tokens = small("llama", HEADS[1])
    assert logits(tokens.model, padded(TEXT)).shape == (3, 8, 3)
    assert tokens.model.score.weight.requires_grad
    words = small("llama", HEADS[2])
    assert logits(words.model, padded(TEXT)).shape == (3, 8, 40)
    assert words.language_model
    assert not any(p.requires_grad for p in words.model.parameters())
    assert words.sites.decoder


@pytest.mark.parametrize("kind", NO_TOKEN_HEAD)
def test_a_head_that_transformers_lacks_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"{kind} has no head in transformers"):
        small(kind, HEADS[1])


@pytest.mark.parametrize(
    ("model", "auto_class", "words"),
    [
        ("tiny", "AutoModelForCausalLM", "bert predicts no next token"),
        ("llama", "AutoModelForMaskedLM", "llama has no masked-language-model head"),
    ],
)
def test_a_language_models_head_of_the_other_family_is_refused(
    model: str, auto_class: str, words: str
) -> None:
    config = RunConfig.of(composed("model=tiny")).model
    if model != "tiny":
        config.path, config.pretrained = "nowhere", False
        config.architecture = small_architecture("llama")
    with pytest.raises(UserError, match=words):
        backbone.build(config, outputs=2, seed=0, auto_class=auto_class)


def test_the_masked_head_of_an_encoder_is_the_pretrained_one(tmp_path: Any) -> None:
    """And is not drawn, whatever the seed; where a checkpoint lacks it, that is said."""
    config = RunConfig.of(composed("model=tiny")).model
    small_bert = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1,
                            num_attention_heads=2, intermediate_size=48)  # fmt: skip
    network = BertForMaskedLM(small_bert)
    network.bert.save_pretrained(tmp_path / "bare")
    network.save_pretrained(tmp_path)
    config.path, config.architecture = str(tmp_path / "bare"), {}
    with pytest.raises(UserError, match="no language-model head"):
        backbone.build(config, outputs=2, seed=0, auto_class="AutoModelForMaskedLM")
    config.path = str(tmp_path)
    one, two = (
        backbone.build(config, outputs=2, seed=seed, auto_class="AutoModelForMaskedLM")
        for seed in (0, 1)
    )
    batch = padded(TEXT)
    assert torch.equal(logits(one.model.eval(), batch), logits(two.model.eval(), batch))
    assert not any(p.requires_grad for p in one.model.parameters())
    tied = one.model.get_output_embeddings().weight
    assert tied is one.model.get_input_embeddings().weight


def test_saved_and_loaded_it_bears_its_name(tmp_path: Any) -> None:
    base = small("llama", HEADS[2])
    base.model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["LlamaForCausalLM"]
    config = RunConfig.of(composed("model=tiny")).model
    config.path, config.architecture = str(tmp_path), {}
    for auto_class in HEADS:
        again = backbone.build(config, outputs=3, seed=0, auto_class=auto_class)
        assert again.fingerprint == base.fingerprint
        assert again.language_model == (auto_class == HEADS[2])


def test_a_checkpoint_without_its_language_models_head_is_refused(tmp_path: Any) -> None:
    small("mistral", HEADS[0]).model.save_pretrained(tmp_path)  # whose head is not tied
    config = RunConfig.of(composed("model=tiny")).model
    config.path, config.architecture = str(tmp_path), {}
    with pytest.raises(UserError, match="no language-model head"):
        backbone.build(config, outputs=3, seed=0, auto_class=HEADS[2])
