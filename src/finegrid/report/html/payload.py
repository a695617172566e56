"""What the page's script looks up: curves, CSV files, and the decision's candidates as JSON.

The script decides nothing: every comparison of two candidates is made here, by the rule of
`recommend`, and the script filters them by the three limits.
"""

import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrid.report import formatting, pareto
from finegrid.report.load.rankings import Results
from finegrid.report.recommend import decide
from finegrid.report.recommend.options import DIGITS, Draws, costs, drawn, dropped, levels, pairs
from finegrid.report.stats.compare import Standings

RANKS = 2_000_000  # on a page: about three bytes each


def script_json(value: object) -> str:
    """JSON that ends no script element, whatever a text in it says."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def choices(
    results: Results, cells: pd.DataFrame, draws: Draws, standings: Standings
) -> list[dict[str, object]]:
    """The candidates of each setting, task and kind of budget, with all that a choice needs."""
    known = cells[(cells["ok"] > 0) & cells[["label_rows", "train_seconds"]].notna().all(axis=1)]
    most = max(100, RANKS // max(1, len(known)))
    tasks = []
    setting: Any  # a group's key may be of any kind, for all that pandas' types know
    task: Any
    by = ["setting", "task", "budget_unit"]
    for (setting, task, unit), rows in known.groupby(by, observed=True):
        of_task = known[known["setting"].eq(setting) & known["task"].eq(task)]
        kind = f", budgets in {unit}" if of_task["budget_unit"].nunique() > 1 else ""
        several = f" (setting {setting + 1})" if len(results.settings) > 1 else ""
        usable = decide.measured(rows)
        candidates = _candidates(usable, draws, standings, most)
        limits = decide.measured(rows, seeds=1)[["label_rows", "seconds", "delta_bytes"]]
        tasks.append({
            "label": f"{task}{kind}{several}",
            "cells": candidates,
            "beside": _beside(usable),
            "largest": limits.max().fillna(0).tolist(),
            **_span(candidates),
        })  # fmt: skip
    return tasks


def _span(candidates: list[dict[str, object]]) -> dict[str, object]:
    """The labels for which there is an answer, and why there is none for others."""
    if not candidates:
        return {"lacking": f"no method has {decide.SEEDS} finished seeds here"}
    rows: list[Any] = [one["rows"] for one in candidates]
    least, most = min(rows), max(rows)
    why = f"measured with {least:g} to {most:g} examples, and nothing is extrapolated"
    return {"labels": [least, decide.FAR * most], "lacking": why}


def _candidates(
    cells: pd.DataFrame, draws: Draws, standings: Standings, most: int
) -> list[dict[str, object]]:
    """The larger of two measurements of a method comes later.

    `above` and `outdone` have a digit for each candidate: 1 if this one is told apart from it and
    better, and if it outdoes this one.
    """
    if cells.empty:
        return []
    above = pairs(cells, standings).above(levels(cells, standings))
    table = cells.rename(columns={"delta_bytes": "bytes", "label_rows": "labels"})
    outdone = pareto.dominates(costs(table["mean"], table)).T
    ranks = places(drawn(cells, draws)[:, :most])
    first = cells.assign(dropped=dropped(cells, standings), mean=cells["mean"].round(DIGITS))
    rising = {"dropped": True, "mean": False, "delta_bytes": True, "seconds": True, "method": True}
    order = list(first.sort_values(list(rising), ascending=list(rising.values())).index)
    return [
        {
            "method": str(row["method"]),
            "rows": row["label_rows"],
            "seconds": row["seconds"],
            "bytes": None if formatting.missing(row["delta_bytes"]) else row["delta_bytes"],
            "learned": bool(row["learned"]),
            "order": order.index(index),
            "positive": row["mean"] > 0,
            "above": _digits(above[at]),
            "outdone": _digits(outdone[at]),
            "ranks": ranks[at].tolist(),
            "shown": _shown(row),
        }
        for at, (index, row) in enumerate(zip(cells.index, cells.to_dict("records"), strict=True))
    ]


def _beside(cells: pd.DataFrame) -> list[tuple[float, list[int]]]:
    """From so many labels on the candidates measured side by side, by their numbers."""
    found = []
    for labels in sorted(cells["label_rows"].unique()):
        kept = decide.side_by_side(cells[cells["label_rows"] <= labels])
        found.append((float(labels), cells.index.get_indexer(kept.index).tolist()))
    return found


def places(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Each cell's place in each draw, 0 the highest; equal ones share theirs. cells x draws."""
    falling = np.sort(-values, axis=0)
    columns = zip(falling.T, -values.T, strict=True)
    return np.stack([np.searchsorted(line, each) for line, each in columns], axis=1)


def _digits(flags: NDArray[np.bool_]) -> str:
    return (flags + ord("0")).astype(np.uint8).tobytes().decode()


def _shown(row: dict[Any, Any]) -> list[str]:
    """The columns of the panel's table: score, data, budget and costs."""
    time, size = formatting.duration(row["train_seconds"]), formatting.size(row["delta_bytes"])
    return [
        formatting.mean(row),
        formatting.amount(row),
        formatting.budget(row["budget_unit"], row["budget"]),
        f"{time}, {size}",
    ]
