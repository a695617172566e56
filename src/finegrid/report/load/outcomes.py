"""Reads the predictions of runs, from their directories or from the columns of a `runs.parquet`.

Of one run: labels and predictions of the headline test set and the digest of its rows; no text.
Where these are no numbers (sets of classes, tags, texts) the numbers of each row whose sums decide
the metrics are in their place.
"""

import json
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.runs import layout

if TYPE_CHECKING:
    import pyarrow as pa

WRITTEN = ["split", "idx", "label", "prediction"]  # what is read of it
COLUMNS = [  # of a runs.parquet
    "prediction_rows", "prediction_labels", "prediction_values", "prediction_statistics",
]  # fmt: skip
MOST = 5_000_000  # bytes of predictions in a runs.parquet
DTYPES = {b"i": "<i4", b"f": "<f4"}  # of a stored array: a letter, then zlib
LARGEST = 400_000_000  # bytes that a stored array may unfold to


class Predictions(NamedTuple):
    """One run's predictions on the headline test set."""

    rows: str  # digest of idx and labels
    labels: NDArray[np.generic]  # N; zeros where a label is no number
    values: NDArray[np.generic]  # N; the same
    statistics: Mapping[str, NDArray[np.generic]] = {}  # name -> N K

    @property
    def numbered(self) -> bool:
        """Whether labels and predictions are classes by number."""
        return self.values.dtype.kind in "iu" and not self.statistics


def of_run(run: Any, known: Mapping[str, Predictions] | None = None) -> Predictions | None:
    """A run's predictions: those that its row holds, else those in its directory; or none.

    known: directory -> predictions that have been read.

    Raises:
        OSError, ValueError, KeyError, zlib.error: if there are none that can be read.
    """
    if known and (one := known.get(str(run["directory"]))):
        return one
    rows, labels, values, more = (run.get(name) for name in COLUMNS)
    if isinstance(rows, str) and isinstance(labels, bytes) and isinstance(values, bytes):
        statistics = _statistics_of(more) if isinstance(more, bytes) else {}
        return _checked(rows, _unpacked(labels), _unpacked(values), statistics)
    return read(str(run["directory"])) if run["directory"] else None


def read(directory: str) -> Predictions:
    """A run's predictions on the headline test set.

    Raises:
        OSError, ValueError, KeyError: if there are none that can be read.
    """
    table = _headline(directory)
    labels, values = (_plain(table.column(name)) for name in WRITTEN[2:])
    named = "\n".join(map(repr, table.column("idx").to_pylist())).encode()  # an id may be text
    digest = blake2b(named, digest_size=16)
    digest.update(labels.tobytes())
    if not _is_number(table.column("label").type):
        digest.update("\n".join(map(repr, table.column("label").to_pylist())).encode())
    statistics = {
        name.removeprefix(layout.STATISTIC): _matrix(table.column(name))
        for name in table.column_names
        if name.startswith(layout.STATISTIC)
    }
    return _checked(digest.hexdigest(), labels, values, statistics)


def row_names(directory: str) -> list[str]:
    """The `idx` of each row of the headline test set; none of a run without a directory."""
    return list(map(str, _headline(directory).column("idx").to_pylist())) if directory else []


def _headline(directory: str) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(
        pa.memory_map(f"{directory}/{layout.PREDICTIONS}"), pre_buffer=False
    ) as file:
        more = [x for x in file.schema_arrow.names if x.startswith(layout.STATISTIC)]
        table = file.read(columns=[*WRITTEN, *more], use_threads=False)
    if len(table.column("split").unique()) > 1:
        table = table.filter(table.column("split").to_numpy() == "test")
    return table


def _is_number(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _plain(column: "pa.ChunkedArray") -> NDArray[np.generic]:
    """As they are stored: 32 bits each, which is what a run computes in; zeros for no numbers."""
    if not _is_number(column.type):
        return np.zeros(len(column), "<i4")
    values: NDArray[np.generic] = column.to_numpy()
    return values.astype("<i4" if values.dtype.kind in "iub" else "<f4")


def _matrix(column: "pa.ChunkedArray") -> NDArray[np.generic]:
    """N K, in 16 bits where these are enough for whole numbers."""
    flat: NDArray[np.generic] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    whole = flat.dtype.kind in "iub" and (not flat.size or int(np.abs(flat).max()) < 1 << 15)
    return flat.astype("<i2" if whole else "<f4").reshape(len(column), -1)


def _checked(
    rows: str,
    labels: NDArray[np.generic],
    values: NDArray[np.generic],
    statistics: Mapping[str, NDArray[np.generic]],
) -> Predictions:
    fitting = all(len(labels) == len(one) for one in (values, *statistics.values()))
    if not len(labels) or not fitting:
        raise ValueError("no rows, or not as many labels as predictions")
    if not all(np.isfinite(one).all() for one in (values, *statistics.values())):
        raise ValueError("predictions that are no numbers")
    return Predictions(rows, labels, values, statistics)


def stored(
    runs: pd.DataFrame, known: Mapping[str, Predictions] | None = None
) -> tuple[pd.DataFrame, str]:
    """The columns of `COLUMNS` for some runs, and a note on what is left out (or nothing).

    Labels, predictions and the digest of the rows, and no text. Predictions of the largest test
    sets are left out if all together are more than `MOST` bytes.
    """
    rows: list[tuple[str | bytes | None, ...]] = []
    packs: dict[bytes, bytes] = {}  # labels are the same for all runs on a test set
    for row in runs.to_dict("records"):
        try:
            one = of_run(row, known) if row["status"] == "ok" else None
        except (OSError, ValueError, KeyError, zlib.error):
            one = None  # a report tells of those
        if one is None:
            rows.append((None,) * len(COLUMNS))
            continue
        labels = _packed(one.labels)
        more = _packed_statistics(one.statistics) if one.statistics else None
        rows.append((one.rows, packs.setdefault(labels, labels), _packed(one.values), more))
    columns = pd.DataFrame(rows, index=runs.index, columns=COLUMNS, dtype=object)
    sizes = columns["prediction_values"].str.len().fillna(0)
    sizes += columns["prediction_statistics"].str.len().fillna(0)
    sizes += (
        columns["prediction_labels"].str.len().where(~columns["prediction_rows"].duplicated(), 0)
    )
    by_set = sizes.groupby(columns["prediction_rows"]).sum().sort_values()
    over = by_set.index[by_set.cumsum() > MOST]
    left = columns["prediction_rows"].isin(over)
    columns.loc[left] = None
    many = int(left.sum())
    note = (
        f"{many} run{'s' * (many != 1)} on the largest test sets: no predictions in "
        f"runs.parquet, which keeps {MOST / 1e6:g} MB of them at most."
    )
    return columns, note if many else ""


def _packed(values: NDArray[np.generic]) -> bytes:
    letter = b"f" if values.dtype.kind == "f" else b"i"
    return letter + zlib.compress(values.astype(DTYPES[letter]).tobytes())


def _unpacked(data: bytes) -> NDArray[np.generic]:
    raw = zlib.decompressobj().decompress(data[1:], LARGEST)
    return np.frombuffer(raw, DTYPES[data[:1]])


def _packed_statistics(statistics: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Names, types and widths as JSON in a line, then the numbers, zlib."""
    about = [[name, one.dtype.str, one.shape[1]] for name, one in statistics.items()]
    raw = b"".join(one.tobytes() for one in statistics.values())
    return json.dumps(about).encode() + b"\n" + zlib.compress(raw, 9)


def _statistics_of(data: bytes) -> dict[str, NDArray[np.generic]]:
    """What `_packed_statistics` made.

    Raises:
        ValueError: if it is nothing of that.
    """
    about, _, packed = data.partition(b"\n")
    raw = zlib.decompressobj().decompress(packed, LARGEST)
    statistics, start = {}, 0
    columns = json.loads(about)
    rows = len(raw) // sum(np.dtype(kind).itemsize * width for _, kind, width in columns)
    for name, kind, width in columns:
        if kind not in ("<i2", "<f4"):
            raise ValueError(f"statistics of type {kind}")
        stop = start + rows * width * np.dtype(kind).itemsize
        statistics[str(name)] = np.frombuffer(raw[start:stop], kind).reshape(rows, width)
        start = stop
    return statistics
