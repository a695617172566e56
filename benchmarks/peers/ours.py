"""finegrid's way: `strategies.single.run`, as behind train.py, with a watch among the callbacks."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from finegrid.runs.spec import RunSpec
from finegrid.strategies import single
from finegrid.training import checkpoint, scoring
from peers.rows import composed


class Watch(pl.Callback):
    """CPU-seconds of this process in training and in prediction."""

    def __init__(self) -> None:
        self.training = self.predicting = 0.0
        self.predicted = 0  # rows

    def on_train_start(self, *args: Any) -> None:
        """Start, after all that is prepared once."""
        self.began = time.process_time() - self.predicting

    def on_train_end(self, *args: Any) -> None:
        """Stop; validation within training does not count as training."""
        self.training = time.process_time() - self.predicting - self.began

    def watched(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time and rows counted."""

        def call(model: Any, rows: Any, **options: Any) -> Any:
            began = time.process_time()
            found = predict(model, rows, **options)
            self.predicting += time.process_time() - began
            self.predicted += len(rows)
            return found

        return call


def measure(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    """One epoch over the rows (or `warm` steps) and the dev set: rows a CPU-second.

    The dev set is both validation and test here, so it is predicted twice and divided by as much.
    """
    budget = (
        "budget.epochs=1" if "warm" not in spec else f"budget=steps budget.steps={spec['warm']}"
    )
    fixed = f"data.protocol=dev evaluations=1 select=last {budget} {spec['ours']}"
    cfg = composed(
        f"method={spec['method']}",
        f"task={spec['task']}",
        f"model={spec['model']}",
        f"data.source={Path(spec['folder']).parent}",
        f"data.batch_size={spec['batch']}",
        *fixed.split(),
    )
    watch = Watch()
    plain = (scoring.predict, checkpoint.predict)
    scoring.predict, checkpoint.predict = (watch.watched(predict) for predict in plain)
    pl.LightningModule.configure_callbacks = lambda module: [watch]  # after the run's own
    try:
        record = single.run(RunSpec.of(cfg, work, sweep=work.parent.name))
    finally:
        scoring.predict, checkpoint.predict = plain
    loss = _loss(work / "curve.csv")
    assert math.isfinite(loss), f"loss {loss}"
    rows = round(record.epochs * record.train_rows)
    return {
        "train": rows / watch.training,
        "evaluation": watch.predicted / watch.predicting,
        "steps": record.steps,
        "parameters": record.params_delta + record.params_pooler + record.params_head,
        "loss": loss,
        "precision": record.precision,
    }


def _loss(curve: Path) -> float:
    with curve.open(encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["loss"])
