"""Finished runs of finegrid 0.6 are read, predict and are exported as they were then.

The runs were trained once by the code of that version: scripts/make_golden_runs.py.
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT

from finegrid.data.loading import load
from finegrid.data.splits import split
from finegrid.export import export
from finegrid.inference import restore
from finegrid.report.load.rankings import results
from finegrid.runs.record import read

RUNS = sorted((ROOT / "tests/golden/runs06").iterdir())


@pytest.mark.usefixtures("all_test_rows")
@pytest.mark.parametrize("directory", RUNS, ids=lambda path: path.name)
def test_a_run_computes_what_it_computed_then(directory: Path) -> None:
    restored = restore(directory)
    stored = json.loads((directory / "logits.json").read_text(encoding="utf-8"))
    logits = restored.logits(tuple(stored["texts"]))
    torch.testing.assert_close(logits, torch.tensor(stored["logits"]), atol=1e-5, rtol=0)

    task, tables = load(restored.task, restored.config.data)
    test = split(tables, task, restored.config.data).test["test"]
    scores = pq.read_table(directory / "predictions.parquet").to_pydict()
    assert (scores["idx"], scores["label"]) == (list(test.idx), test.labels.tolist())
    logits = restored.logits(test.texts)
    torch.testing.assert_close(logits, torch.tensor(scores["scores"]), atol=1e-5, rtol=0)


def test_the_report_reads_their_records() -> None:
    read_now = results([ROOT / "tests/golden/runs06"])
    assert len(read_now.runs) == len(RUNS)
    scores = dict(zip(read_now.runs["directory"], read_now.runs["test"], strict=True))
    for directory in RUNS:
        values = json.loads((directory / "record.json").read_text(encoding="utf-8"))
        assert values["versions"]["finegrid"] == "0.6.0"
        assert scores[str(directory)] == values["test"] == read(directory).test


@pytest.mark.parametrize(("run", "to"), [("bitfit", "merged"), ("lora", "peft")])
def test_they_are_exported(run: str, to: str, tmp_path: Path) -> None:
    if to == "peft":
        pytest.importorskip("peft")
    shutil.copytree(ROOT / "tests/golden/runs06" / run, tmp_path / "run")
    assert "verified: loaded back" in export(tmp_path / "run", to, tmp_path / "out")
