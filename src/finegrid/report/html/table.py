"""The rows of the page's table: a cell each, in words and as numbers to sort by."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from finegrid.report import formatting
from finegrid.report.figures import keys
from finegrid.report.load.rankings import CELL, RANKING
from finegrid.report.tables import seeds

PLACES = ("setting", "task", "data", "budget")  # columns that say where a row belongs


class Value(NamedTuple):
    """What stands in a column, and what the column is sorted by (a number, or nothing)."""

    text: str
    number: str = ""


def rows(cells: pd.DataFrame, against_best: pd.DataFrame) -> list[dict[str, Any]]:
    """A row of the table per cell, best first within a ranking."""
    behind = against_best[[*CELL, "best", "difference", "low", "high", "p_adjusted", "tie"]]
    joined = keys.with_trainable(cells).merge(
        behind.rename(columns={"low": "behind_low", "high": "behind_high"}), on=CELL, how="left"
    )
    by = [*RANKING, "mean"]
    rising = [name not in ("fraction", "mean") for name in by]
    joined = joined.sort_values(by, ascending=rising, kind="stable", ignore_index=True)
    joined = _with_whiskers(joined)
    return [_row(number, row) for number, row in enumerate(joined.to_dict("records"))]


def _row(number: int, row: dict[Any, Any]) -> dict[str, Any]:
    best, scored = row["best"] == row["method"], row["ok"] > 0
    verdict = "best" if best else "level" if row["tie"] is True else ""
    behind = "" if best else formatting.score(row["difference"]).replace(formatting.DASH, "")
    return {
        "id": f"cell-{number}",
        "key": tuple(row[name] for name in CELL),
        "ranking": tuple(row[name] for name in RANKING),
        "method": str(row["method"]),
        "task": Value(str(row["task"])),
        "setting": Value(f"{row['setting'] + 1}"),
        "data": _value(formatting.amount(row), row["fraction"]),
        "budget": _value(formatting.budget(row["budget_unit"], row["budget"]), row["budget"]),
        "score": _value(formatting.mean(row), row["mean"]),
        "interval": _value(formatting.span(row["low"], row["high"]), row["low"]),
        "stopped": bool(formatting.stopped(row)),
        "shared": bool(formatting.about(row)),
        "whisker": [row["at_low"], row["at_mean"], row["at_high"]] if scored else None,
        "behind": _value(behind, row["difference"]),
        "margin": "" if best else formatting.span(row["behind_low"], row["behind_high"]),
        "verdict": verdict if scored else "",
        "p": _value(_probability(row["p_adjusted"]) if scored and not best else "",
                    row["p_adjusted"]),
        "seeds": _value(seeds(row), row["ok"]),
        "missing": int(row["missing"]),
        "complete": scored and not row["failed"] and not row["missing"],
        "trained": _value(formatting.count(row["trainable"]), row["trainable"]),
        "stored": _value(formatting.size(row["delta_bytes"]), row["delta_bytes"]),
        "seconds": _value(formatting.about(row) + formatting.duration(row["train_seconds"]),
                          row["train_seconds"]),
        "forgetting": _value(formatting.forgetting(row["forgetting"]), row["forgetting"]),
    }  # fmt: skip


def _value(text: str, number: float) -> Value:
    return Value(text, "" if formatting.missing(number) else f"{number:.9g}")


def _probability(p: float) -> str:
    if formatting.missing(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _with_whiskers(cells: pd.DataFrame) -> pd.DataFrame:
    """With the ends of each interval on a line from 0 to 100, the same for all of a task.

    The line goes from the lowest mean to the highest, and as far again as intervals usually reach.
    """
    half = ((cells["high"] - cells["low"]) / 2).where(cells["ok"] > 0)
    means = cells["mean"].where(cells["ok"] > 0)
    place = [cells["setting"], cells["task"]]
    low, high = means.groupby(place).transform("min"), means.groupby(place).transform("max")
    usual = half.groupby(place).transform("median").fillna(0)
    room = (0.05 * (high - low)).clip(lower=usual.clip(upper=high - low)).clip(lower=1e-3)
    line = {
        f"at_{name}": (100 * (cells[name] - low + room) / (high - low + 2 * room)).clip(0, 100)
        for name in ("low", "mean", "high")
    }
    at = cells.assign(**line)
    at[["at_low", "at_high"]] = at[["at_low", "at_high"]].mask(half.isna())
    return at.round({name: 1 for name in line})


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The columns that say where a row belongs: only those that differ, with their values."""
    texts = {name: list(dict.fromkeys(row[name].text for row in rows)) for name in PLACES}
    differing = {name: values for name, values in texts.items() if len(values) > 1}
    return differing | {"method": sorted({row["method"] for row in rows})}
