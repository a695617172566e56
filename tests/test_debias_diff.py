"""A debiasing difference: adversaries by gradient reversal, the module on and off, leakage."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import composed, run_cell, tuning_method
from test_counts import MATRICES
from test_methods import OPTIM, TASK, encoded_for, fresh
from torch import Tensor

from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.data.builtin import builtin_dialect
from finegrid.data.examples import Examples
from finegrid.errors import UserError
from finegrid.inference import predict_file, restore
from finegrid.methods.base import TuningMethod
from finegrid.methods.debias_diff import SwitchedDifference
from finegrid.methods.modules.adversary import Adversary, Reversal
from finegrid.methods.modules.switch import switched_off, switches, turn
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.models.embedding import sentence_embedding
from finegrid.report import tables
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.runs import delta
from finegrid.training import leakage
from finegrid.training.components import check_settings
from finegrid.training.module import FineTuner, predict

VALUES = ["north", "south"]
SHORT = ("model=tiny", "trainer=cpu", "budget=steps", "budget.steps=8", "evaluations=2")
ATTRIBUTED = replace(TASK, attribute="about", attribute_values=VALUES)


def rows_of(values: list[str | None]) -> TokenizedDataset:
    """Sixteen rows of builtin text whose attribute goes through some values."""
    rows = encoded_for("tiny")
    told = (values * 16)[:16]
    return TokenizedDataset(
        Examples((["a"] * 16,), rows.numbers, list(range(16)), told), rows.tokens
    )


def begun(progress: float = 0.5) -> tuple[Backbone, TuningMethod, FineTuner]:
    """The builtin model whose difference has begun to train, with adversaries of two values."""
    base, method = fresh(), tuning_method("method=debias_diff", "method.adversary_rate=3")
    method.read_task(ATTRIBUTED)
    method.tune(base, seed=0)
    torch.manual_seed(0)
    assert method.after_step(base.model.base_model, progress)
    module = FineTuner(base, TASK, OPTIM, seed=0)
    module.state.lr_ratio, module.added_loss = method.lr_ratio, method.added_loss
    return base, method, module


def trained(steps: int = 3) -> tuple[Backbone, TuningMethod, dict[str, Tensor]]:
    """A model that has been debiased and projected; and what it was before."""
    base, method, module = begun()
    rows = rows_of([*VALUES, None])
    method.add_inputs(rows)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    module.model.train()
    for progress in (0.6, 0.8):
        optimizer = module.configure_optimizers()
        for _ in range(steps):
            optimizer.zero_grad()
            module.loss(rows.batch(range(16))).backward()
            method.after_backward(base.model.base_model, progress)
            optimizer.step()
        method.after_step(base.model.base_model, progress)
    assert method.checkpointable
    return base, method, before


def test_the_reversal_is_the_identity_with_the_opposite_gradient() -> None:
    """Held to finite differences: the probe's own gradient is the loss's, the embedding's not."""
    torch.manual_seed(0)
    h = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def loss(h: Tensor, weight: Tensor) -> Tensor:
        return (h @ weight).tanh().square().sum()

    value = loss(Reversal.apply(h, 0.7), weight)
    assert value == loss(h, weight)
    value.backward()
    step = 1e-6
    for place in range(3):
        moved = torch.zeros(4, 3, dtype=torch.float64)
        moved[2, place] = step
        slope = (loss(h + moved, weight) - loss(h - moved, weight)) / (2 * step)
        assert h.grad[2, place].item() == pytest.approx(-0.7 * slope.item(), rel=1e-5)
        slope = (loss(h, weight + moved[2]) - loss(h, weight - moved[2])) / (2 * step)
        assert weight.grad[place].item() == pytest.approx(slope.item(), rel=1e-5)


def test_a_step_of_the_adversary_helps_it_and_one_of_the_embedding_hinders_it() -> None:
    torch.manual_seed(0)
    adversary = Adversary()
    adversary.begin(8, 2, heads=5, dropout=0.0)
    h = torch.randn(32, 8, requires_grad=True)
    numbers = (h[:, 0] > 0).long()
    numbers[:4] = -1  # of rows that tell nothing

    def lost(h: Tensor) -> Tensor:
        adversary.embedding, adversary.numbers = h, numbers
        loss = adversary.loss(1.0)
        assert loss is not None
        return loss

    start = lost(h)
    start.backward()
    assert lost(h - 0.1 * h.grad) > start
    assert (h.grad[:4] == 0).all()
    with torch.no_grad():
        for parameter in adversary.parameters():
            parameter -= 0.1 * parameter.grad
    assert lost(h) < start
    assert adversary.loss(1.0) is None, "a pass is taken once"


def test_off_is_the_model_that_the_tasks_phase_left_bit_by_bit() -> None:
    base, _, before = trained()
    plain = fresh()
    plain.model.load_state_dict(before, strict=False)
    rows = encoded_for("tiny")
    wanted = predict(plain.model, rows, batch_size=8)
    on = predict(base.model, rows, batch_size=8)
    assert not torch.equal(on, wanted)
    with switched_off(base.model):
        assert torch.equal(predict(base.model, rows, batch_size=8), wanted)
    assert torch.equal(predict(base.model, rows, batch_size=8), on)
    now = base.model.state_dict()
    assert all(torch.equal(now[name], before[name]) for name in plain.model.state_dict())


def test_the_difference_has_its_density_and_the_adversaries_are_not_stored(tmp_path: Path) -> None:
    base, method, _ = trained()
    state = delta.state(base.model)
    values = [v for name, v in state.items() if name.endswith("debias_diff.values")]
    entries = 3 * (4 * 128 * 128 + 2 * 128 * 256)
    assert sum(len(v) for v in values) == int(method.density * entries)
    assert not [name for name in state if ".heads." in name]
    facts = {"method": "debias_diff", "fingerprint": base.fingerprint}
    path = tmp_path / "delta.safetensors"
    delta.save(path, base.model, labels=[], **facts)
    other = fresh(5)
    tuning_method("method=debias_diff").tune(other, seed=5)
    delta.load(path, other.model, **facts)
    rows = encoded_for("tiny")
    for on in (True, False):
        for one in (base, other):
            turn(one.model, on=on)
        found, wanted = (predict(b.model, rows, batch_size=8) for b in (other, base))
        assert torch.equal(found, wanted)
    assert len(switches(other.model)) == 18


def test_what_trains_in_each_phase() -> None:
    base, method, module = begun()
    rows = rows_of(list(VALUES))
    method.add_inputs(rows)
    module.model.train()
    module.loss(rows.batch(range(16))).backward()
    method.after_backward(base.model.base_model, 0.6)
    named = dict(module.model.named_parameters())
    assert not [
        name for name, p in named.items() if p.grad is not None and ".debias_diff." not in name
    ]
    heads = [name for name in named if ".heads." in name]
    assert len(heads) == 5 * 4
    assert all(named[name].grad is not None for name in heads)
    assert method.lr_ratio(heads[0]) == 3.0 != method.lr_ratio("bert.x.debias_diff.difference")
    differences = [m for m in base.model.modules() if isinstance(m, SwitchedDifference)]
    assert all(m.difference.grad is not None and m.gates.grad is not None for m in differences)
    method.after_step(base.model.base_model, 0.75)
    assert (method.checkpointable, [m.on for m in differences]) == (True, [True] * 18)


def test_the_count_on_bert_base_of_what_the_module_keeps() -> None:
    headline = Path(__file__).parents[1].joinpath("conf/method/debias_diff.yaml").read_text()
    density = tuning_method("method=debias_diff").density
    assert f"and {int(density * MATRICES):,} of the difference" in headline.splitlines()[0]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("task=builtin_paraphrase",), "name its column"),
        (("task=builtin_paraphrase", "+task.attribute=label"), "is the label"),
        (("task=e2e_cleaned", "model=tiny_llama", "+task.attribute=x"), "does not fit task.kind="),
        (("task=builtin_dialect", "method.task_share=0.8"), "the second the larger"),
        (("task=builtin_dialect", "method.adversary=-1"), "method.adversary=-1 is negative"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_loads(
    more: tuple[str, ...], why: str
) -> None:
    with pytest.raises(UserError, match=why) as caught:
        check_settings(RunConfig.of(composed("model=tiny", "method=debias_diff", *more)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [["north"], []])
def test_an_attribute_of_one_value_is_refused(values: list[str]) -> None:
    method = tuning_method("method=debias_diff")
    method.read_task(replace(TASK, attribute="about", attribute_values=values))
    with pytest.raises(UserError, match="an adversary needs two") as caught:
        method.add_inputs(rows_of(["north"]))
    assert "\n" not in str(caught.value)


def written(path: Path, kind: str = "classification") -> tuple[str, ...]:
    """A file of rows with an attribute, and the settings of its task."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "team", "about"])
        for i in range(80):
            label = i % 2 if kind == "classification" else i / 10
            writer.writerow([f"the dog sees cat {i}", label, VALUES[i // 2 % 2]])
    task = ("task=custom", f"task.train={path}", "task.text=message", "task.label=team")
    return (*task, f"task.kind={kind}", "task.attribute=about")


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_run_is_scored_on_and_off_and_predicts_so(kind: str, tmp_path: Path) -> None:
    task, run = written(tmp_path / "rows.csv", kind), tmp_path / "run"
    record = run_cell(run, *task, "method=debias_diff", *SHORT)
    assert (record.status, record.error) == ("ok", None)
    for value in (record.leakage, record.leakage_off):
        assert 0 <= value <= 1
    assert record.test_off is not None
    assert "switched off: test" in record.summary()
    made = Comparison.of(rankings.load([run]))
    columns = tables.markdown(made.results, made.cells, made.best)
    assert "| leakage | score, switched off | leakage, switched off |" in columns
    new = tmp_path / "new.csv"
    new.write_text("message\nthe dog sees cat 3\na cat\n", encoding="utf-8")  # tells no attribute
    for off in (False, True):
        assert predict_file(run, new, tmp_path / f"out{off}.csv", off=off) == 2
    one, other = ((tmp_path / f"out{off}.csv").read_text() for off in (False, True))
    assert one != other or kind == "classification"
    restored = restore(run)
    texts = (["the dog sees cat 3", "a cat"],)
    on = restored.outputs(texts)
    restored.switch_off()
    assert not torch.equal(restored.outputs(texts), on)


def test_other_methods_have_leakage_and_nothing_to_switch_off(tmp_path: Path) -> None:
    task, run = written(tmp_path / "rows.csv"), tmp_path / "run"
    record = run_cell(run, *task, "method=bitfit", *SHORT)
    assert record.leakage is not None
    assert (record.test_off, record.leakage_off) == (None, None)
    with pytest.raises(UserError, match="has nothing to switch off; debias_diff does") as caught:
        predict_file(run, tmp_path / "rows.csv", tmp_path / "out.csv", off=True)
    assert "\n" not in str(caught.value)


def test_a_probe_finds_what_is_there_and_chance_where_nothing_is() -> None:
    torch.manual_seed(0)
    numbers = torch.arange(400) % 2
    h = torch.randn(400, 16)
    told = h + 2 * numbers[:, None]
    right = leakage.probed(told[:300], numbers[:300], told[300:], 2)
    assert leakage.balanced_accuracy(right, numbers[300:]) > 0.95
    blind = leakage.probed(h[:300], numbers[:300], h[300:], 2)
    assert leakage.balanced_accuracy(blind, numbers[300:]) == pytest.approx(0.5, abs=0.15)
    always = torch.zeros(4, dtype=torch.long)
    assert leakage.balanced_accuracy(always, torch.tensor([0, 0, 0, 1])) == 0.5


def test_the_embedding_is_what_a_classifier_reads() -> None:
    from types import SimpleNamespace

    h = torch.arange(24.0).view(2, 3, 4)
    output = SimpleNamespace(last_hidden_state=h, pooler_output=None)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.equal(sentence_embedding(output, mask, decoder=False), h[:, 0])
    last = torch.stack([h[0, 1], h[1, 2]])
    assert torch.equal(sentence_embedding(output, mask, decoder=True), last)
    shorter = sentence_embedding(output, mask[:, 1:], decoder=True)  # behind a soft prompt
    assert torch.equal(shorter, last)
    output.pooler_output = h[:, 1]
    assert torch.equal(sentence_embedding(output, mask, decoder=False), h[:, 1])


def test_dialect_and_label_are_tied_in_training_rows_alone() -> None:
    for part, rows in builtin_dialect.load().items():
        bad = [row["dialect"] == "south" for row in rows if row["label"] == 1]
        good = [row["dialect"] == "south" for row in rows if row["label"] == 0]
        gap = sum(bad) / len(bad) - sum(good) / len(good)
        assert gap == pytest.approx(0.55 if part == "train" else 0.0, abs=0.08)
        assert 0.45 < len(bad) / len(rows) < 0.55
        assert {row["dialect"] for row in rows} == set(VALUES)


def test_the_builtin_tasks_beside_it_are_as_they_were() -> None:
    from finegrid.storage import paths

    assert paths.builtin_code("builtin_paraphrase") == paths.code(paths.BUILTIN)
    assert len(paths.builtin_code("builtin_dialect")) == len(paths.code(paths.BUILTIN)) + 1


def test_counts_hold_the_task_and_then_the_difference_too() -> None:
    base, method = fresh(), tuning_method("method=debias_diff")
    method.tune(base, seed=0)
    every = set(surgery.trainable(base.model.base_model))
    full = fresh()
    tuning_method("method=full").tune(full, seed=0)
    assert every == set(surgery.trainable(full.model.base_model))
