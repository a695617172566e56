"""Per-example predictions as a parquet file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from finegrid.data.examples import Examples
from finegrid.runs import layout
from finegrid.storage.files import write_atomic
from finegrid.tasks.task import Task

FILE = layout.PREDICTIONS


def write_predictions(
    directory: Path, task: Task, tests: dict[str, Examples], logits: dict[str, Tensor]
) -> None:
    """Write one row a test example: split, idx, label, prediction, scores (the logits)."""
    tables = [
        pa.table(
            {
                "split": [name] * len(rows),
                "idx": rows.idx,
                "label": rows.labels,
                "prediction": task.predictions(logits[name]).numpy(),
                "scores": logits[name].tolist(),
            }
        )
        for name, rows in tests.items()
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), buffer)
    write_atomic(directory / FILE, buffer.getvalue().to_pybytes())
