"""Ensembles of finished runs: their outputs averaged on the test rows, and what they cost together.

    z(x) = mean over members k of z_k(x)      logits, or values of a regression

Members are the runs of one method on one task that differ in their seed alone. Averaging logits is
what Kobayashi et al. 2022 (arXiv 2205.11833) do with tickets of one pre-trained model, each pruned
under a penalty that its seed draws: `method=lottery_ticket` over seeds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from finegrid.analysis.rows import require_same, scored
from finegrid.errors import UserError, require
from finegrid.inference import restore
from finegrid.runs.record import Record
from finegrid.runs.settings import RECORDED, unrecorded
from finegrid.tasks.task import Task

NAMES = ("task", "model", "fraction", "method")  # that a line of the table shows
# Fields of a record that members share, besides the overrides that no field holds
LIKE = (
    *(field for field in RECORDED if field != "seed"),
    *("budget_unit", "budget", "precision", "fingerprint", "train_hash", "test_hash"),
)


def table(
    records: Mapping[Path, Record],
    *,
    model_path: str | None = None,
    allow: Collection[str] = (),
) -> pd.DataFrame:
    """One row an ensemble of two runs or more: what it is of, scores, and its members' costs.

    Columns: those of `NAMES`, runs, metric, mean (of the members' scores), best (of them),
    ensemble, delta_bytes and train_seconds (sums over the members).

    Raises:
        UserError: if no two runs differ in their seed alone, or outputs cannot be averaged.
    """
    groups = [group for group in grouped(records).values() if len(group) > 1]
    require(
        bool(groups),
        "no two of these runs differ in their seed alone; an ensemble is of runs of one method, "
        "such as seed=0,1,2",
    )
    return pd.DataFrame(_line(group, records, model_path, allow) for group in groups)


def grouped(records: Mapping[Path, Record]) -> dict[Any, list[Path]]:
    """What members share -> their directories, in the order of their seeds."""
    groups: dict[Any, list[Path]] = {}
    for directory, record in sorted(records.items(), key=lambda item: item[1].seed):
        apart = [pair for pair in unrecorded(record.overrides) if pair[0] != "seed"]
        key = (*(getattr(record, name) for name in LIKE), *sorted(apart))
        groups.setdefault(key, []).append(directory)
    return groups


def _line(
    group: Sequence[Path],
    records: Mapping[Path, Record],
    model_path: str | None,
    allow: Collection[str],
) -> dict[str, Any]:
    first, members = records[group[0]], [records[directory] for directory in group]
    alone, together = scores(group, model_path=model_path, allow=allow)
    return {name: getattr(first, name) for name in NAMES} | {
        "runs": len(group),
        "metric": first.metric,
        "mean": sum(alone) / len(alone),
        "best": max(alone),
        "ensemble": together,
        "delta_bytes": sum(record.delta_bytes or 0 for record in members),
        "train_seconds": sum(record.train_seconds or 0.0 for record in members),
    }


def scores(
    group: Sequence[Path], *, model_path: str | None = None, allow: Collection[str] = ()
) -> tuple[list[float], float]:
    """The headline of each member alone on the test rows, and of their mean outputs."""
    members = list(_outputs(group, model_path, allow))
    alone = [task.score(outputs, labels)[task.headline] for outputs, task, labels in members]
    _, task, labels = members[0]
    mean = torch.stack([outputs for outputs, _, _ in members]).mean(0)
    return alone, task.score(mean, labels)[task.headline]


def _outputs(
    group: Sequence[Path], model_path: str | None, allow: Collection[str]
) -> Iterator[tuple[Tensor, Task, Any]]:
    """Each member's outputs with its task and the labels; one model in memory at a time."""
    rows = None
    for directory in group:
        run = restore(directory, model_path=model_path, allow=allow)
        if rows is None:
            rows = scored(run, "test")
        require_same(run, rows, "test")
        outputs = run.outputs(rows.texts, rows.attributes)
        if not isinstance(outputs, torch.Tensor):
            raise UserError(f"{directory}: outputs of task.kind={run.task.kind} have no mean")
        yield outputs, run.task, run.task.collate(rows.labels)
