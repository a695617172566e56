"""The one flat result of a run, and the hash that names its cell. Standard library only."""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from finegrid.errors import UserError

SCHEMA = 1
FILE = "record.json"


@dataclass
class Record:
    """Everything a table needs to know of one run; `None` where a run did not get that far."""

    # identity
    method: str
    task: str
    model: str
    fraction: float
    budget_unit: str
    budget: float
    seed: int
    protocol: str
    overrides: list[str]
    pretrained: bool = True
    select: str = "best"
    frozen_dropout: bool = True  # false: none below what trains
    lr: float | None = None  # peak learning rate of what the method trains
    trial: int | None = None  # of a search for that rate: validation alone is scored
    schema: int = SCHEMA
    cell: str | None = None
    fingerprint: str | None = None  # of the backbone's weights as loaded
    train_hash: str | None = None
    validation_hash: str | None = None
    test_hash: str | None = None
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    test_overlap: int | None = None  # test rows whose text also occurs in train
    # outcome
    status: str = "running"
    error: str | None = None
    metric: str | None = None
    positive: str | None = None  # class that F1 is of; null: the mean over all, or no F1
    positive_class: int | None = None  # its number in the predictions
    test: float | None = None
    test_last: float | None = None
    validation: float | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    best_step: int | None = None
    steps: int | None = None
    epochs: float | None = None
    degenerate: bool | None = None
    # cost
    params_total: int | None = None
    params_delta: int | None = None
    params_head: int | None = None
    params_pooler: int | None = None
    delta_bytes: int | None = None  # of the file
    delta_bound_bytes: float | None = None  # its numbers as they are plus the entropy of its masks
    delta_bits_per_trainable: float | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    setup_seconds: float | None = None
    examples_per_second: float | None = None
    tokens_per_second: float | None = None
    train_flops: float | None = None
    mfu: float | None = None  # the least seconds of its matrix products, as a share of the clock's
    matmul_rate: float | None = None  # FLOP/s measured on the machine: what that least assumes
    peak_memory_bytes: int | None = None
    fused: int = 1  # runs that shared each pass through the backbone
    micro_batch_size: int | None = None  # rows of one pass; below data.batch_size: memory ran out
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    # provenance
    data_source: str | None = None
    model_revision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    git_dirty: bool | None = None
    command: str = ""
    started: str = ""
    finished: str | None = None

    def summary(self) -> str:
        """One line for people."""
        split = "test" if self.trial is None else "validation"
        scores = self.metrics.get(split, {})
        of = {"f1": f" of {self.positive}"} if self.positive is not None else {}
        every = ", ".join(f"{name}{of.get(name, '')} {value:.4f}" for name, value in scores.items())
        trains = sum(filter(None, (self.params_delta, self.params_pooler, self.params_head)))
        share = 100 * trains / self.params_total if self.params_total else 0.0
        return (
            f"{self.method} on {self.task} ({self.model}, fraction {self.fraction:g}, seed "
            f"{self.seed}): {split} {every}; trainable params: {trains:,} || all params: "
            f"{self.params_total:,} || trainable%: {share:.4f}; "
            f"{self.train_seconds:.1f} s of training"
        )

    def write(self, directory: Path) -> None:
        """Write `record.json` so that it is there whole or not at all."""
        write_atomic(
            directory / FILE, (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode()
        )


def read(directory: Path) -> Record:
    """Read a run directory's record.

    Raises:
        UserError: if there is none, or it is not readable as one.
    """
    path = directory / FILE
    if not directory.is_dir():
        raise UserError(f"no such run directory: {directory}")
    if not path.is_file():
        raise UserError(f"{directory} holds no {FILE}: the run has not finished, or is not one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA:
            raise UserError(
                f"{path} has schema {values.get('schema')}, this version reads {SCHEMA}"
            )
        known = {item.name for item in fields(Record)}
        return Record(**{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a readable record: {error}") from error


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command that this process was started with, or with other arguments, on any machine."""
    own = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", Path(sys.argv[0]).name, *own])


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under another name, flush it to disk, then rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def cell_hash(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits of everything that decides a run's result."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
