"""Out of memory, a run starts over once with half the rows a pass, and nothing else changes."""

import csv
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import METHODS, composed, run_cell
from test_methods import OPTIM, TASK, encoded, tuned  # noqa: F401
from torch import Tensor

from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.methods.compose import Compose
from finegrid.methods.diff_pruning import DiffPruning
from finegrid.models import backbone, surgery
from finegrid.models.backbone import Backbone
from finegrid.runs.record import Record, read
from finegrid.tasks.regression import Regression
from finegrid.tasks.task import Task
from finegrid.training import session
from finegrid.training.components import RunComponents
from finegrid.training.module import FineTuner

SHORT = ("data.fraction=0.2", "data.validation_max=8", "budget.epochs=1", "evaluations=4")
STEPS = ("budget=steps", "budget.steps=2", "evaluations=1", "data.validation_max=50")
NO_DROPOUT = (
    "+model.config.hidden_dropout_prob=0", "+model.config.attention_probs_dropout_prob=0",
)  # fmt: skip
REGRESSION = Regression(name="t", text=["a"], metrics=["pearson"], labels=[])
Limit = Callable[..., None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Let training hold so many rows in a pass, and more only for the first few passes."""

    def apply(rows: int, *, passes: int = 0) -> None:
        plain, left = FineTuner.loss, [passes]

        def loss(self: FineTuner, batch: dict[str, Any]) -> Tensor:
            if len(batch["labels"]) > rows:
                left[0] -= 1
                if left[0] < 0:
                    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
            return plain(self, batch)

        monkeypatch.setattr(FineTuner, "loss", loss)

    return apply


def curve(directory: Path) -> list[tuple[int, float]]:
    """(step, mean training loss) of every validation."""
    with (directory / "curve.csv").open(encoding="utf-8") as file:
        return [(int(line["step"]), float(line["loss"])) for line in csv.DictReader(file)]


def gradients(
    base: Backbone, task: Task, batch: dict[str, Any], micro: int | None
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a batch, in Lightning's order, without dropout or drawn gates."""
    module = FineTuner(base, task, OPTIM, seed=0)
    module.state.micro_batch_size = micro
    module.model.eval()
    optimizer = module.configure_optimizers()
    for _ in range(2):  # the second must not see the first
        loss = module.training_step(batch, 0)
        module.optimizer_zero_grad(0, 0, optimizer)
        loss.backward()
    named = surgery.trainable(base.model).items()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_chunks_add_up(base: Backbone, task: Task, batch: dict[str, Any], *sizes: int) -> None:
    """So many rows at a time give what the batch gives as a whole."""
    loss, whole = gradients(base, task, batch, None)
    assert whole
    scale = max(gradient.abs().max() for gradient in whole.values())
    for micro in sizes:
        found_loss, found = gradients(base, task, batch, micro)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert found.keys() == whole.keys()
        for name, gradient in whole.items():
            assert (found[name] - gradient).abs().max() <= 1e-6 * max(1, scale), name


@pytest.mark.parametrize("name", METHODS)
def test_chunks_have_the_gradient_of_the_batch(name: str, encoded: TokenizedDataset) -> None:  # noqa: F811
    assert_chunks_add_up(tuned(name), TASK, encoded.batch(range(16)), 5)  # 5 + 5 + 5 + 1


def test_chunks_have_the_gradient_of_the_batch_in_regression(encoded: TokenizedDataset) -> None:  # noqa: F811
    base = backbone.build(RunConfig.of(composed()).model, outputs=1, seed=0)
    base.model.requires_grad_(True)
    batch = encoded.batch(range(16))
    batch["labels"] = torch.linspace(-1, 3, 16)
    assert_chunks_add_up(base, REGRESSION, batch, 1, 5, 99)


@pytest.mark.parametrize("options", [("method=full",), ("method=hft", "method.rounds=3")])
def test_half_the_rows_a_pass_is_the_same_run(
    options: tuple[str, ...], limit: Limit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run_cell(tmp_path / "whole", *options, *SHORT, *NO_DROPOUT)
    limit(16, passes=7)  # after a line of the curve
    halves = run_cell(tmp_path / "halves", *options, *SHORT, *NO_DROPOUT)
    assert (halves.status, halves.error) == ("ok", None)
    assert (whole.micro_batch_size, halves.micro_batch_size) == (32, 16)
    assert "out of memory with 32 rows in a pass; starting over with 16" in caplog.text
    assert halves == read(tmp_path / "halves")
    for name in ("cell", "steps", "epochs", "train_flops", "params_delta", "test_hash"):
        assert getattr(halves, name) == getattr(whole, name), name
    tokens = [run.tokens_per_second * run.train_seconds for run in (whole, halves)]
    assert tokens[0] == pytest.approx(tokens[1])
    assert len(curve(tmp_path / "halves")) == 4
    for ours, theirs in zip(curve(tmp_path / "halves"), curve(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_an_odd_batch_is_halved_upwards(limit: Limit, tmp_path: Path) -> None:
    limit(17)
    record = run_cell(tmp_path, "method=bitfit", *STEPS, "data.batch_size=33")
    assert (record.status, record.micro_batch_size) == ("ok", 17)


def test_bf16_autocast_works_in_chunks(limit: Limit, tmp_path: Path) -> None:
    limit(16)
    record = run_cell(tmp_path, "method=houlsby", *STEPS, "trainer.precision=bf16-mixed")
    assert (record.status, record.micro_batch_size) == ("ok", 16)


@pytest.mark.parametrize(
    ("method", "kind"),
    [("diff_pruning", DiffPruning), ("unipelt", Compose)],
)
def test_a_method_acts_once_a_batch(
    method: str, kind: type, limit: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"after_backward": 0, "after_step": 0}

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(kind, name)

        def call(*args: Any) -> Any:
            calls[name] += 1
            return plain(*args)

        return call

    for name in calls:
        monkeypatch.setattr(kind, name, counted(name))
    limit(16)
    record = run_cell(tmp_path, f"method={method}", *STEPS)
    assert (record.status, record.micro_batch_size) == ("ok", 16)
    assert calls == {"after_backward": record.steps, "after_step": record.steps}


def test_the_first_try_is_gone_before_the_second(
    limit: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, made = session.prepare, []

    def prepare(*args: Any, **named: Any) -> RunComponents:
        assert [module() for module in made] == [None] * len(made)
        parts = plain(*args, **named)
        made.append(weakref.ref(parts.module))
        return parts

    monkeypatch.setattr(session, "prepare", prepare)
    limit(16, passes=3)
    assert run_cell(tmp_path, "method=lora", *SHORT).status == "ok"
    assert len(made) == 2


def test_a_second_time_out_of_memory_fails_in_one_line(limit: Limit, tmp_path: Path) -> None:
    limit(4)
    with pytest.raises(UserError, match=r"32 rows in a pass, and again with 16; set a smaller"):
        run_cell(tmp_path, *SHORT)
    record: Record = read(tmp_path)
    assert (record.status, record.micro_batch_size, record.test) == ("failed", 16, None)
    assert record.error.startswith("out of memory")
    assert "\n" not in record.error
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", "record.json"}
