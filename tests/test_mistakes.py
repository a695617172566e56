"""How methods err: scores by class, confusion matrices, and the rows on which they disagree."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grids import EVIL, run
from sklearn.metrics import confusion_matrix, f1_score

from finegrid.report.comparison import Comparison
from finegrid.report.html import page
from finegrid.report.html.mistakes import mistakes
from finegrid.report.load import outcomes, rankings

NAMES = ["billing", EVIL, "other"]
RIGHT = {"full": 0.9, "head": 0.6, "lora": 0.85}
LABELS = np.random.default_rng(0).integers(0, 3, 90)
IDS = [f"row-{number}" for number in range(90)]


def predicted(method: str, seed: int) -> np.ndarray:
    """Predictions that are right so often; of row 7 lora has a class of its own in each seed."""
    rng = np.random.default_rng([seed, len(method)])
    values = np.where(rng.random(90) < RIGHT[method], LABELS, rng.integers(0, 3, 90))
    values[7] = (LABELS[7] + (method == "lora")) % 3
    return values


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, three seeds, with predictions; the test rows have ids."""
    root = tmp_path_factory.mktemp("grid")
    for method in RIGHT:
        for seed in range(3):
            values = predicted(method, seed)
            score = float((values == LABELS).mean())
            record = run(method, seed, score, metric="accuracy", labels=json.dumps(NAMES),
                         metrics={"test": {"accuracy": score}}, test_rows=90)  # fmt: skip
            own = root / f"{method}{seed}"
            own.mkdir()
            record.write(own)
            both = {"split": ["test"] * 90 + ["other"], "idx": [*IDS, "x"],
                    "label": [*LABELS, 0], "prediction": [*values, 0]}  # fmt: skip
            pq.write_table(pa.table(both), own / "predictions.parquet")
    return root


def runs_of(grid: Path) -> pd.DataFrame:
    """The runs as a report gathers them."""
    return rankings.results([grid]).runs


def test_scores_are_those_of_scikit_learn_averaged_over_seeds(grid: Path) -> None:
    made = mistakes(runs_of(grid), ["full", "lora", "head"])
    assert made is not None
    assert [one.method for one in made.methods] == ["full", "lora", "head"]
    assert made.names == tuple(NAMES)
    assert made.classes[0] == f"billing ({(LABELS == 0).sum()})"
    for one in made.methods:
        each = [predicted(one.method, seed) for seed in range(3)]
        f1 = np.mean([f1_score(LABELS, values, average=None) for values in each], axis=0)
        assert one.f1 == tuple(f"{score:.3f}" for score in f1)
        mean = np.mean([confusion_matrix(LABELS, values) for values in each], axis=0)
        counts = [[float(text) for text, _ in line] for line in one.counts]
        np.testing.assert_allclose(counts, mean, atol=0.0501)
        assert all(98 <= sum(share for _, share in line) <= 102 for line in one.counts)


def test_the_first_row_is_the_one_on_which_methods_differ_whatever_the_seed(grid: Path) -> None:
    made = mistakes(runs_of(grid), ["full", "lora", "head"])
    assert made is not None
    first = made.rows[0]
    assert first.name == "row-7"
    gold, other = NAMES[LABELS[7]], NAMES[(LABELS[7] + 1) % 3]
    assert first.gold == gold
    assert first.predicted == ((gold, "full, head"), (other, "lora"))
    assert any("of 3)" in methods for row in made.rows for _, methods in row.predicted)


def test_stored_runs_have_row_numbers_and_older_ones_numbers_of_classes(grid: Path) -> None:
    runs = runs_of(grid)
    stored, _ = outcomes.stored(runs)
    others = runs.drop(columns=["labels"]).assign(directory="", positive="yes", positive_class=1.0)
    made = mistakes(pd.concat([others, stored], axis=1), ["full", "lora", "head"])
    assert made is not None
    assert made.names == ("class 0", "yes", "class 2")
    assert made.rows[0].name == "7"


def test_what_has_no_classes_has_no_matrix(grid: Path, tmp_path: Path) -> None:
    assert mistakes(runs_of(grid).assign(directory=str(tmp_path)), ["full"]) is None
    runs = runs_of(grid).iloc[:1]
    for number, prediction in enumerate([0.5, 5000, -1]):
        own = tmp_path / str(number)
        own.mkdir()
        columns = {"split": ["test"], "idx": [0], "label": [0], "prediction": [prediction]}
        pq.write_table(pa.table(columns), own / "predictions.parquet")
        assert mistakes(runs.assign(directory=str(own)), ["full"]) is None


def test_the_page_shows_them_as_text(grid: Path) -> None:
    html = page.page(Comparison.of(rankings.load([grid])))
    assert 'id="errors"' in html
    assert html.count('class="small matrix"') == 3
    assert "row-7" in html
    assert "<img" not in html


def test_many_classes_have_rows_alone(grid: Path) -> None:
    runs = runs_of(grid)
    labels = np.arange(90)
    columns = {"prediction_rows": "x", "prediction_labels": outcomes._packed(labels)}
    values = [outcomes._packed((labels + (method == "lora")) % 90) for method in runs["method"]]
    made = mistakes(runs.assign(**columns, prediction_values=values), ["full", "lora"])
    assert made is not None
    assert not made.methods
    assert made.rows[0].predicted[0][1] == "full"
