"""The seam for kinds of task: a third kind is one file, and no other file asks for the kind."""

import ast
import csv
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, composed, run_cell

from finegrid import tasks
from finegrid.config import bind_task
from finegrid.errors import UserError
from finegrid.inference import predict_file
from finegrid.report import tables
from finegrid.report.load import rankings
from finegrid.report.stats import compare
from finegrid.runs.spec import RunSpec
from finegrid.strategies.fused_trainer import run_together
from finegrid.tasks.modules.registry import kinds

SRC = ROOT / "src/finegrid"
ORDINAL = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from finegrid.errors import require
from finegrid.tasks.task import Task


@dataclass
class Ordinal(Task):
    """Levels 0, 1, ... in their order: one logit for each step from a level to the next."""

    levels: int = 2

    METRICS: ClassVar[tuple[str, ...]] = ("mae",)
    PROBLEM_TYPE: ClassVar[str] = "multi_label_classification"

    @property
    def outputs(self):
        return self.levels - 1

    def read_labels(self, values, where, *, typed):
        for row, value in enumerate(values, start=1):
            good = value is not None and value.isdigit() and int(value) < self.levels
            require(good, f"{where}, row {row}: {value!r} is no level")
        return np.asarray([int(value) for value in values])

    def loss(self, logits, labels):
        import torch

        above = labels[:, None] > torch.arange(self.outputs)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, above.float())

    def predictions(self, logits):
        return (logits > 0).sum(-1)

    def metric(self, name, predicted, labels):
        return -float((predicted - labels).abs().float().mean())
'''
SETTINGS = ("task=custom", "task.kind=ordinal", "+task.levels=4", "task.metrics=[mae]",
            "task.text=[text]", "task.label=level", "budget=steps", "budget.steps=2",
            "evaluations=1", "data.batch_size=4")  # fmt: skip


@pytest.fixture
def ordinal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kind in a file of its own, and a user's file of rows for it."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "ordinal.py").write_text(ORDINAL, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "finegrid.tasks.ordinal", raising=False)
    rows = tmp_path / "rows.csv"
    lines = [f"the film is {'very ' * (n % 4)}good,{n % 4}" for n in range(60)]
    rows.write_text("\n".join(["text,level", *lines]), encoding="utf-8")
    return rows


def test_a_third_kind_is_one_file(ordinal: Path, tmp_path: Path) -> None:
    """It trains, is scored, leaves predictions and predicts a file like the others."""
    directory, out = tmp_path / "run", tmp_path / "out.csv"
    record = run_cell(directory, *SETTINGS, f"task.train={ordinal}")
    assert (record.status, record.metric, record.positive) == ("ok", "mae", None)
    table = pq.read_table(directory / "predictions.parquet").to_pydict()
    assert {len(scores) for scores in table["scores"]} == {3}
    pairs = zip(table["label"], table["prediction"], strict=True)
    errors = [abs(label - prediction) for label, prediction in pairs]
    assert record.test == pytest.approx(-sum(errors) / len(errors))
    assert predict_file(directory, ordinal, out) == 60
    with out.open(encoding="utf-8") as file:
        assert {row["prediction"] for row in csv.DictReader(file)} <= set("0123")


def test_a_third_kind_shares_passes_and_is_reported(ordinal: Path, tmp_path: Path) -> None:
    settings, specs = [*SETTINGS, f"task.train={ordinal}"], []
    for method in ("method=bitfit", "method=lora"):
        (tmp_path / method).mkdir()
        spec = RunSpec.of(composed(*settings, method), tmp_path / method, [method], sweep="s")
        specs.append(spec)
    run_together(specs, most=2)
    found = rankings.results([tmp_path])
    assert found.runs["fused"].tolist() == [2, 2]
    cells = compare.cells(found)
    text = tables.markdown(found, cells, compare.against_best(found))
    assert f"### {tmp_path.name}, tiny: mae" in text
    assert cells["mean"].notna().all()


def test_a_kind_has_options_of_its_own(ordinal: Path) -> None:
    task = bind_task(composed(*SETTINGS, f"task.train={ordinal}").task)
    assert task.outputs == 3
    with pytest.raises(UserError, match=r"unknown key task\.levels"):
        bind_task(composed("task=mrpc", "+task.levels=4").task)


def test_an_unknown_kind_is_one_line() -> None:
    assert {"choice", "classification", "generation", "regression"} <= {*kinds()}
    with pytest.raises(UserError, match=r"task\.kind=regresion is unknown; did you mean 'regress"):
        bind_task(composed("task=stsb", "task.kind=regresion").task)


def test_no_other_file_asks_for_the_kind() -> None:
    for path in sorted({*SRC.rglob("*.py")} - {*(SRC / "tasks").rglob("*.py")}):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                assert "task.kind" not in ast.unparse(node), path
            if isinstance(node, ast.Constant):
                assert node.value not in kinds(), path
