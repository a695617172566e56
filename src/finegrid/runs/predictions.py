"""Per-example predictions as a parquet file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finegrid.data.examples import Examples
from finegrid.runs import layout
from finegrid.storage.files import write_atomic
from finegrid.tasks.task import Task

FILE = layout.PREDICTIONS


def write_predictions(
    directory: Path, task: Task, tests: dict[str, Examples], outputs: dict[str, Any]
) -> None:
    """Write one row a test example: split, idx, label, prediction, scores (the logits).

    And the kind's sufficient statistics, a list a row in `stat_NAME`, where it has any.
    """
    tables = [
        pa.table(
            {
                "split": [name] * len(rows),
                "idx": rows.idx,
                **task.table(outputs[name], rows.labels),
                **_statistics(task, outputs[name], rows),
            }
        )
        for name, rows in tests.items()
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), buffer)
    write_atomic(directory / FILE, buffer.getvalue().to_pybytes())


def _statistics(task: Task, outputs: Any, rows: Examples) -> dict[str, pa.Array]:
    return {
        f"{layout.STATISTIC}{name}": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1]
        )
        for name, values in task.statistics(outputs, rows.labels).items()
    }
