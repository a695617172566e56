"""LoReFT beyond the numbers of the adapters library: positions, orthogonality, what is refused."""

import copy

import pytest
import torch
from conftest import composed, tuning_method
from test_decoders import TEXT, logits, padded, small
from test_methods import encoded_for, fresh, steps
from torch import Tensor
from transformers import DynamicCache

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.methods.loreft import Intervention, Positions, Subspace
from finegrid.models import surgery
from finegrid.training.components import check_settings


@pytest.mark.parametrize("side", ["left", "right"])
def test_ends_are_counted_in_real_tokens(side: str) -> None:
    """Rows of 8, 3 and 1 tokens; two first, three last."""
    batch, positions = padded(TEXT, side=side), Positions()
    positions.read(batch)
    ahead, behind = positions.ends(torch.zeros(3, 8, 4), 2, 3)
    for row, tokens in enumerate(TEXT):
        real = batch["attention_mask"][row].bool()
        assert ahead[row, :, 0][real].tolist() == [n < 2 for n in range(len(tokens))]
        assert behind[row, :, 0][real].tolist() == [
            n >= len(tokens) - 3 for n in range(len(tokens))
        ]
        assert not (ahead | behind)[row, :, 0][~real].any()


def test_without_a_mask_every_token_is_real() -> None:
    positions = Positions()
    positions.read({"input_ids": torch.ones(2, 4)})
    ahead, behind = positions.ends(torch.zeros(2, 4, 3), 1, 1)
    assert ahead[0, :, 0].tolist() == [True, False, False, False]
    assert behind[1, :, 0].tolist() == [False, False, False, True]


def test_the_formula_on_both_ends() -> None:
    """The last unit where ends meet, and the middle as it was."""
    torch.manual_seed(0)
    positions = Positions()
    made = Intervention(6, positions, rank=2, first=2, last=2, tied=False)
    h = torch.randn(1, 3, 6)

    def by_hand(unit: Subspace, x: Tensor) -> Tensor:
        rotation = unit.rotation()
        return x + (unit.target(x) - x @ rotation.T) @ rotation

    expected = torch.stack([by_hand(made.units[n], h[0, t]) for t, n in enumerate((0, 1, 1))])
    torch.testing.assert_close(made(h)[0], expected)
    long = torch.randn(1, 9, 6)
    assert torch.equal(made(long)[:, 2:7], long[:, 2:7])


def test_rows_of_r_stay_orthonormal_in_training() -> None:
    base = fresh()
    tuning_method("method=loreft", "method.rank=3").tune(base, seed=0)
    units = [module for module in base.model.modules() if isinstance(module, Subspace)]
    assert len(units) == 3, "tied: one a layer"
    before = [unit.rotation().detach() for unit in units]
    for _ in steps(base, encoded_for("tiny")):
        pass
    for unit, start in zip(units, before, strict=True):
        rotation = unit.rotation()
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)
        assert (rotation - start).abs().max() > 1e-4


def test_a_cache_changes_nothing_where_the_first_tokens_alone_count() -> None:
    base = small("llama")
    tuning_method("method=loreft", "method.first=3", "method.last=0").tune(base, seed=0)
    decoder, ids = base.model.base_model.eval(), torch.tensor([TEXT[0]])
    with torch.no_grad():
        whole = decoder(input_ids=ids).last_hidden_state
        cache = DynamicCache(config=base.model.config)
        parts = [
            decoder(input_ids=part, past_key_values=cache, use_cache=True).last_hidden_state
            for part in (ids[:, :2], ids[:, 2:5], ids[:, 5:])
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


def test_a_copy_counts_its_own_tokens() -> None:
    base = small("llama")
    tuning_method("method=loreft").tune(base, seed=0)
    other = copy.deepcopy(base.model).eval()
    expected = logits(other, padded(TEXT))
    logits(base.model, padded(TEXT[:1]))
    assert torch.equal(logits(other, padded(TEXT)), expected)


def test_what_is_refused_is_one_line() -> None:
    base = fresh()
    tuning_method("method=loreft").tune(base, seed=0)
    assert any(surgery.unmergeable(base.model))
    with pytest.raises(UserError, match=r"method\.rank=9999 must lie in \[1, "):
        tuning_method("method=loreft", "method.rank=9999").tune(fresh(), seed=0)
    with pytest.raises(UserError, match="and one of them 1"):
        tuning_method("method=loreft", "method.first=0", "method.last=0")
    text = ("task=e2e_cleaned", "model=tiny_llama", "method=loreft")
    with pytest.raises(UserError, match=r"use method\.last=0"):
        check_settings(RunConfig.of(composed(*text)))
    check_settings(RunConfig.of(composed(*text, "method.last=0")))
