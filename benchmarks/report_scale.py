"""What a report of thousands of runs takes.

python benchmarks/report_scale.py --runs 5000 --rows 400
python benchmarks/report_scale.py --runs 100000 --formats md,csv,parquet

The runs are made up, in a temporary folder: 20 methods on three kinds of task, 5 fractions and 5
seeds, on as many tasks as it takes; with --rows also predictions of so many test rows. Each command
is finegrid report in a process of its own, imports included.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finegrid.runs.layout import RECORD
from finegrid.runs.record import Record

ROOT = Path(__file__).parents[1]
METHODS = ["full", "head", *(f"method{number:02d}" for number in range(18))]
FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = range(5)
KINDS = (("accuracy", "f1"), ("matthews",), ("pearson", "spearman"))  # a task's metrics, in turn
FAILS = 0.01  # of the runs


def main() -> None:
    """Make the runs, then time the report, on the terminal and written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=0, help="of a test set; 0: no predictions")
    parser.add_argument("--formats", default="", help="what is written; all unless told otherwise")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        rng = np.random.default_rng(0)
        for record in islice(_records(), given.runs):
            _write(record, root, given.rows, rng)
        print(f"{given.runs:,} runs, predictions of {given.rows} rows\n")
        print("| command | wall s | CPU s | peak MiB |\n|---|---:|---:|---:|")
        _row("report.py", [str(root)])
        formats = ["--format", given.formats] if given.formats else []
        _row(f"report.py --out, {given.formats or 'all'}",
             [str(root), "--out", str(Path(folder) / "report"), *formats])  # fmt: skip


def _records() -> Iterator[dict[str, Any]]:
    """Records' values without scores, task by task."""
    for task in range(10_000):
        for method in METHODS:
            for fraction in FRACTIONS:
                for seed in SEEDS:
                    yield _record(task, method, fraction, seed)


def _record(task: int, method: str, fraction: float, seed: int) -> dict[str, Any]:
    rows = int(10_000 * fraction)
    told = Record(
        method=method, task=f"task{task:03d}", model="made_up", fraction=fraction, seed=seed,
        budget_unit="epochs", budget=5.0, protocol="holdout", status="ok", precision="32",
        overrides=[f"method={method}", f"data.fraction={fraction}", f"seed={seed}"],
        fingerprint="f" * 16, train_hash=f"{task}-{fraction}", validation_hash=f"{task}",
        test_hash=f"{task}", train_rows=rows, validation_rows=1000, lr=1e-3, steps=rows, epochs=5.0,
        best_step=rows, params_total=10**8, params_delta=10**5, params_head=1538, params_pooler=0,
        delta_bytes=400_000, delta_bound_bytes=4e5, delta_bits_per_trainable=32.1, mfu=0.4,
        train_seconds=60.0, eval_seconds=5.0, setup_seconds=2.0, train_flops=1e15, threads=1,
        peak_memory_bytes=10**9, device="made up", git_commit="c" * 40, git_dirty=False,
        versions={"finegrid": "0.4.0", "python": "3.11.7", "torch": "2.13.0", "datasets": "5.2.0"},
        command="python train.py -m method=glob(*) data.fraction=0.01,0.03,0.1,0.3,1 seed=range(5)",
        started="2026-01-01T00:00:00+00:00", finished="2026-01-01T00:01:07+00:00",
    )  # fmt: skip
    return asdict(told)


def _write(values: dict[str, Any], root: Path, rows: int, rng: np.random.Generator) -> None:
    """A run directory as a sweep leaves it."""
    task, method = int(values["task"].removeprefix("task")), METHODS.index(values["method"])
    metrics = KINDS[task % len(KINDS)]
    name = f"f{values['fraction']:g}-s{values['seed']}-{task:03d}{method:03d}"
    own = root / f"{values['task']}/{values['model']}/{values['method']}/{name}"
    own.mkdir(parents=True)
    (own / ".hydra").mkdir()
    (own / "run.log").touch()
    if rng.random() < FAILS:
        values |= {"status": "failed", "error": "Traceback ...\nValueError: no luck"}
    else:
        scores = _scores(own, metrics, task, method, rows, rng)
        headline = "mean" if len(scores) > 1 else metrics[0]
        scores |= {"mean": float(np.mean(list(scores.values())))} if len(scores) > 1 else {}
        values |= {"metrics": {"validation": scores, "test": scores}, "metric": headline}
        values |= {"test": scores[headline], "validation": scores[headline]}
        values |= {"test_rows": rows or 1000, "degenerate": False}
    (own / RECORD).write_text(json.dumps(values, indent=1), encoding="utf-8")


def _scores(
    own: Path, metrics: Sequence[str], task: int, method: int, rows: int, rng: np.random.Generator
) -> dict[str, float]:
    """Made-up scores; with rows, those of predictions that are written beside."""
    if not rows:
        return {name: float(rng.normal(0.8 - 0.01 * method, 0.01)) for name in metrics}
    labels = np.random.default_rng(task).random(rows) * 5
    predicted = labels + rng.normal(0, 1 + 0.1 * method, rows)
    if metrics[0] != "pearson":
        labels, predicted = (labels > 2).astype(int), (predicted > 2).astype(int)
    split = pa.array(["test"] * rows)
    columns = {"split": split, "idx": np.arange(rows), "label": labels, "prediction": predicted}
    pq.write_table(pa.table(columns), own / "predictions.parquet")
    return {name: SCORES[name](labels, predicted) for name in metrics}


def _f1(labels: Any, predicted: Any) -> float:
    return float(2 * np.sum(labels & predicted) / max(1, np.sum(labels) + np.sum(predicted)))


def _correlation(labels: Any, predicted: Any) -> float:
    return float(np.corrcoef(labels, predicted)[0, 1])


SCORES = {
    "accuracy": lambda labels, predicted: float(np.mean(labels == predicted)),
    "f1": _f1,
    "matthews": _correlation,
    "pearson": _correlation,
    "spearman": lambda y, x: _correlation(y.argsort().argsort(), x.argsort().argsort()),
}


def _row(name: str, arguments: Sequence[str]) -> None:
    """Run the script; print its times and the most memory that it had."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "finegrid", "report", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| {name} | {wall:.1f} | {cpu:.1f} | {after.ru_maxrss / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
