"""Self-training on rows left out: what is estimated, sampled and trained, and what stays unseen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import composed, run_cell
from omegaconf import OmegaConf
from test_losses import batch, criterion

from finegrid.config import RunConfig
from finegrid.data import splits
from finegrid.data.batching import TrainingBatches
from finegrid.data.examples import Examples
from finegrid.errors import UserError
from finegrid.grid import grouping
from finegrid.runs import delta, identity
from finegrid.runs.record import Record
from finegrid.tasks.modules.losses import PHCE
from finegrid.tasks.modules.semi import SEMI, Supervised
from finegrid.training import self_training
from finegrid.training.components import check_settings, prepare

FEW = ("semi=upet", "data.rows=24", "data.batch_size=8", "task=builtin_paraphrase", "model=tiny")
SHORT = (*FEW, "method=bitfit", "budget=steps", "budget.steps=50", "trainer.threads=1")
QUICK = ("semi.passes=2", "evaluations=2")


# --- formulas ------------------------------------------------------------------------------------


def test_phce_is_cross_entropy_until_the_label_is_unlikely() -> None:
    logits, labels = batch()
    tau = 4.0
    p = logits.softmax(-1)[range(8), labels]
    assert (p <= 0.25).any()
    assert (p > 0.25).any()
    expected = torch.where(p > 0.25, -p.log(), -tau * p + np.log(tau) + 1).mean()
    torch.testing.assert_close(criterion(PHCE("phce", tau))(logits, labels), expected)


def test_phce_joins_its_two_parts_smoothly_and_is_bounded() -> None:
    """At p = 1 / tau both have the same value and slope; at p = 0 it is 1 + log tau."""
    loss = criterion(PHCE("phce", 2.0))
    for p, value in ((0.5, np.log(2)), (1e-12, 1 + np.log(2))):
        logits = torch.tensor([[p, (1 - p) / 2, (1 - p) / 2]]).log()
        assert loss(logits, torch.tensor([0])).item() == pytest.approx(value, abs=1e-4)


def test_certainty_is_one_where_all_passes_agree() -> None:
    """And less by the bits that a pass tells: log 2 where they are sure of different classes."""
    drawn = np.array([[[1, 0], [1, 0], [0.5, 0.5]], [[1, 0], [0, 1], [0.5, 0.5]]], dtype=float)
    found = self_training.certainty(drawn)
    assert found == pytest.approx([1, 1 - np.log(2), 1], abs=1e-6)


def test_a_label_is_what_most_passes_say() -> None:
    """Not what the mean says."""
    drawn = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.0, 1.0]]])
    assert drawn.mean(0).argmax(-1).tolist() == [1]
    assert self_training.majority(drawn).tolist() == [0]


def test_sampling_takes_as_many_of_each_class_by_certainty() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0] * 40 + [1] * 4)
    certain = np.r_[np.zeros(20), np.ones(20), np.ones(4)]
    chosen = self_training.sample(labels, certain, 21, classes=2, random=random)
    assert [int((labels[chosen] == c).sum()) for c in (0, 1)] == [10, 10]
    of_first = chosen[labels[chosen] == 0]
    assert of_first.min() >= 20, "never an uncertain one"
    assert len(set(of_first)) == 10, "without replacement, where there are enough"
    assert self_training.sample(labels, certain, 9, classes=3, random=random).shape == (6,)


# --- batches -------------------------------------------------------------------------------------


def test_the_next_batch_is_of_the_rows_that_are_used_now() -> None:
    components = prepare(RunConfig.of(composed(*SHORT)))
    first, second = components.encoded["train"], components.encoded["unlabelled"]
    batches = TrainingBatches(first, batch_size=8, seed=0)
    assert len(batches) > 1e9
    stream = iter(batches)
    sizes = [len(next(stream)["labels"]) for _ in range(4)]
    assert sizes == [8, 8, 8, 8], "endless"
    joined = first.joined(second.take(np.array([3, 1]), np.array([1, 0])))
    assert len(joined) == 26
    batches.use(joined)
    seen = sum(len(next(stream)["labels"]) for _ in range(4))
    assert seen == 26, "an epoch of the new rows"
    last = joined.batch([24, 25])
    expected = second.batch([3, 1])
    assert last["labels"].tolist() == [1, 0]
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(last[name], expected[name])


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A finished run."""
    directory = tmp_path_factory.mktemp("semi") / "run"
    return directory, run_cell(directory, *SHORT, *QUICK)


def test_a_run_divides_its_budget(run: tuple[Path, Record]) -> None:
    _, record = run
    assert (record.status, record.semi) == ("ok", "upet")
    assert record.steps == 50
    assert record.unlabelled_rows > 1000
    assert record.estimated_rows == 40, "0.2 of 50 steps, in 2 passes of 8 rows"
    assert record.pseudo_rows == 10
    assert record.train_rows == 24
    assert record.best_step > 0.6 * 50, "the teacher is no result"


def test_labels_of_rows_left_out_change_nothing(
    run: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = splits.left_out, []

    def permuted(train: Examples, order: Any, task: Any, data: Any) -> Examples:
        rest = np.setdiff1d(np.arange(len(train)), order)
        labels = train.labels.copy()
        labels[rest] = 1 - labels[rest]
        other = train.labelled(range(len(train)), labels)
        assert (other.labels[order] == train.labels[order]).all()
        found = original(other, order, task, data)
        seen.append(found.labels)
        return found

    monkeypatch.setattr(splits, "left_out", permuted)
    record = run_cell(tmp_path / "run", *SHORT, *QUICK)
    assert len(seen) == 1
    assert not seen[0].any(), "none is known"
    directory, wanted = run
    assert record.metrics == wanted.metrics
    assert record.delta_digest == wanted.delta_digest
    assert delta.digest(tmp_path / "run" / delta.FILE) == delta.digest(directory / delta.FILE)


def test_the_student_begins_anew_with_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the switch the weights are those of the first step, and rows, loss and schedule new."""
    seen: dict[str, Any] = {}
    restore, label = self_training.restore, self_training.SelfTraining._labelled_by

    def labelled(self: Any, module: Any, precision: str) -> Any:
        seen["teacher"] = {k: v.clone() for k, v in module.model.state_dict().items()}
        seen["share"] = self.clock.progress
        rows = label(self, module, precision)
        seen["rows"], seen["clock"], seen["spent"] = rows, self.clock, self.clock.progress
        return rows

    def restored(module: Any, values: Any) -> None:
        restore(module, values)
        seen["student"] = {k: v.clone() for k, v in module.model.state_dict().items()}
        seen["module"] = module

    monkeypatch.setattr(self_training.SelfTraining, "_labelled_by", labelled)
    monkeypatch.setattr(self_training, "restore", restored)
    run_cell(tmp_path / "run", *SHORT, *QUICK)
    start = prepare(RunConfig.of(composed(*SHORT))).module.model.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in seen["student"].items())
    assert any(not torch.equal(value, start[key]) for key, value in seen["teacher"].items())
    assert (seen["share"], seen["spent"]) == (0.4, pytest.approx(0.6))
    assert seen["clock"].phase == (pytest.approx(0.6), 1.0)
    assert len(seen["rows"]) == 24 + 10
    assert seen["module"].train_rows is seen["rows"]
    assert "PHCE" in seen["module"].criterion.__qualname__


def test_without_tau_the_student_has_the_runs_loss(
    run: tuple[Path, Record], tmp_path: Path
) -> None:
    plain = run_cell(tmp_path / "run", *SHORT, *QUICK, "semi.tau=null")
    assert plain.estimated_rows == run[1].estimated_rows
    assert plain.delta_digest != run[1].delta_digest


# --- an axis -------------------------------------------------------------------------------------


def test_the_default_makes_the_cells_that_there_were() -> None:
    def cell(*overrides: str) -> str:
        plain: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
        return identity.cell(plain)

    older: Any = OmegaConf.to_container(composed(), resolve=True)
    del older["semi"]
    assert identity.cell(older) == cell() == cell("semi=none")
    assert RunConfig.of(OmegaConf.create(older)).semi == Supervised()
    made = [cell("data.rows=24"), cell("data.rows=24", "semi=upet")]
    made.append(cell("data.rows=24", "semi=upet", "semi.tau=null"))
    assert len(set(made)) == 3


def test_its_cells_go_alone() -> None:
    plain: Any = OmegaConf.to_container(composed(*FEW, "method=bitfit"), resolve=True)
    cell: Any = type("Cell", (), {"config": plain, "key": "x"})()
    assert grouping._kind(cell) == "x"
    plain["semi"] = {"name": "none"}
    assert grouping._kind(cell).startswith("{")


def test_every_option_is_a_use() -> None:
    from finegrid.commands.catalogue import options

    assert set(options("semi")) == set(SEMI)
    for name in SEMI:
        assert RunConfig.of(composed(f"semi={name}")).semi.name == name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.rows=null"], r"data.fraction=1 leaves out none"),
        (["data.rows=0", "head=pattern"], r"data.rows=0 leaves nothing for the teacher"),
        (["task=builtin_similarity"], r"semi=upet does not fit task.kind=regression.*none"),
        (["method=two_stage"], r"two_stage follows one training.*method=lora"),
        (["method=subtuning"], r"subtuning follows one training"),
        (["frozen_dropout=false"], r"frozen_dropout=false switches off"),
        (["budget=seconds"], r"budget=seconds does not tell; use budget=steps"),
        (["semi.teacher_share=0.9"], r"are 1.1 of the budget; leave some"),
        (["semi.passes=1"], r"semi.passes=1 must be at least 2"),
        (["semi.tau=1"], r"semi.tau=1.0 must be above 1"),
        (["semi.sampled=0"], r"semi.sampled=0 must lie in \(0, 1\]"),
        (["+semi.beta=1"], r"unknown key semi.beta"),
    ],
)
def test_what_cannot_be_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_settings(RunConfig.of(composed(*FEW, "method=bitfit", *overrides)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.rows=1260"], "leaves out none of the 1260 training rows"),
        (["semi.passes=40"], r"pays 40 passes over 0 of \d+ rows left out"),
    ],
)
def test_too_few_rows_or_steps_are_one_line(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run_cell(tmp_path / "run", *SHORT, *overrides)
