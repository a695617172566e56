"""Rows of yours as a task: a file, or a DataFrame that is written as one."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from finegrid.errors import UserError, require, slug
from finegrid.runs.text import hydra_value
from finegrid.storage.files import create_once

if TYPE_CHECKING:
    import pandas as pd

FRAMES = Path("multirun/frames")  # where the rows of DataFrames are written


@dataclass(frozen=True)
class Task:
    """A task for `finegrid.run` and `finegrid.compare` made of rows of yours.

    Example:
        ```python
        task = finegrid.Task.from_frame(frame, text="message", label="team")
        task = finegrid.Task.from_file("rows.csv", text=["question", "answer"], label="good")
        task = finegrid.Task.from_file("ner.conll", text="tokens", label="tags", kind="tagging")
        task = finegrid.Task.from_file("facts.jsonl", text="facts", label="sentence",
                                       kind="generation", template="{text}\nSentence:")
        ```
    """

    overrides: tuple[str, ...]  # as on a command line

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        text: str | Sequence[str],
        label: str | Sequence[str],
        test: str | Path | None = None,
        kind: str | None = None,
        choices: str | None = None,
        name: str | None = None,
        metrics: Sequence[str] | None = None,
        template: str | None = None,
        max_new_tokens: int | None = None,
        separator: str | None = None,
        attribute: str | None = None,
    ) -> "Task":
        """The rows of a csv, tsv, json, jsonl, parquet or conll file.

        Args:
            path: The training rows.
            text: One or two text columns.
            label: The column to predict; of multilabel also one of 0 and 1 for each class.
            test: A file of test rows; without one a stratified fifth of the rows is set aside.
            kind: `classification` (the default), `regression`, `multilabel`, `tagging`, ...
            choices: The column of the options, for `choice`.
            name: Of the task in directories and tables; by default it follows from the file's.
            metrics: The kind's by default; the headline is their mean.
            template: A decoder's prompt with `{text}` in it, for `choice` and `generation`.
            max_new_tokens: Of a generated text, for `generation`; 64 by default.
            separator: What a decoder reads between two texts of a row; a new line by default.
            attribute: The column by whose value `control_prefix` chooses its prefixes.

        Raises:
            UserError: if there is no such file. Its columns are checked when a run begins.
        """
        for file in [path] if test is None else [path, test]:
            require(Path(file).is_file(), f"{file}: no such file")
        values = {
            "train": str(path), "text": [text] if isinstance(text, str) else list(text),
            "label": label if isinstance(label, str) else list(label),
            "test": None if test is None else str(test), "kind": kind,
            "choices": choices, "name": name, "metrics": None if metrics is None else list(metrics),
            "template": template, "max_new_tokens": max_new_tokens, "attribute": attribute,
        }  # fmt: skip
        settings = {f"task.{key}": value for key, value in values.items()}
        settings["model.separator"] = separator
        given = {key: value for key, value in settings.items() if value is not None}
        return cls(("task=custom", *overrides(given)))

    @classmethod
    def from_frame(
        cls,
        frame: "pd.DataFrame",
        *,
        text: str | Sequence[str],
        label: str | Sequence[str],
        test: "pd.DataFrame | None" = None,
        kind: str | None = None,
        choices: str | None = None,
        name: str = "frame",
        metrics: Sequence[str] | None = None,
        template: str | None = None,
        max_new_tokens: int | None = None,
        separator: str | None = None,
        attribute: str | None = None,
        directory: str | Path = FRAMES,
    ) -> "Task":
        """The rows of a DataFrame; the rest is as in `from_file`.

        The named columns are written to a parquet file in `directory` that is named by its
        content: the same rows are the same task, today and tomorrow.

        Raises:
            UserError: for a column that is not there, or that holds values of several types.
        """
        named = (text, label, *(name for name in (choices, attribute) if name is not None))
        columns = [name for one in named for name in ([one] if isinstance(one, str) else one)]
        folder, stem = Path(directory), slug(name)
        train = _written(frame, columns, folder, stem)
        tests = None if test is None else _written(test, columns, folder, stem)
        return cls.from_file(
            train, text=text, label=label, test=tests, kind=kind, choices=choices, name=stem,
            metrics=metrics, template=template, max_new_tokens=max_new_tokens, separator=separator,
            attribute=attribute,
        )  # fmt: skip


def _written(frame: "pd.DataFrame", columns: Sequence[str], directory: Path, name: str) -> Path:
    """The file of some columns of a frame."""
    buffer = io.BytesIO()
    pq.write_table(table(frame, columns), buffer)
    content = buffer.getvalue()
    path = directory / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}.parquet"
    directory.mkdir(parents=True, exist_ok=True)
    create_once(path, content)
    return path.absolute()


def table(frame: "pd.DataFrame", columns: Sequence[str]) -> pa.Table:
    """Some columns of a frame.

    Raises:
        UserError: for a column that is not there, or that holds values of several types.
    """
    listed = ", ".join(map(str, frame.columns))
    for column in columns:
        require(column in frame, f"the frame has no column {column!r}; it has {listed}")
    try:
        made = pa.Table.from_pandas(frame[list(columns)], preserve_index=False)
    except (pa.ArrowException, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(
            f"the frame's columns {', '.join(columns)} cannot be read: {why}"
        ) from error
    return made.replace_schema_metadata()  # pandas' version is none of the rows


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Values as overrides on a command line, for Hydra to read."""
    return [f"{key}={hydra_value(value)}" for key, value in values.items()]
