"""A run as dashboards show it: name, group, tags, config, curve and summary.

`logger=wandb` tells it as the run goes on, finegrid sync afterwards; both make the same
run of it. Imports nothing heavy.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrid.runs import layout
from finegrid.runs.record import Record

STEP = "trainer/global_step"  # Lightning's name for the horizontal axis


@dataclass(frozen=True)
class RunInfo:
    """What a logger may want to say about a run."""

    directory: Path
    sweep: str  # name of the sweep directory, or of the day's single runs
    cell: str
    record: Record
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Readable name of the run."""
        run = self.record
        return f"{run.method}-{run.task}-{run.model}-f{run.fraction:g}-s{run.seed}"

    @property
    def group(self) -> str:
        """The runs of one method and task in a sweep belong together."""
        return f"{self.sweep}/{self.record.method}-{self.record.task}"

    @property
    def tags(self) -> list[str]:
        """What to filter by."""
        run = self.record
        return [run.method, run.task, run.model, f"f{run.fraction:g}"]

    def arguments(self, *, project: str, entity: str | None, group: str | None) -> dict[str, Any]:
        """Those of `wandb.init`. The id is the cell's: a cell is one W&B run, however it came."""
        return {
            "project": project,
            "entity": entity,
            "name": self.name,
            "id": self.cell,
            "group": group or self.group,
            "job_type": "train" if self.record.trial is None else "tune",
            "tags": self.tags,
            "resume": "allow",
        }

    def curve(self) -> Iterator[dict[str, float]]:
        """The lines of curve.csv under the names of a live run; a line cut short ends it."""
        path = self.directory / layout.CURVE
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                try:
                    yield {
                        STEP: int(line["step"]),
                        "train/loss": float(line["loss"]),
                        f"validation/{self._headline}": float(line["validation"]),
                    }
                except (TypeError, ValueError):
                    return

    @property
    def _headline(self) -> str:
        """The metric of curve.csv; a run that failed has not come to write it down."""
        metrics = self.config["task"]["metrics"]
        return self.record.metric or ("mean" if len(metrics) > 1 else str(metrics[0]))


def summary(record: Record) -> dict[str, Any]:
    """A record's plain values and scores, and `failed` as a number, which panels can add up."""
    final = {name: value for name, value in vars(record).items() if _scalar(value)}
    final |= {
        f"{split}/{name}": value
        for split, scores in record.metrics.items()
        for name, value in scores.items()
    }
    return final | {"failed": int(record.status != "ok")}


def _scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
