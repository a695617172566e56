"""frozen_dropout=false: the prefix is deterministic, runs once, and nothing else changes."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed, run_cell, tuning_method
from safetensors.torch import load_file
from test_methods import encoded  # noqa: F401
from test_models import DIFFERENT
from torch import Tensor
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertLayer

from finegrid.config import Budget, RunConfig
from finegrid.data import builtin
from finegrid.data.batching import TokenizedDataset
from finegrid.inference import restore
from finegrid.methods.base import overrides as changes
from finegrid.models import backbone
from finegrid.models.anatomy import ANATOMY, DECODERS
from finegrid.models.backbone import Backbone
from finegrid.models.layered import LAYERED
from finegrid.runs import delta
from finegrid.runs.record import Record, read
from finegrid.strategies import cached_features, split_model
from finegrid.strategies.cached_features import (
    CacheFeatures,
    Features,
    FrozenLayers,
    _obstacle,
    repeats,
)
from finegrid.training.components import build_method
from finegrid.training.module import _chunks, logits_of

SHORT = ("data.fraction=0.1", "data.validation_max=50", "budget.epochs=2", "evaluations=2")
NO_DROPOUT = (
    "+model.config.hidden_dropout_prob=0", "+model.config.attention_probs_dropout_prob=0",
)  # fmt: skip
HEAD = ("method=head",)
TOP = ("method=layers", "method.layers=top-1")
SPARSE = ("method=sparse", "method.layers=top-1", "method.samples=8")  # it chooses by gradients
PROBE = 1  # row that goes through the model before it trains, to check the checkpoint
FULL = "trainer.precision=32"
MIXED = "trainer.precision=bf16-mixed"
B, T = 4, 9


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEGRID_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def rows(encoded: TokenizedDataset) -> TokenizedDataset:  # noqa: F811
    """Sixteen rows of builtin text, without features yet."""
    copied = copy.copy(encoded)
    copied.extra_inputs = {}
    return copied


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass through a layer of a BERT."""
    plain, rows = BertLayer.forward, []

    def forward(self: BertLayer, hidden_states: Tensor, *args: Any, **named: Any) -> Tensor:
        rows.append(len(hidden_states))
        return plain(self, hidden_states, *args, **named)

    monkeypatch.setattr(BertLayer, "forward", forward)
    return rows


def applied(*overrides: str) -> Backbone:
    """The tiny model with a method's changes."""
    cfg = composed(*overrides)
    base = backbone.build(RunConfig.of(cfg).model, outputs=2, seed=0)
    build_method(RunConfig.of(cfg).method).tune(base, seed=0)
    return base


def small(architecture: str, *overrides: str) -> Backbone:
    """An architecture of two layers with random weights."""
    sizes: dict[str, Any] = {
        "vocab_size": 50, "max_position_embeddings": 40, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "embedding_size": 16, "hidden_dim": 64,
        "hidden_dropout_prob": 0.3, "dropout": 0.3, "attention_dropout": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    sizes |= DIFFERENT.get(architecture, {})
    if architecture == "distilbert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4}
    cfg = composed("model=tiny", "model.pretrained=false", "model.path=none", *overrides)
    cfg.model.architecture = {"model_type": architecture, **sizes}
    base = backbone.build(RunConfig.of(cfg).model, outputs=2, seed=0)
    build_method(RunConfig.of(cfg).method).tune(base, seed=0)
    return base


def batch() -> dict[str, Tensor]:
    """Random texts, two of them shorter than the others."""
    tokens = torch.randint(5, 50, (B, T), generator=torch.Generator().manual_seed(0))
    seen = torch.ones_like(tokens)
    seen[0, T // 2 :] = seen[-1, -1] = 0
    return {"input_ids": tokens * seen, "attention_mask": seen, "labels": torch.arange(B) % 2}


def callback(split: TokenizedDataset, *overrides: str) -> CacheFeatures:
    cfg = composed(*overrides)
    splits = {"train": split, "validation": split, "test": split}
    return CacheFeatures(build_method(RunConfig.of(cfg).method), splits, RunConfig.of(cfg))


class Trainer:
    """What the callback sees of one."""

    precision = "32-true"


class Module:
    """What the callback sees of one."""

    def __init__(self, base: Backbone) -> None:
        self.backbone = base


def frozen_up(base: Backbone, split: TokenizedDataset, *overrides: str) -> None:
    """Do to a model and its rows what a run does."""
    callback(split, *overrides).setup(Trainer(), Module(base), "fit")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "depth"),
    [
        (HEAD, 3),
        (TOP, 2),
        (("method=layers", "method.layers=[1]"), 1),
        (("method=layers", "method.roles=[pooler]", "method.layers=null"), 3),
        (("method=layers", "method.roles=[embeddings]"), -1),
        (SPARSE, 2),
        (("method=supermask", "method.layers=top-1"), 2),
        (("method=mask_magnitude",), 0),
        (("method=lora",), 0),
        (("method=prefix",), 0),
        (("method=compacter",), 0),
        (("method=bitfit",), -1),
        (("method=layernorm",), -1),
        (("method=full",), -1),
        (("method=prompt",), -1),
    ],
    ids=str,
)
def test_the_prefix_ends_below_what_trains(overrides: tuple[str, ...], depth: int) -> None:
    assert split_model.depth(applied(*overrides)) == depth


def test_methods_that_change_what_trains_have_no_prefix() -> None:
    for name, expected in {"head": True, "hft": True, "dsee": True, "diff_pruning": False}.items():
        method = tuning_method(f"method={name}")
        assert changes(method, "after_step") != expected, name


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (HEAD, None), (TOP, None), (("method=diff_pruning",), "changes what trains on the way"),
        (("method=bitfit",), "trains in the embeddings"),
    ],
    ids=str,
)  # fmt: skip
def test_what_has_no_prefix_says_why(overrides: tuple[str, ...], why: str | None) -> None:
    base = applied(*overrides)
    found = _obstacle(tuning_method(*overrides), base, split_model.depth(base))
    assert (found is None) == (why is None)
    assert (why or "") in (found or "")


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("architecture", LAYERED)
def test_a_cut_model_goes_on_where_it_stopped(architecture: str, depth: int) -> None:
    base, given = small(architecture, *(TOP if depth == 1 else HEAD)), batch()
    base.model.eval()
    before = [name for name, _ in base.model.named_modules()]
    expected = logits_of(base.model, given)
    wanted = gradients(base, expected, given)
    split_model.split_at(base, depth)
    inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
    states = split_model.states(base.model, inputs).detach()
    if depth == 2:
        states = states[:, :1]
    found = logits_of(base.model, given | {"features": states})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients(base, found, given).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)
    parts = [logits_of(base.model, part) for part in _chunks(given | {"features": states}, 3)]
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-5, atol=1e-6)
    assert [name for name, _ in base.model.named_modules()] == before


def gradients(base: Backbone, logits: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
    base.model.zero_grad()
    functional.cross_entropy(logits, given["labels"]).backward()
    return {n: p.grad.clone() for n, p in base.model.named_parameters() if p.grad is not None}


def test_a_model_is_whole_again_after_a_failure() -> None:
    base, given = small("bert", *TOP), batch()
    split_model.split_at(base, 1)
    before = [name for name, _ in base.model.named_modules()]
    with pytest.raises(RuntimeError):
        logits_of(base.model, given | {"features": torch.zeros(B, T, 5)})
    assert [name for name, _ in base.model.named_modules()] == before


def test_rows_are_padded_to_their_longest() -> None:
    states = torch.arange(6.0)[:, None].expand(6, 2)
    found = Features(states, np.asarray([0, 3, 4, 6])).batch([2, 1])
    assert found[..., 0].tolist() == [[4, 5], [3, 3]]
    single = Features(states, np.arange(7)).batch([5, 0])
    assert single[..., 0].tolist() == [[5], [0]]


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_a_decoders_frozen_layers_drop_nothing_and_run(
    architecture: str, rows: TokenizedDataset
) -> None:
    """Below its last layer nothing is random, beside its embeddings neither; nothing is cached."""
    known = rows.tokens.fields["input_ids"] % 40 + 5
    rows.tokens = replace(rows.tokens, fields={"input_ids": known})
    base = small(architecture, *TOP)
    frozen_up(base, rows, *TOP)
    assert "features" not in rows.extra_inputs
    base.model.train()
    entered: list[Tensor] = []
    top = base.sites["layer"][-1].module
    top.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    inputs = {k: v for k, v in batch().items() if k != "labels"}
    for _ in range(2):
        base.model(**inputs)
    assert torch.equal(*entered)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "gemma3_text", "opt"])
def test_a_decoders_last_states_are_kept_below_a_head(
    architecture: str, rows: TokenizedDataset
) -> None:
    known = rows.tokens.fields["input_ids"] % 40 + 5
    rows.tokens = replace(rows.tokens, fields={"input_ids": known})
    base = small(architecture, *HEAD)
    plain = rows.batch([3, 9, 0])
    inputs = {name: plain[name] for name in ("input_ids", "attention_mask")}
    base.model.eval()
    expected = base.model(**inputs).logits
    frozen_up(base, rows, *HEAD)
    base.model.train()
    features = rows.batch([3, 9, 0])["features"]
    assert features.shape[:2] == (3, 1)
    found = base.model(**inputs, features=features).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(base.model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert [name for name, p in base.model.named_parameters() if p.grad is not None] == [
        "score.weight"
    ]


def test_a_decoders_head_trains_alike_on_kept_states(tmp_path: Path) -> None:
    lines = (*HEAD, *SHORT, FULL, "model=tiny_llama")
    usual = run_cell(tmp_path / "usual", *lines)
    ours = run_cell(tmp_path / "ours", *lines, "frozen_dropout=false")
    assert same(ours, usual)
    assert near(tmp_path / "ours", tmp_path / "usual")
    assert ours.train_flops < 0.1 * usual.train_flops


@pytest.mark.parametrize("architecture", sorted(ANATOMY))
def test_only_the_prefix_loses_its_dropout(architecture: str, rows: TokenizedDataset) -> None:
    known = rows.tokens.fields["input_ids"] % 40 + 5  # the vocabulary is small
    rows.tokens = replace(rows.tokens, fields={"input_ids": known})
    base = small(architecture, *HEAD)
    frozen_up(base, rows, *HEAD)
    assert ("features" in rows.extra_inputs) == (architecture in (*LAYERED, *DECODERS))
    base.model.eval()
    base.model.train()  # as between evaluations
    inputs = {k: v for k, v in batch().items() if k != "labels"}
    first, second = (base.model.base_model(**inputs).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)
    assert any(module.training for module in base.model.modules())
    if architecture not in ("modernbert", *DECODERS):  # whose heads drop nothing by default
        assert not torch.equal(logits_of(base.model, inputs), logits_of(base.model, inputs))


def test_layers_above_the_prefix_keep_their_dropout(rows: TokenizedDataset) -> None:
    base = applied(*TOP)
    frozen_up(base, rows, *TOP)
    base.model.train()
    layers = [site.module for site in base.sites["layer"]]
    modes = [{m.training for m in layer.modules()} for layer in layers]
    assert modes == [{False}, {False}, {True}]


def test_features_are_what_every_epoch_would_compute(rows: TokenizedDataset) -> None:
    base = applied(*TOP)
    frozen_up(base, rows, *TOP)
    base.model.train()
    index = [3, 9, 0]
    first, second = (rows.batch(index) for _ in range(2))
    assert torch.equal(first["features"], second["features"])
    inputs = {name: first[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    seen = first["attention_mask"].bool()
    with torch.no_grad():
        computed = split_model.states(base.model, inputs)
    torch.testing.assert_close(first["features"][seen], computed[seen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("overrides", [HEAD, TOP, SPARSE], ids=lambda o: o[0])
def test_without_dropout_nothing_changes(overrides: tuple[str, ...], tmp_path: Path) -> None:
    lines = (*overrides, *SHORT, *NO_DROPOUT, FULL)
    usual = run_cell(tmp_path / "usual", *lines)
    ours = run_cell(tmp_path / "ours", *lines, "frozen_dropout=false")
    assert same(ours, usual)
    assert near(tmp_path / "ours", tmp_path / "usual")
    assert ours.train_flops < 0.7 * usual.train_flops
    assert (usual.frozen_dropout, ours.frozen_dropout) == (True, False)
    assert ours == read(tmp_path / "ours")


def same(one: Record, other: Record) -> bool:
    """Whether two runs have the same scores."""
    names = ("test", "test_last", "validation", "best_step", "steps", "params_delta", "params_head")
    return all(getattr(one, n) == pytest.approx(getattr(other, n), abs=1e-5) for n in names)


def near(one: Path, other: Path) -> bool:
    """Whether two runs' deltas agree; but for key biases, whose gradients are noise around zero.

    Adam makes a step of the rate's size of any gradient, so that rounding shows in single weights.
    """
    ours, theirs = (load_file(path / delta.FILE) for path in (one, other))
    assert ours.keys() == theirs.keys()
    names = [name for name in theirs if not name.endswith("key.bias")]
    return all(torch.allclose(ours[n], theirs[n], rtol=0, atol=5e-5) for n in names)


@pytest.mark.parametrize("overrides", [HEAD, TOP], ids=["head", "layers"])
def test_what_is_kept_is_what_would_be_computed(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """With dropout above the prefix, which draws the same numbers either way."""
    caplog.set_level("INFO")
    lines = (*overrides, *SHORT, "frozen_dropout=false", FULL)
    kept = run_cell(tmp_path / "kept", *lines)
    assert "their outputs are cached: train, validation, test" in caplog.text
    monkeypatch.setattr(cached_features, "LIMIT", 0)
    computed = run_cell(tmp_path / "computed", *lines)
    assert "they run in every pass: their outputs take" in caplog.text
    assert same(kept, computed)
    assert near(tmp_path / "kept", tmp_path / "computed")
    assert kept.mfu
    assert computed.mfu
    assert (kept.train_flops or 0) < (computed.train_flops or 0), "the layers ran once"
    run_cell(tmp_path / "usual", *overrides, *SHORT, FULL)
    assert not near(tmp_path / "kept", tmp_path / "usual")


def test_runs_share_one_pass_through_disk(tmp_path: Path, calls: list[int]) -> None:
    first = run_cell(tmp_path / "first", *HEAD, *SHORT, "frozen_dropout=false")
    rows = first.train_rows + first.validation_rows + first.test_rows
    assert sum(calls) == 3 * (rows + PROBE)  # each row once through three layers
    calls.clear()
    again = run_cell(tmp_path / "again", *HEAD, *SHORT, "frozen_dropout=false", "optim.lr=0.1")
    assert calls == 3 * [PROBE]
    same_again = run_cell(tmp_path / "same", *HEAD, *SHORT, "frozen_dropout=false")
    assert (same_again.test, same_again.validation) == (first.test, first.validation)
    assert again.status == "ok"
    run_cell(tmp_path / "mixed", *HEAD, *SHORT, "frozen_dropout=false", MIXED)
    assert sum(calls) == 3 * (rows + 3 * PROBE)  # another arithmetic
    calls.clear()
    run_cell(tmp_path / "mixed again", *HEAD, *SHORT, "frozen_dropout=false", MIXED)
    assert calls == 3 * [PROBE]


def test_larger_states_stay_in_memory(tmp_path: Path, calls: list[int]) -> None:
    record = run_cell(tmp_path / "run", *TOP, *SHORT, "frozen_dropout=false")
    assert not list((tmp_path / "cache").rglob("features/*"))
    once = record.train_rows + record.validation_rows + record.test_rows
    trained = 2 * record.train_rows + 1  # two epochs, and a row to count FLOPs
    scored = 2 * record.validation_rows + record.test_rows
    assert sum(calls) == 2 * once + trained + scored + 3 * PROBE


def test_what_lies_on_disk_is_found_by_all_that_decides_it(rows: TokenizedDataset) -> None:
    def place(overrides: tuple[str, ...] = (), precision: str = "32-true", size: int = 64) -> Path:
        return FrozenLayers(applied(*HEAD, *overrides), 3, precision, size)._place(rows)

    assert place() == place(size=8)
    assert place() == place(("seed=3",))
    others = [("+model.config.num_hidden_layers=2",), ("+model.config.hidden_act=relu",)]
    places = {place(), place(precision="bf16-mixed"), *map(place, others)}
    assert len(places) == 4
    base = applied(*HEAD)
    places.add(FrozenLayers(base, 2, "32-true", 64)._place(rows))
    places.add(FrozenLayers(replace(base, fingerprint="others"), 3, "32-true", 64)._place(rows))
    ids = rows.tokens.fields["input_ids"].copy()
    ids[-1] += 1
    rows.tokens = replace(rows.tokens, fields=rows.tokens.fields | {"input_ids": ids})
    places.add(place())
    rows.tokens = replace(rows.tokens, padding=7)
    places.add(place())
    assert len(places) == 8


@pytest.mark.parametrize("precision", [FULL, MIXED])
@pytest.mark.parametrize("overrides", [HEAD, TOP], ids=["head", "layers"])
def test_inference_gives_the_runs_own_predictions(
    overrides: tuple[str, ...], precision: str, tmp_path: Path
) -> None:
    run_cell(tmp_path / "run", *overrides, *SHORT, precision, "frozen_dropout=false")
    rows = builtin.load("builtin_paraphrase")["validation"]
    texts = ([str(row["sentence1"]) for row in rows], [str(row["sentence2"]) for row in rows])
    own = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    assert torch.equal(restore(tmp_path / "run").logits(texts), torch.tensor(own["scores"]))


def test_without_a_prefix_nothing_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    usual = run_cell(tmp_path / "usual", "method=bitfit", *SHORT)
    ours = run_cell(tmp_path / "ours", "method=bitfit", *SHORT, "frozen_dropout=false")
    told = [line for line in caplog.messages if "frozen_dropout=false changes nothing" in line]
    assert len(told) == 1
    assert same(ours, usual)
    assert near(tmp_path / "ours", tmp_path / "usual")
    assert ours.mfu


def test_albert_has_a_prefix_only_as_a_whole(
    rows: TokenizedDataset,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    base = small("albert", "method=lora")
    frozen_up(base, rows, "method=lora")
    assert "all layers are one" in caplog.text
    base.model.train()
    assert all(module.training for module in base.model.modules())


@pytest.mark.parametrize(
    ("depth", "architecture", "sizes", "reason"),
    [
        (1, "bert", (cached_features.LIMIT - 1, 1), None),
        (1, "bert", (cached_features.LIMIT - 1, 2), f"take {cached_features.LIMIT + 1:,} bytes"),
        (0, "bert", (1, 1), "as quick as memory"),
        (1, "albert", (1, 1), "albert cannot start"),
    ],
)
def test_why_states_are_not_kept(
    depth: int, architecture: str, sizes: tuple[int, int], reason: str | None
) -> None:
    """All splits together must fit; embeddings alone are not worth it."""
    sites = SimpleNamespace(architecture=architecture, decoder=False)
    prefix = SimpleNamespace(depth=depth, backbone=SimpleNamespace(sites=sites), size=int)
    config = SimpleNamespace(task=SimpleNamespace(FUSES=True))
    both = dict(zip(("train", "test"), sizes, strict=True))
    splits: Any = SimpleNamespace(config=config, encoded=both, one_state=True)
    said = CacheFeatures._reason(splits, prefix)  # type: ignore[arg-type]
    assert (said is None) == (reason is None)
    assert (reason or "") in (said or "")


def test_the_training_rows_are_worth_a_pass_from_an_epoch_on(rows: TokenizedDataset) -> None:
    tokens = float(rows.lengths.sum())
    least = {"epochs": 1.0, "steps": 4.0, "examples": 16.0, "tokens": tokens}
    for unit, amount in least.items():
        assert repeats(Budget(unit, amount), rows, 5)
        assert not repeats(Budget(unit, 0.9 * amount), rows, 5)
    assert repeats(Budget("seconds", 0.1), rows, 5)


def test_a_short_budget_leaves_the_training_rows_alone(tmp_path: Path, calls: list[int]) -> None:
    lines = (*HEAD, "data.fraction=1", "budget=steps", "budget.steps=2", "evaluations=1")
    record = run_cell(tmp_path / "run", *lines, "frozen_dropout=false")
    rows = 2 * 32 + 1 + record.validation_rows + record.test_rows
    assert sum(calls) == 3 * (rows + PROBE)


def test_a_trial_does_not_see_the_test_rows(rows: TokenizedDataset) -> None:
    made = callback(rows, "experiment=tune_tiny", "trial=0", "method=head")
    assert made.encoded.keys() == {"train", "validation"}
