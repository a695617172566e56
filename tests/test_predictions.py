"""The file of a run's predictions, from logits alone."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from finegrid.data.examples import Examples
from finegrid.runs.predictions import FILE, write_predictions
from finegrid.tasks.classification import Classification


def test_each_row_has_its_split_id_label_prediction_and_scores(tmp_path: Path) -> None:
    task = Classification(name="t", text=["a"], metrics=["accuracy"], labels=["x", "y"])
    tests = {
        "test": Examples((["a", "b"],), np.asarray([0, 1]), [7, 3]),
        "test_mismatched": Examples((["c"],), np.asarray([1]), [5]),
    }
    logits = {
        "test": torch.tensor([[0.0, 2.0], [0.5, 1.0]]),
        "test_mismatched": torch.tensor([[3.0, 1.0]]),
    }
    write_predictions(tmp_path, task, tests, logits)
    assert pq.read_table(tmp_path / FILE).to_pydict() == {
        "split": ["test", "test", "test_mismatched"],
        "idx": [7, 3, 5],
        "label": [0, 1, 1],
        "prediction": [1, 1, 0],
        "scores": [[0.0, 2.0], [0.5, 1.0], [3.0, 1.0]],
    }
    assert [path.name for path in tmp_path.iterdir()] == [FILE], "nothing temporary is left"
