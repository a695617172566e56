"""Made-up grids on disk, for what is shown of them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finegrid.runs.record import Record

EVIL = '</script><img src=x onerror="window.evil=1"><b>&amp; $\\frac{}$'
METHODS = {"full": 0.80, "head": 0.70, "bitfit": 0.798, "lora": 0.79, "ia3": 0.76}
PARAMS = {"full": 500_000, "head": 0, "bitfit": 2_000, "lora": 8_000, "ia3": 1_500}


def run(method: str, seed: int, score: float, **changes: object) -> Record:
    """A finished run."""
    params = PARAMS.get(method, 4_000)
    values: dict[str, object] = {
        "method": method, "task": "mrpc", "model": "tiny", "fraction": 1.0,
        "budget_unit": "epochs", "budget": 3.0, "seed": seed, "protocol": "holdout",
        "overrides": [f"method={method}", f"seed={seed}"], "fingerprint": "f", "lr": 1e-3,
        "train_hash": "a", "validation_hash": "b", "test_hash": "c", "train_rows": 1000,
        "test_rows": 40_000, "status": "ok", "metric": "f1", "test": score,
        "validation": score + 0.01,
        "metrics": {"test": {"f1": score}}, "best_step": 30, "steps": 40, "degenerate": False,
        "params_total": 500_900, "params_delta": params, "params_head": 258, "params_pooler": 0,
        "delta_bytes": 4 * params + 1_100, "train_seconds": 5 + params**0.5 / 100,
        "device": "cpu", "precision": "32", "versions": {"finegrid": "0.4.0"},
        "command": "python train.py experiment=x", "git_commit": "0123456789abcdef",
        "started": "2026-01-01", "finished": "2026-01-02",
    }  # fmt: skip
    return Record(**(values | changes))  # type: ignore[arg-type]


def grid(
    methods: Mapping[str, float] = METHODS,
    *,
    tasks: Sequence[str] = ("mrpc", "rte"),
    fractions: Sequence[float] = (0.3, 1.0),
    seeds: int = 4,
) -> list[Record]:
    """Every method on every task and fraction; scores wobble with the seed, alike in every grid."""
    return [
        run(
            method,
            seed,
            score - 0.1 * (1 - fraction) - 0.05 * at + ((seed * 7 + len(method) * 3) % 5 - 2) / 400,
            task=task,
            fraction=fraction,
            train_rows=int(1000 * fraction),
            train_hash=f"{task}{fraction}",
        )
        for at, task in enumerate(tasks)
        for method, score in methods.items()
        for fraction in fractions
        for seed in range(seeds)
    ]


def broken(runs: Sequence[Record]) -> list[Record]:
    """The same, but `ia3` failed at every fraction below 1, and `lora` lacks its last seed."""
    kept = [one for one in runs if not (one.method == "lora" and one.seed == 3)]
    return [
        replace(one, status="failed", error=EVIL, test=None, validation=None, metrics={})
        if one.method == "ia3" and one.fraction < 1
        else one
        for one in kept
    ]


def written(root: Path, runs: Sequence[Record], *, points: int = 5) -> Path:
    """Write the runs, each with its learning curve."""
    for number, one in enumerate(runs):
        directory = root / f"{number:04d}"
        directory.mkdir(parents=True)
        one.write(directory)
        if one.test is not None and points:
            _curve(directory / "curve.csv", one.test, points)
    return root


def _curve(path: Path, score: float, points: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "loss", "validation"])
        for k in range(1, points + 1):
            writer.writerow([10 * k, f"{1.5 * k:.3f}", f"{1 / k:.5f}", f"{score - 0.1 / k:.5f}"])
