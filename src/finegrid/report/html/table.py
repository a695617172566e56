"""The rows of the page's table: a cell each, in words and as numbers to sort by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from finegrid.report import formatting
from finegrid.report.figures import specs
from finegrid.report.load.rankings import CELL, RANKING


@dataclass(frozen=True)
class Whisker:
    """An interval on a line from 0 to 100, the same for all methods of a task."""

    low: float | None
    mean: float
    high: float | None


def rows(cells: pd.DataFrame, against_best: pd.DataFrame) -> list[dict[str, Any]]:
    """A row of the table per cell, best first within a ranking."""
    renamed = {"low": "behind_low", "high": "behind_high"}
    columns = [*CELL, "best", "difference", "low", "high", "p_adjusted", "tie"]
    joined = specs.with_trainable(cells).merge(
        against_best[columns].rename(columns=renamed), on=CELL, how="left"
    )
    by = [*RANKING, "mean"]
    rising = [name not in ("fraction", "mean") for name in by]
    joined = joined.sort_values(by, ascending=rising, kind="stable")
    scales = {key: _scale(own) for key, own in joined.groupby(["setting", "task"], observed=True)}
    return [
        _row(number, row, scales[row["setting"], row["task"]])
        for number, row in enumerate(joined.to_dict("records"))
    ]


def _row(number: int, row: dict[Any, Any], scale: tuple[float, float]) -> dict[str, Any]:
    best = row["best"] == row["method"]
    scored = row["ok"] > 0
    verdict = "best" if best else "level" if row["tie"] is True else ""
    return {
        "id": f"cell-{number}",
        "key": tuple(row[name] for name in CELL),
        "ranking": tuple(row[name] for name in RANKING),
        "method": str(row["method"]),
        "task": str(row["task"]),
        "setting": f"{row['setting'] + 1}",
        "data": (formatting.percent(row["fraction"]), row["fraction"]),
        "budget": (formatting.budget(row["budget_unit"], row["budget"]), row["budget"]),
        "score": (formatting.score(row["mean"]), _value(row["mean"])),
        "interval": formatting.span(row["low"], row["high"]),
        "whisker": _whisker(row, scale) if scored else None,
        "low": _value(row["low"]),
        "behind": (_behind(row, best), _value(row["difference"])),
        "margin": "" if best else formatting.span(row["behind_low"], row["behind_high"]),
        "verdict": verdict if scored else "",
        "p": (
            _probability(row["p_adjusted"]) if scored and not best else "",
            _value(row["p_adjusted"]),
        ),
        "seeds": (_seeds(row), int(row["ok"])),
        "missing": int(row["missing"]),
        "whole": row["ok"] > 0 and not row["failed"] and not row["missing"],
        "trained": (formatting.count(row["trainable"]), _value(row["trainable"])),
        "stored": (formatting.size(row["delta_bytes"]), _value(row["delta_bytes"])),
        "seconds": (formatting.duration(row["train_seconds"]), _value(row["train_seconds"])),
    }


def _value(value: float) -> str:
    """What a column is sorted by; empty where there is nothing."""
    return "" if formatting.missing(value) else f"{value:.9g}"


def _behind(row: dict[Any, Any], best: bool) -> str:
    if best or formatting.missing(row["difference"]):
        return ""
    return formatting.score(row["difference"])


def _probability(p: float) -> str:
    if formatting.missing(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(row: dict[Any, Any]) -> str:
    """`5`, or what became of the others."""
    constant = (
        round(row["ok"] * row["degenerate"]) if not formatting.missing(row["degenerate"]) else 0
    )
    parts = [
        f"{int(row['ok'])}",
        *([str(row["failures"])] if row["failed"] else []),
        *([f"{int(row['missing'])} missing"] if row["missing"] else []),
        *([f"{constant} constant"] if constant else []),
        *(["no better than a constant"] if row["ok"] > constant and not row["learned"] else []),
    ]
    return ", ".join(parts)


def _scale(cells: pd.DataFrame) -> tuple[float, float]:
    """From the lowest mean to the highest, and half as far again as intervals usually reach."""
    scored = cells[cells.ok > 0]
    if scored.empty:
        return 0.0, 1.0
    low, high = float(scored["mean"].min()), float(scored["mean"].max())
    half = float(((scored.high - scored.low) / 2).median(skipna=True))
    room = max(0.05 * (high - low), min(half, high - low) if half > 0 else 0.0, 1e-3)
    return low - room, high + room


def _whisker(row: dict[Any, Any], scale: tuple[float, float]) -> Whisker:
    low, high = scale

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)

    unknown = formatting.missing(row["low"]) or formatting.missing(row["high"])
    return Whisker(
        None if unknown else at(row["low"]), at(row["mean"]), None if unknown else at(row["high"])
    )


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The columns that say where a row belongs: only those that differ, with their values."""
    found = {}
    for name in ("setting", "task", "data", "budget"):
        texts = [row[name] for row in rows]
        plain = [text if isinstance(text, str) else text[0] for text in texts]
        if len(values := list(dict.fromkeys(plain))) > 1:
            found[name] = values
    found["method"] = list(dict.fromkeys(sorted(row["method"] for row in rows)))
    return found
