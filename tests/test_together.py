"""Runs that share passes through one backbone: each as if it were alone."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FUSING, composed, run_cell, tuning_method
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from finegrid.config import RunConfig
from finegrid.kernels.dropout import draw_from, patch_dropout
from finegrid.kernels.optimize import optimize
from finegrid.methods.base import TuningMethod
from finegrid.models import backbone
from finegrid.models.backbone import Backbone
from finegrid.models.layered import LAYERED
from finegrid.runs import delta
from finegrid.runs.record import Record, read
from finegrid.runs.spec import RunSpec
from finegrid.strategies import fused_model, fused_trainer
from finegrid.strategies.fused_model import FusedBackbone, UnfusableError
from finegrid.strategies.fused_trainer import run_together
from finegrid.training.module import logits_of

SHORT = ("data.fraction=0.05", "data.validation_max=50", "budget.epochs=2", "evaluations=2")


@pytest.fixture(scope="module")
def base() -> Backbone:
    return backbone.build(RunConfig.of(composed("model=tiny")).model, outputs=2, seed=0)


def tuned(base: Backbone, name: str, seed: int) -> Backbone:
    """A run's backbone, moved off its start so that everything in it matters."""
    run = base.sharing(seed=seed)
    optimize(run.model)
    tuning_method(f"method={name}").tune(run, seed=seed)
    run.own()
    run.model.eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return run


def batch(rows: int, width: int, *, ids: int = 600) -> dict[str, Tensor]:
    """Random texts of which some are shorter than the others."""
    tokens = torch.randint(5, ids, (rows, width))
    seen = torch.ones_like(tokens)
    seen[0, width // 2 :] = 0
    seen[-1, -1] = 0
    labels = torch.randint(0, 2, (rows,))
    return {"input_ids": tokens * seen, "attention_mask": seen, "labels": labels}


def gradients(
    run: Backbone, logits: Tensor, batch: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    run.model.zero_grad(set_to_none=True)
    functional.cross_entropy(logits, batch["labels"]).backward()
    return grads_of(run)


def grads_of(run: Backbone) -> dict[str, Tensor | None]:
    named = run.model.named_parameters()
    return {name: p.grad for name, p in named if p.requires_grad}


def close(one: Mapping[str, Tensor | None], other: Mapping[str, Tensor | None]) -> None:
    """Gradients equal to 1e-5 of the largest one's norm."""
    assert one.keys() == other.keys()
    scale = max(float(g.norm()) for g in other.values() if g is not None)
    for name, grad in other.items():
        mine = one[name]
        if grad is None or mine is None:
            assert (grad is None) == (mine is None), name
        else:
            assert float((mine - grad).norm()) <= 1e-5 * max(float(grad.norm()), 1e-3 * scale), name


@pytest.mark.parametrize("name", FUSING)
def test_gradients_are_those_of_separate_runs(base: Backbone, name: str) -> None:
    runs = [tuned(base, name, 1), tuned(base, "bitfit", 2), tuned(base, name, 3)]
    batches = {0: batch(3, 7), 1: batch(5, 11), 2: batch(2, 9)}
    logits = FusedBackbone(base, runs)(batches)
    losses = [functional.cross_entropy(logits[k], batches[k]["labels"]) for k in batches]
    torch.stack(losses).sum().backward()
    for number, run in enumerate(runs):
        fused = {k: None if g is None else g.clone() for k, g in grads_of(run).items()}
        alone = logits_of(run.model, batches[number])
        torch.testing.assert_close(logits[number], alone, rtol=1e-5, atol=1e-6)
        close(fused, gradients(run, alone, batches[number]))


def test_a_run_may_be_missing_from_a_pass(base: Backbone) -> None:
    runs = [tuned(base, "lora", seed) for seed in range(3)]
    own = batch(4, 6)
    logits = FusedBackbone(base, runs)({2: own})
    assert logits.keys() == {2}
    torch.testing.assert_close(logits[2], logits_of(runs[2].model, own))


@pytest.mark.parametrize("name", ["bitfit", "houlsby", "lora"])
def test_dropout_is_a_runs_own(base: Backbone, name: str) -> None:
    runs = [tuned(base, name, seed) for seed in range(2)]
    batches = {0: batch(3, 7), 1: batch(5, 12)}

    def begin() -> None:
        for number, run in enumerate(runs):
            run.model.train()
            patch_dropout(run.model)
            draw_from(run.model, np.random.SFC64(number))

    begin()
    fused = FusedBackbone(base, runs)(batches)
    begin()
    for number, run in enumerate(runs):
        alone = logits_of(run.model, batches[number])
        torch.testing.assert_close(fused[number], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", LAYERED)
def test_every_architecture_named_can_be_shared(architecture: str) -> None:
    small = {"vocab_size": 50, "max_position_embeddings": 40}
    if architecture == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    else:
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes = dict(zip(names, (32, 2, 4, 64), strict=True))
    cfg = composed("model=tiny", "model.pretrained=false", "model.path=none")
    cfg.model.architecture = {"model_type": architecture, **small, **sizes}
    made = backbone.build(RunConfig.of(cfg).model, outputs=2, seed=0)
    runs = [tuned(made, "bitfit", 1), tuned(made, "lora", 2)]
    batches = {0: batch(3, 7, ids=50), 1: batch(4, 5, ids=50)}
    logits = FusedBackbone(made, runs)(batches)
    for number, run in enumerate(runs):
        torch.testing.assert_close(
            logits[number], logits_of(run.model, batches[number]), rtol=1e-5, atol=1e-6
        )


def test_what_changes_the_backbone_as_a_whole_is_refused(base: Backbone) -> None:
    with pytest.raises(UnfusableError, match="changes the backbone as a whole"):
        FusedBackbone(base, [tuned(base, "prompt", 1), tuned(base, "bitfit", 2)])


def test_only_what_trains_has_memory_of_its_own(base: Backbone) -> None:
    run = tuned(base, "bitfit", 1)
    before = {name: p.data_ptr() for name, p in base.model.base_model.named_parameters()}
    for name, parameter in run.model.base_model.named_parameters():
        assert (parameter.data_ptr() == before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("name", FUSING)
def test_what_fuses_neither_chooses_nor_changes_on_the_way(name: str, base: Backbone) -> None:
    method = tuning_method(f"method={name}")
    members = getattr(method, "each", (method,))
    for member in members:
        for hook in ("choose", "after_step", "after_backward"):
            assert getattr(type(member), hook) is getattr(TuningMethod, hook)
        assert member.positions == 0
    run = tuned(base, name, 1)
    inside = dict(base.model.base_model.named_parameters())
    trained = {n for n, p in run.model.base_model.named_parameters() if p.requires_grad}
    assert all(inside[n].ndim == 1 for n in trained & inside.keys())


def request(directory: Path, *overrides: str) -> RunSpec:
    directory.mkdir(parents=True, exist_ok=True)
    return RunSpec.of(composed(*overrides), directory, overrides, sweep="sweep")


LINES = [
    ("method=bitfit", "seed=0", "score_last=true", *SHORT),
    ("method=bitfit", "seed=1", *SHORT),
    ("method=lora", "method.dropout=0.1", "seed=1", *SHORT),
    (
        "method=houlsby",
        "seed=0",
        "data.fraction=0.03",
        "data.validation_max=50",
        "budget.epochs=1",
        "evaluations=2",
    ),
]
OWN = ("seconds", "per_second", "memory_bytes", "mfu", "rate", "started", "finished", "fused")


def result(record: Record) -> dict[str, Any]:
    """What of a record must not depend on the company."""
    return {key: value for key, value in vars(record).items() if not key.endswith(OWN)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `LINES`, fused."""
    root = tmp_path_factory.mktemp("shared")
    run_together([request(root / str(n), *line) for n, line in enumerate(LINES)], most=4)
    return root


def test_a_run_does_not_feel_its_neighbours(shared: Path, tmp_path: Path) -> None:
    for number, line in enumerate(LINES):
        fused = read(shared / str(number))
        alone = run_cell(tmp_path / f"alone{number}", *line)
        assert (fused.status, fused.fused, alone.fused) == ("ok", 4, 1)
        assert fused.command.endswith(shlex.join(fused.overrides)), "its own command, not the job's"
        expected = result(alone) | {"command": fused.command, "overrides": fused.overrides}
        for key, value in result(fused).items():
            near = isinstance(value, float)
            assert value == (pytest.approx(expected[key], rel=1e-4) if near else expected[key]), key
        places = (shared / str(number), tmp_path / f"alone{number}")
        ours, theirs = (load_file(place / delta.FILE) for place in places)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)
        names, others = ({path.name for path in place.iterdir()} for place in places)
        assert names == others - {".hydra"}


def test_validation_and_test_are_as_of_a_run_alone(shared: Path) -> None:
    first, *others = (read(shared / str(n)) for n in range(4))
    assert first.test_last is not None
    assert all(record.test_last is None for record in others)
    passes = [(r.evaluations, r.evaluations_planned) for r in (first, *others)]
    assert passes == [(2, 2)] * 3 + [(1, 2)], "two at least are planned; the last trains one step"


def test_costs_are_shared_out(shared: Path) -> None:
    records = [read(shared / str(n)) for n in range(4)]
    assert all(r.train_seconds > 0 and r.setup_seconds > 0 and r.mfu for r in records)
    assert all(r.train_cpu_seconds and r.train_cpu_seconds > 0 for r in records)
    assert records[3].train_seconds < records[0].train_seconds  # it trained on less, and less long


def test_a_steps_seconds_are_divided_by_the_tokens_of_those_in_it() -> None:
    credits: dict[int, tuple[float, float]] = {}

    def lane(number: int) -> Any:
        clock = SimpleNamespace(credit=lambda *spent: credits.update({number: spent}))
        return SimpleNamespace(watch=SimpleNamespace(clock=clock))

    batches = {0: {"input_ids": torch.zeros(2, 3)}, 2: {"input_ids": torch.zeros(4, 6)}}
    fused_trainer._share((10.0, 5.0), [lane(number) for number in range(3)], batches)
    assert credits == {0: (2.0, 1.0), 2: (8.0, 4.0)}


def test_a_step_sums_the_losses_of_the_runs_that_still_train() -> None:
    """A mean would divide each run's gradient by their number."""

    def lane(over: bool) -> Any:
        module = SimpleNamespace(loss_of=lambda logits, batch: logits * batch)
        return SimpleNamespace(module=module, over=over)

    fused: Any = SimpleNamespace(
        members=[lane(False), lane(True), lane(False)],
        fused=lambda batches: {run: torch.tensor(float(run + 1)) for run in batches},
    )
    loss = fused_trainer.FusedModule.training_step(fused, {0: 2.0, 1: 5.0, 2: 7.0}, 0)  # type: ignore[dict-item]
    assert loss.item() == 1 * 2 + 3 * 7
    assert {run: loss.item() for run, loss in fused.losses.items()} == {0: 2.0, 2: 21.0}


def test_batches_of_unlike_size_are_laid_out_one_after_the_other() -> None:
    packed = fused_model.PackedBatch()
    batches = {3: {"input_ids": torch.zeros(2, 5)}, 1: {"input_ids": torch.zeros(4, 3)}}
    packed.pack(batches)
    assert packed.sizes == [10, 12]
    parts = [torch.randn(2, 5, 7), torch.randn(4, 3, 7)]
    joined = packed.join(parts)
    assert joined.shape == (1, 22, 7)
    assert all(map(torch.equal, packed.split(joined), parts))


def test_set_up_and_memory_are_divided_by_the_number_of_runs() -> None:
    """10 s from the first run's beginning to training, of which 2 and 3 were the runs' own."""
    ends: list[Any] = []

    def lane(prepared: float, started: float) -> Any:
        record = SimpleNamespace(peak_memory_bytes=None, setup=None, fused=1)

        def score(parts: Any, watch: Any, *, setup: float) -> None:
            record.setup, record.peak_memory_bytes = setup, 1001

        return SimpleNamespace(
            prepared=prepared, over=False, components=None, dispatch=lambda hook: None,
            end=ends.append,
            session=SimpleNamespace(started=started, record=record, score=score),
            watch=SimpleNamespace(clock=SimpleNamespace(started=100.0)),
        )  # fmt: skip

    lanes = [lane(2.0, 90.0), lane(3.0, 95.0)]
    for one in lanes:
        fused_trainer._finish(one, lanes)
    records = [one.session.record for one in lanes]
    assert [(r.setup, r.peak_memory_bytes, r.fused) for r in records] == [
        (4.5, 500, 2), (5.5, 500, 2),
    ]  # fmt: skip
    assert ends == [None, None]


def test_so_many_runs_share_a_pass_and_a_single_one_goes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[list[RunSpec]] = []
    alone: list[RunSpec] = []

    def train(requests: list[RunSpec], base: Backbone) -> list[RunSpec]:
        shared.append(requests)
        return requests[:1] if len(shared) == 2 else []  # one of the second pass is left over

    monkeypatch.setattr(fused_trainer, "_train_together", train)
    monkeypatch.setattr(fused_trainer, "run_alone", alone.append)
    made = [request(tmp_path / str(n), "trainer=cpu") for n in range(5)]
    run_together(made, most=2)
    assert shared == [made[:2], made[2:4]]
    assert alone == [made[2], made[4]]
    rows = SimpleNamespace(lengths=np.full(7, 16))
    monkeypatch.setattr(fused_trainer, "rows_of", lambda *_: (None, None, {"train": rows}))
    assert fused_trainer._runs_of_a_pass(made[0]) == 2048 // (16 * 32)


def test_a_diverging_run_ends_alone(tmp_path: Path) -> None:
    lines = [LINES[0], (*LINES[1], "optim.lr=1e30", "optim.clip=0", "optim.warmup=0"), LINES[2]]
    run_together([request(tmp_path / str(n), *line) for n, line in enumerate(lines)], most=3)
    assert [read(tmp_path / str(n)).status for n in range(3)] == ["ok", "diverged", "ok"]
    alone = run_cell(tmp_path / "alone", *LINES[0])
    assert read(tmp_path / "0").test == pytest.approx(alone.test)


def test_a_run_that_cannot_begin_leaves_the_others(tmp_path: Path) -> None:
    lines = [LINES[0], ("method=lora", "method.rank=9999", *SHORT), LINES[1]]
    run_together([request(tmp_path / str(n), *line) for n, line in enumerate(lines)], most=3)
    records = [read(tmp_path / str(n)) for n in range(3)]
    assert [(r.status, r.fused) for r in records] == [("ok", 2), ("failed", 1), ("ok", 2)]
    assert "method.rank" in str(records[1].error)


def test_when_a_pass_fails_the_runs_go_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(self: FusedBackbone, batches: Any) -> Any:
        calls.append(len(batches))
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(fused_trainer.FusedBackbone, "__call__", broken)
    run_together([request(tmp_path / str(n), *line) for n, line in enumerate(LINES[:2])], most=2)
    assert calls == [2]
    assert [(read(tmp_path / str(n)).status, read(tmp_path / str(n)).fused) for n in range(2)] == [
        ("ok", 1),
        ("ok", 1),
    ]
