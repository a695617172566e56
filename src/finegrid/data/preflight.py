"""Check the tasks of a sweep before any job starts, so that a bad file is one error, not many."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from finegrid.config import DataConfig, allowed, bind, bind_task
from finegrid.tasks.task import Task


def check(configs: Iterable[Mapping[str, Any]]) -> None:
    """Check the task of each resolved config, and read a user's own files, each of them once.

    Raises:
        UserError: for a task that contradicts itself, or rows or labels that are of no use.
    """
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for plain in configs:
        tasks.setdefault(_key(plain), []).append(plain)
    for several in tasks.values():
        plain = several[0]
        task = bind_task(plain["task"], allow=allowed(plain))
        if task.path == "files":
            # all rows: a small fraction may fail by itself
            asked = {one["data"]["rows"] for one in several}
            most = max(asked - {None}, default=None)
            amounts = [None] * (None in asked or not most) + [most] * bool(most)
            every_row = plain["data"] | {"fraction": 1.0, "rows": None}
            _read(task, bind(DataConfig, every_row, "data"), amounts)


def _key(plain: Mapping[str, Any]) -> str:
    data = {key: value for key, value in plain["data"].items() if key not in ("fraction", "rows")}
    return json.dumps([plain["task"], data], sort_keys=True, default=str)


def _read(task: Task, data: DataConfig, amounts: Sequence[int | None]) -> None:
    from finegrid.data.loading import load
    from finegrid.data.splits import split

    filled, tables = load(task, data)
    for rows in amounts:
        split(tables, filled, replace(data, rows=rows))
