"""Multi-label classification: labels in files, thresholds, scores, statistics, other libraries."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed, run_cell, write_lines
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

import finegrid
from finegrid.config import DataConfig, bind, bind_task, to_plain
from finegrid.data import splits
from finegrid.data.examples import read_rows
from finegrid.data.loading import load
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.inference import predict_file, restore
from finegrid.report.load import rankings
from finegrid.report.load.outcomes import of_run, stored
from finegrid.report.stats import compare, sums
from finegrid.report.stats.scores import evidence
from finegrid.runs.spec import RunSpec
from finegrid.strategies.fused_trainer import run_together
from finegrid.tasks.multilabel import TRIED, Multilabel

NAMES = ["boss", "gift", "judge"]
SETTINGS = ("task=custom", "task.kind=multilabel", "task.text=text", "task.label=label",
            "budget=steps", "budget.steps=40", "evaluations=2", "data.batch_size=16",
            "optim.lr=1e-3", "method=full", "trainer.threads=1")  # fmt: skip
TASK = Multilabel("t", ["text"], ["micro_f1", "macro_f1"], labels=NAMES, kind="multilabel")


def rows(count: int) -> list[dict[str, Any]]:
    """Sentences, and which of three words are in them."""
    made = []
    for n in range(count):
        names = [name for place, name in enumerate(NAMES) if (n * 7 + n // 5) >> place & 1]
        made.append(
            {"text": f"The lawyer and {' and '.join(names) or 'thief'} left.", "label": names}
        )
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("rows") / "words.jsonl", rows(120))


@pytest.fixture(scope="module")
def trained(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    run_cell(directory, *SETTINGS, f"task.train={file}")
    return directory


def test_scores_are_those_of_the_stored_sets(trained: Path) -> None:
    """scikit-learn finds the same from label and prediction, and the logits give the latter."""
    record = finegrid.load(trained).record
    table = pq.read_table(trained / "predictions.parquet").to_pydict()
    binary = MultiLabelBinarizer(classes=NAMES)
    gold, ours = binary.fit_transform(table["label"]), binary.transform(table["prediction"])
    for name in ("micro", "macro"):
        found = f1_score(gold, ours, average=name, zero_division=0)
        assert record.metrics["test"][f"{name}_f1"] == pytest.approx(found)
    assert record.test == record.metrics["test"]["mean"] > 0.3
    assert ((np.asarray(table["scores"]) >= 0) == ours.astype(bool)).all()
    assert (record.threshold, record.threshold_chosen) == (0.5, False)
    assert record.truncated == {"train": 0, "validation": 0, "test": 0}
    counts = np.asarray(table["stat_classes"])
    assert (counts == np.concatenate([ours * gold, ours, gold], axis=1)).all()


def test_a_run_predicts_sets(trained: Path, file: Path, tmp_path: Path) -> None:
    run = finegrid.load(trained)
    made = run.predict(["The boss left.", "The thief left."])
    assert list(made) == ["prediction", *NAMES]
    assert all(isinstance(names, list) for names in made["prediction"])
    logits = restore(trained).logits((["The boss left."],))
    assert made.loc[0, NAMES].tolist() == pytest.approx(logits.sigmoid()[0].tolist(), abs=1e-6)
    out = tmp_path / "out.csv"
    assert predict_file(trained, file, out) == 120
    assert '"score_boss"' in out.read_text(encoding="utf-8").splitlines()[0]


def test_an_exported_model_says_what_its_logits_mean(trained: Path, tmp_path: Path) -> None:
    assert "verified" in export(trained, "merged", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(n): name for n, name in enumerate(NAMES)}


def test_a_threshold_is_chosen_on_validation(file: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, f"task.train={file}", "budget.steps=4", "task.threshold=validation")
    record = run_cell(tmp_path, *settings)
    assert record.threshold in TRIED
    assert record.threshold_chosen is True
    table = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    logits = torch.tensor(table["scores"])
    at = torch.tensor(record.threshold).logit()
    assert [len(names) for names in table["prediction"]] == (logits >= at).sum(1).tolist()
    assert restore(tmp_path).task.threshold == record.threshold


def test_the_chosen_threshold_scores_highest() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    logits = torch.where(labels > 0, -1.0, -2.0)  # right, but all below one half
    task = replace(TASK, threshold="validation")
    assert task.score(logits, labels)["mean"] == 0
    chosen = task.calibrated(logits, labels)
    assert chosen.score(logits, labels)["mean"] == 1
    assert chosen.facts() == {"threshold": 0.25, "threshold_chosen": True}, "the nearest to 0.5"


@pytest.mark.parametrize(
    "text",
    [
        'text,label\na,"boss,gift"\nb,[]\nc,judge\n',
        "text,label\na,gift;boss\nb,\"[]\"\nc,judge\n",
        "text,label\na,\"['boss', 'gift']\"\nb,[]\nc,\"['judge']\"\n",
        "text,boss,gift,judge\na,1,1,0\nb,0,0,0\nc,0,0,1\n",
        "text,boss,gift,judge\na,true,True,0.0\nb,0,no,false\nc,0,0,yes\n",
    ],
)  # fmt: skip
def test_labels_are_lists_or_columns(text: str, tmp_path: Path) -> None:
    several = "boss" in text.splitlines()[0]
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    label = "[boss,gift,judge]" if several else "label"
    given = (f"task.train={path}", f"task.label={label}", f"task.labels=[{','.join(NAMES)}]")
    cfg = composed(*SETTINGS, *given)
    task = bind_task(cfg.task)
    _, tables = load(task, bind(DataConfig, cfg.data, "data"))
    assert read_rows(tables.train, task, "x").labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


BAD = {
    "no such class": ('{"text": "a", "label": ["bos"]}', ["task.labels=[boss,gift]"],
                      "row 1: class bos must be one of boss, gift"),
    "no list": ('{"text": "a", "label": {"b": 1}}', [], r"row 1: label .* is no list of classes"),
    "a set": ('{"text": "a", "label": "{\'x\'}"}', [], r"label \{'x'\} is no list that can be"),
    "a tuple": ('{"text": "a", "label": "(\'x\', 1)"}', [], "is no list that can be read; write"),
    "bare names": ('{"text": "a", "label": "[x, y]"}\n{"text": "b", "label": "x"}', [],
                   r"row 1: label \[x, y\] is no list that can be read"),
    "alike": ('{"text": "a", "label": ["x", "x\\u200b"]}', [], "classes that look alike"),
    "missing": ('{"text": "a", "label": ["x"]}\n{"text": "b"}', [], "row 2: label is missing"),
    "a nested list": ('{"text": "a", "label": [["x"]]}', [], r"row 1: class \['x'\] must be"),
    "one class": ('{"text": "a", "label": ["x"]}', [], "1 classes; two or more are needed"),
    "a flag": ('{"text": "a", "x": 1, "y": 2}', ["task.label=[x,y]"],
               "row 1: column 'y' holds '2'; 0 or 1 is needed"),
    "a column": ('{"text": "a", "x": 1, "y": 0}', ["task.label=[x,z]"], "no column 'z'"),
    "a threshold": ("", ["task.threshold=1.5"], r"task.threshold=1.5 must lie in \(0, 1\)"),
    "a positive class": ("", ["task.positive=x"], "task.positive is for F1 of one class"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "more", "why"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_one_line(
    text: str, more: list[str], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text or '{"text": "a", "label": []}', encoding="utf-8")
    with pytest.raises(UserError, match=why) as caught:
        run_cell(tmp_path / "run", *SETTINGS, f"task.train={path}", *more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["x", "x;y", '[""x""', "[x]"])
def test_lists_and_texts_in_one_column_are_refused(other: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f'text,label\na,"[""x"", ""y""]"\nb,"{other}"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"row 2: column 'label' holds .* list"):
        run_cell(tmp_path / "run", *SETTINGS, f"task.train={path}")


def test_several_label_columns_are_for_this_kind_alone() -> None:
    with pytest.raises(UserError, match=r"task\.label=.* must name one column"):
        bind_task({**to_plain(composed("task=mrpc").task), "label": ["a", "b"]})


def test_splits_and_fractions_have_their_share_of_a_rare_class() -> None:
    labels = np.zeros((1000, 3), np.int8)
    labels[:, 0] = 1
    labels[::4, 1] = 1
    labels[::100, 2] = 1  # ten rows
    order = splits.stratified_order(TASK.strata(labels), seed=0)
    for size in (100, 200, 500):
        assert labels[order[:size], 2].sum() == size // 100
    assert TASK.class_counts(labels) == {0: 1000, 1: 250, 2: 10}


def test_runs_share_passes(file: Path, tmp_path: Path) -> None:
    settings, alone = [*SETTINGS[:-2], f"task.train={file}", "budget.steps=3"], []
    specs = []
    for method in ("method=bitfit", "method=lora"):
        (tmp_path / method).mkdir()
        specs.append(
            RunSpec.of(composed(*settings, method), tmp_path / method, [method], sweep="s")
        )
        alone.append(run_cell(tmp_path / f"{method} alone", *settings, method))
    run_together(specs, most=2)
    for method, one in zip(("method=bitfit", "method=lora"), alone, strict=True):
        found = finegrid.load(tmp_path / method).record
        assert (found.fused, found.test) == (2, pytest.approx(one.test, abs=0.02))


def test_a_report_resamples_rows(file: Path, tmp_path: Path) -> None:
    for method in ("full", "head"):
        for seed in (0, 1):
            more = (f"method={method}", "budget.steps=20", f"seed={seed}")
            run_cell(tmp_path / f"{method}{seed}", *SETTINGS, f"task.train={file}", *more)
    runs = rankings.results([tmp_path])
    known = next(iter(evidence(runs).rankings.values()))
    scores = known["full"].scores
    assert scores.resampled is not None
    assert scores.rows == 24
    table = runs.runs
    columns, left = stored(table)
    assert not left
    again = [of_run({**row, **more}) for row, more in zip(
        table.assign(directory="").to_dict("records"), columns.to_dict("records"), strict=True
    )]  # fmt: skip
    for row, one in zip(table.to_dict("records"), again, strict=True):
        assert one is not None
        read = of_run(row)
        assert read is not None
        assert (one.statistics["classes"] == read.statistics["classes"]).all()
        assert one.rows == read.rows
    cells = compare.cells(runs)
    assert cells["mean"].notna().all()


def test_the_best_constant_set() -> None:
    gold = np.asarray([[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1]])
    nothing = np.zeros_like(gold)
    found = sums.constants(
        "classes", np.concatenate([nothing, nothing, gold], axis=1).astype(float)
    )
    scores = [sums.METRICS["micro_f1"].of(one.sum(0), 4) for one in found]
    every = [f1_score(gold, np.tile(flags, (4, 1)), average="micro", zero_division=0)
             for flags in np.ndindex(2, 2, 2)]  # fmt: skip
    assert max(scores) == pytest.approx(max(every))


def test_names_of_classes_come_with_a_table(tmp_path: Path) -> None:
    feature = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"}
    table = pa.table({"text": ["a", "b"], "label": [[0, 2], [1]]})
    about = {"info": {"features": {"label": feature}}}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "r.parquet"
    )
    cfg = composed(*SETTINGS, f"task.train={tmp_path / 'r.parquet'}")
    task, _ = load(bind_task(cfg.task), bind(DataConfig, cfg.data, "data"))
    assert task.labels == NAMES
