"""What the page's script computes with: candidates, draws and tables, safe inside HTML."""

import base64
import json
from typing import Any

import numpy as np
import pandas as pd

from finegrid.report import formatting
from finegrid.report.load.rankings import CELL, RANKING, Results
from finegrid.report.recommend.decide import seconds
from finegrid.report.recommend.options import Draws, Standings
from finegrid.report.stats import simultaneous

VALUES = 2_000_000  # draws embedded: two bytes each


def script_json(value: object) -> str:
    """JSON that ends no script element, whatever a text in it says."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def choices(
    results: Results, cells: pd.DataFrame, draws: Draws, standings: Standings
) -> dict[str, object]:
    """What the decision panel computes with: candidates by task and kind of budget, as bytes their
    draws, and which of two is told apart from the other and better.
    """
    known = {key: number for number, key in enumerate(draws)}
    total = sum(len(methods) for methods, _ in draws.values())
    most = max(100, VALUES // max(1, total))
    tasks = []
    setting: Any
    task: Any
    scored = cells[(cells.ok > 0) & cells[["train_rows", "train_seconds"]].notna().all(axis=1)]
    scored = scored.assign(seconds=seconds(scored))
    by = ["setting", "task", "budget_unit"]
    unit: Any
    for (setting, task, unit), own in scored.groupby(by, observed=True):
        several = f" (setting {setting + 1})" if len(results.settings) > 1 else ""
        same = scored["setting"].eq(setting) & scored["task"].eq(task)
        kind = f", budgets in {unit}" if scored.loc[same, "budget_unit"].nunique() > 1 else ""
        rows = own.to_dict("records")
        tasks.append({
            "label": f"{task}{kind}{several}",
            "cells": [_candidate(row, draws, known) for row in rows],
            "above": _above(rows, standings),
        })  # fmt: skip
    return {"tasks": tasks, "draws": [packed(values, most) for _, values in draws.values()]}


def _above(rows: list[dict[Any, Any]], standings: Standings) -> str:
    """A bit for each pair, row by row: whether the first is better than the second, told apart."""
    found = [standings[tuple(row[name] for name in CELL)] for row in rows]
    told = simultaneous.pairs([one for one, _ in found], [spread for _, spread in found])
    return base64.b64encode(np.packbits(told.above(), bitorder="little").tobytes()).decode()


def _candidate(
    row: dict[Any, Any], draws: Draws, known: dict[tuple[object, ...], int]
) -> dict[str, object]:
    key = tuple(row[name] for name in RANKING)
    names = draws[key][0] if key in draws else []
    return {
        "method": str(row["method"]),
        "rows": row["train_rows"],
        "seconds": row["seconds"],
        "bytes": 0 if formatting.missing(row["delta_bytes"]) else row["delta_bytes"],
        "ok": int(row["ok"]),
        "mean": row["mean"],
        "learned": bool(row["learned"]),
        "data": formatting.percent(row["fraction"]),
        "budget": formatting.budget(row["budget_unit"], row["budget"]),
        "cost": f"{formatting.duration(row['train_seconds'])}, "
        f"{formatting.size(row['delta_bytes'])}",
        "draws": [known[key], names.index(row["method"])] if row["method"] in names else None,
    }


def packed(values: np.ndarray, most: int) -> dict[str, object]:
    """Draws (methods x n) as base64 of little-endian 16-bit steps between their extremes."""
    values = values[:, :most]
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / ((high - low) or 1.0) * 65535).astype("<u2")
    return {"low": low, "high": high, "n": values.shape[1],
            "data": base64.b64encode(steps.tobytes()).decode()}  # fmt: skip
