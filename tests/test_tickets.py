"""Masks that come before fine-tuning: by unlabelled text, and by rehearsals."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import composed, run_cell, tuning_method
from test_methods import OPTIM, TASK, encoded, encoded_for, fresh  # noqa: F401
from torch.nn import functional

from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.compose import Compose
from finegrid.methods.lottery_ticket import TicketMask
from finegrid.methods.mask_agnostic import LiftableMask
from finegrid.models import backbone, surgery
from finegrid.models.backbone import Backbone
from finegrid.models.heads import masked_language
from finegrid.strategies import single
from finegrid.training.module import FineTuner


def reading(base: Backbone, *overrides: str) -> tuple[FineTuner, Any]:
    """A model in its method's first phase, without dropout, and the method."""
    method = tuning_method("method=mask_agnostic", *overrides)
    method.tune(base, seed=0)
    module = FineTuner(base, TASK, OPTIM, seed=0)
    method._enter_phase(module)
    module.model.eval()
    return module, method


def batch_of(rows: TokenizedDataset, padding: int = 0) -> dict[str, torch.Tensor]:
    """Eight rows as a batch, with so many columns of padding more."""
    batch = rows.batch(range(8))
    del batch["real_tokens"]
    wide = {k: functional.pad(v, (0, padding)) for k, v in batch.items() if v.ndim == 2}
    return batch | wide


# --- mask_agnostic -------------------------------------------------------------------------------


def test_a_cut_zeroes_the_share_and_the_last_exactly() -> None:
    mask = LiftableMask(torch.tensor([0.3, 0.1, 0.02, 0.02, 0.02, 0.0, -0.1, 0.02, 0.02, 0.02]))
    mask.cut(0.2)
    assert mask.threshold == 0.0
    assert mask.binarize().sum() == 8
    mask.fix(0.5)  # three of six that are alike must go
    assert mask.to_delta()["mask"].sum() == 5
    assert mask.to_delta()["mask"][:2].all()
    assert not mask.scores.requires_grad
    assert mask.scores.numel() == 0


def test_the_mask_trains_before_all_else() -> None:
    base = fresh()
    method = tuning_method("method=mask_agnostic", "method.sparsity=0.5", "method.mask_share=0.4")
    method.tune(base, seed=0)
    below = base.model.base_model
    every = surgery.trainable(below)
    scores = {name for name in every if name.endswith("scores")}
    assert len(scores) == 18
    assert (method.texts_only, method.checkpointable, method.lr_scale) == (True, False, 0.3)
    assert {name for name in every if method.lr_ratio(name)} == scores
    assert method.after_step(below, 0.01)
    assert surgery.trainable(below).keys() == scores
    assert not method.after_step(below, 0.2)
    assert method.after_step(below, 0.4)
    assert surgery.trainable(below).keys() == every.keys() - scores
    assert (method.texts_only, method.checkpointable, method.lr_scale) == (False, True, 1.0)
    assert not method.after_step(below, 0.5), "once"
    masks = [m for m in below.modules() if isinstance(m, LiftableMask)]
    assert all(int(m.to_delta()["mask"].sum()) * 2 == m.to_delta()["mask"].numel() for m in masks)
    stock = dict(fresh().model.base_model.named_parameters())
    assert all(torch.equal(every[name], stock[name]) for name in every.keys() - scores)


@pytest.mark.parametrize("model", ["tiny", "tiny_llama"])
def test_distillation_is_the_distance_to_the_unmasked_model(model: str) -> None:
    batch, wide = (batch_of(encoded_for(model), padding) for padding in (0, 5))
    losses = {}
    for sparsity in ("0", "0.3", "0.7"):
        module, _ = reading(
            fresh(model=model), f"method.sparsity={sparsity}", "method.objective=distil"
        )
        losses[sparsity] = module.loss(batch)
        torch.testing.assert_close(module.loss(wide), losses[sparsity], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            module.loss(batch | {"labels": 1 - batch["labels"]}), losses[sparsity]
        )
    assert losses["0"].item() == pytest.approx(0, abs=1e-5)
    assert losses["0.3"] < losses["0.7"] < 1
    module.model.train()  # the masks' gradient goes straight through
    module.loss(batch).backward()
    scores = [p for n, p in module.model.named_parameters() if n.endswith("scores")]
    assert all(p.grad is not None and p.grad.any() for p in scores)


def test_distillation_is_its_formula(encoded: TokenizedDataset) -> None:  # noqa: F811
    """Mean over layers of 1 - cos, by transformers' own hidden states."""
    batch = {k: v for k, v in batch_of(encoded).items() if k != "labels"}
    module, _ = reading(fresh(), "method.sparsity=0.5", "method.objective=distil")
    seen = batch["attention_mask"].bool()
    ours, theirs = (
        base.model.base_model.eval()(**batch, output_hidden_states=True).hidden_states[1:]
        for base in (module.backbone, fresh())
    )
    away = [
        1 - functional.cosine_similarity(a, b, dim=-1) for a, b in zip(ours, theirs, strict=True)
    ]
    expected = torch.stack([layer[seen].mean() for layer in away]).mean()
    torch.testing.assert_close(module.loss(batch_of(encoded)), expected)


def test_hidden_tokens_are_read_by_the_checkpoints_own_head(
    encoded: TokenizedDataset,  # noqa: F811
) -> None:
    """The loss of transformers' masked language model on the same tokens."""
    batch = batch_of(encoded)
    base = fresh()
    network = backbone.build(
        base.source, outputs=2, seed=0, auto_class="AutoModelForMaskedLM"
    ).model.eval()
    module, method = reading(base, "method.sparsity=0", "method.objective=auto")
    module.loss(batch)
    assert method.language is not None, "tiny ships its head"
    torch.manual_seed(3)
    read, hidden = method.language.hide(batch["input_ids"])
    assert not torch.isin(batch["input_ids"][hidden], method.language.special).any()
    torch.manual_seed(3)
    found = module.loss(batch)
    inputs = {k: v for k, v in batch.items() if k != "labels"} | {"input_ids": read}
    expected = functional.cross_entropy(
        network(**inputs).logits[hidden], batch["input_ids"][hidden]
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    ids = torch.full((100, 100), 20)
    read, hidden = method.language.hide(ids)
    assert hidden.float().mean().item() == pytest.approx(0.15, abs=0.02)
    masked = (read[hidden] == method.language.mask).float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.05)
    assert (read[~hidden] == 20).all()


def test_a_decoder_distils_and_has_no_tokens_to_hide() -> None:
    batch = batch_of(encoded_for("tiny_llama"))
    module, method = reading(fresh(model="tiny_llama"))
    module.loss(batch)
    assert method.objective == "distil"
    module, _ = reading(fresh(model="tiny_llama"), "method.objective=mlm")
    with pytest.raises(UserError, match=r"method.objective=mlm: .*decoder.*; use distil"):
        module.loss(batch)
    drawn = RunConfig.of(composed("model=tiny", "model.pretrained=false")).model
    with pytest.raises(UserError, match="random weights"):
        masked_language.of(drawn)


def test_a_composition_reads_by_the_member_that_does() -> None:
    batch = batch_of(encoded_for("tiny"))
    masked = tuning_method("method=mask_agnostic", "method.objective=distil")
    both = Compose(members={"masked": masked, "lora": tuning_method("method=lora")})
    base = fresh()
    both.tune(base, seed=0)
    module = FineTuner(base, TASK, OPTIM, seed=0)
    both._enter_phase(module)
    module.model.eval()
    alone, _ = reading(fresh(), "method.objective=distil")
    assert both.texts_only
    torch.testing.assert_close(module.loss(batch), alone.loss(batch))
    assert both.after_step(base.model.base_model, 1.0)
    assert not both.texts_only


@pytest.mark.parametrize(
    "override",
    ["method.mask_share=1", "method.mask_rate=0", "method.objective=nsp", "method.sparsity=1"],
)
def test_what_cannot_be_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        tuning_method("method=mask_agnostic", override)


@pytest.mark.parametrize("name", ["mask_agnostic", "lottery_ticket"])
def test_a_run_delivers_its_sparsity(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run of eight steps; the weights of `mask_agnostic` rest as long as it reads texts."""
    seen: list[tuple[bool, bool]] = []
    kept: list[float] = []

    class Watch(pl.Callback):
        """Notes before each step whether the backbone is as pre-trained, and by which loss."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            base = pl_module.model.base_model
            plain = {n: p for n, p in base.named_parameters() if "mask_agnostic" not in n}
            same = all(torch.equal(p, stock[n]) for n, p in plain.items())
            seen.append((same, pl_module.text_loss is not None))

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            masks = [
                child.to_delta()["mask"]
                for _, site, key in surgery.injected(pl_module.model)
                if isinstance(child := site.get_submodule(key), LiftableMask | TicketMask)
            ]
            kept.append(sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks))

    stock = dict(fresh().model.base_model.named_parameters())
    monkeypatch.setattr(single, "extend", lambda components: [Watch()])
    overrides = (f"method={name}", "experiment=smoke", "budget.steps=8", "method.sparsity=0.25")
    record = run_cell(tmp_path, *overrides, "optim.warmup=0")
    assert record.status == "ok"
    assert kept == [pytest.approx(0.75, abs=1e-4)]
    same, texts = ([pair[n] for pair in seen] for n in (0, 1))
    if name == "mask_agnostic":  # 0.3 of eight steps are three
        assert same == [True] * 4 + [False] * 4
        assert texts == [True] * 3 + [False] * 5
    else:  # a round is 1.6 steps: it ends with steps 2, 4 and 5
        assert same == [True, False, True, False, True, True, False, False]
        assert not any(texts)


# --- lottery_ticket ------------------------------------------------------------------------------


def test_a_round_prunes_the_smallest_of_all_and_starts_anew() -> None:
    base = fresh()
    method = tuning_method("method=lottery_ticket", "method.sparsity=0.4", "method.rounds=2")
    method.tune(base, seed=0)
    below = base.model.base_model
    pairs = [
        (site.get_submodule(name), surgery.raw_parameter(site, "weight"))
        for _, site, name in surgery.injected(below)
    ]
    total = sum(weight.numel() for _, weight in pairs)
    with torch.no_grad():
        for _, weight in pairs:
            weight.add_(0.01)
    moved = torch.cat([weight.detach().abs().flatten() for _, weight in pairs])
    assert not method.after_step(below, 0.29)
    assert method.after_step(below, 0.3)
    assert backbone.fingerprint(below) == base.fingerprint, "back to w_0"
    kept = torch.cat([mask.mask.flatten() for mask, _ in pairs])
    assert int((~kept).sum()) == int(0.2 * total)
    assert moved[~kept].max() <= moved[kept].min()
    assert (method.checkpointable, method.lr_scale) == (False, 1.0)
    assert method.after_step(below, 0.6)
    again = torch.cat([mask.mask.flatten() for mask, _ in pairs])
    assert not again[~kept].any(), "what is pruned stays so"
    assert int((~again).sum()) == int(0.4 * total)
    assert (method.checkpointable, method.lr_scale) == (True, 2.5)
    assert not method.after_step(below, 0.9)


def test_the_penalty_is_on_what_the_seed_draws_and_falls_in_each_round() -> None:
    drawn = []
    for seed in (0, 0, 1):
        base = fresh()
        method = tuning_method("method=lottery_ticket", "method.rounds=2", "method.tau=0.5")
        method.tune(base, seed=seed)
        below = base.model.base_model
        pairs = [
            (site.get_submodule(name), surgery.raw_parameter(site, "weight"))
            for _, site, name in surgery.injected(below)
        ]
        drawn.append(torch.cat([mask.penalised.flatten() for mask, _ in pairs]))
        for progress, strength in ((0.0, 0.5), (0.15, 0.25)):
            for _, weight in pairs:
                weight.grad = torch.zeros_like(weight)
            method.after_backward(below, progress)
            for mask, weight in pairs:
                torch.testing.assert_close(
                    weight.grad, strength * weight.detach().sign() * mask.penalised
                )
        method.after_step(below, 0.3)
        method.after_step(below, 0.6)
        for _, weight in pairs:
            weight.grad = None
        method.after_backward(below, 0.7)
        assert all(weight.grad is None for _, weight in pairs)
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert (drawn[0] & drawn[2]).float().mean().item() == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize(
    "override",
    ["rounds=0", "search_share=1", "refit_rate=0", "tau=-1", "sparsity=1"],
)
def test_a_ticket_that_cannot_be_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=f"method.{override.partition('=')[0]}"):
        tuning_method("method=lottery_ticket", f"method.{override}")
