"""What the page's script computes with: candidates, draws and tables, safe inside HTML."""

import base64
import json
from typing import Any

import numpy as np
import pandas as pd

from finegrid.report import words
from finegrid.report.choice.decide import seconds
from finegrid.report.choice.options import Draws
from finegrid.report.frame import RANKING, Results

VALUES = 2_000_000  # draws embedded: two bytes each


def script_json(value: object) -> str:
    """JSON that ends no script element, whatever a text in it says."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def choices(results: Results, cells: pd.DataFrame, draws: Draws) -> dict[str, object]:
    """What the decision panel computes with: candidates by task, and their draws as bytes."""
    known = {key: number for number, key in enumerate(draws)}
    total = sum(len(methods) for methods, _ in draws.values())
    most = max(100, VALUES // max(1, total))
    tasks = []
    setting: Any
    scored = cells[(cells.ok > 0) & cells[["train_rows", "train_seconds"]].notna().all(axis=1)]
    scored = scored.assign(seconds=seconds(scored))
    for (setting, task), own in scored.groupby(["setting", "task"], observed=True):
        several = f" (setting {setting + 1})" if len(results.settings) > 1 else ""
        tasks.append({
            "label": f"{task}{several}",
            "cells": [_candidate(row, draws, known) for row in own.to_dict("records")],
        })  # fmt: skip
    return {"tasks": tasks, "draws": [packed(values, most) for _, values in draws.values()]}


def _candidate(
    row: dict[Any, Any], draws: Draws, known: dict[tuple[object, ...], int]
) -> dict[str, object]:
    key = tuple(row[name] for name in RANKING)
    names = draws[key][0] if key in draws else []
    return {
        "method": str(row["method"]),
        "rows": row["train_rows"],
        "seconds": row["seconds"],
        "bytes": 0 if words.missing(row["delta_bytes"]) else row["delta_bytes"],
        "ok": int(row["ok"]),
        "mean": row["mean"],
        "data": words.percent(row["fraction"]),
        "budget": words.budget(row["budget_unit"], row["budget"]),
        "cost": f"{words.duration(row['train_seconds'])}, {words.size(row['delta_bytes'])}",
        "draws": [known[key], names.index(row["method"])] if row["method"] in names else None,
    }


def packed(values: np.ndarray, most: int) -> dict[str, object]:
    """Draws (methods x n) as base64 of little-endian 16-bit steps between their extremes."""
    values = values[:, :most]
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / ((high - low) or 1.0) * 65535).astype("<u2")
    return {"low": low, "high": high, "n": values.shape[1],
            "data": base64.b64encode(steps.tobytes()).decode()}  # fmt: skip
