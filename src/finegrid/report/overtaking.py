"""Sentences on pairs of methods: at how many labels one overtakes the other, or that none does."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from finegrid.report.load.rankings import TABLE

MOST = 24  # pairs that a page names; csv/crossings.csv has all
WHY = {
    "chance": "differ by no more than chance at any amount",
    "side": "differ by more than chance on one side alone",
    "learned": "neither learned anything",
    "seeds": "fewer than two seeds in common",
    "sizes": "a difference with a spread at fewer than two amounts of labels",
}


def intro(level: float) -> str:
    """How to read the sentences."""
    return (
        "At how many labels (rows to train on and to select on) one method overtakes another, by "
        "lines between the means over log2(labels). In brackets all amounts around it at which the "
        f"difference could be chance ({100 * level:g} %, of a pair's amounts together)."
    )


def sentences(crossings: pd.DataFrame, table: Mapping[Any, Any]) -> list[str]:
    """What is told of one table's pairs, crossings first, then the rest in a count."""
    mine = crossings[(crossings[TABLE] == [table[name] for name in TABLE]).all(axis=1)]
    rank = mine["why"].ne("") * 2 + mine["labels"].isna()
    rows: list[Any] = list(mine.loc[rank.sort_values(kind="stable").index].itertuples())
    more = len(rows) - MOST
    rest = [f"and {more} more pairs, in csv/crossings.csv"] * (more > 0)
    return [*map(sentence, rows[:MOST]), *rest]


def sentence(row: Any) -> str:
    """One pair: `bitfit overtakes full at about 120 labels [64, above 1,000]`."""
    if row.why in ("learned", "seeds", "sizes"):
        return f"{row.first}, {row.second}: no crossing told: {WHY[row.why]}"
    crosses = row.labels == row.labels
    if row.why:
        where = (
            f"the means cross at about {_count(row.labels)} labels but" if crosses else "the means"
        )
        return f"{row.first}, {row.second}: no crossing told: {where} {WHY[row.why]}"
    if not crosses:
        apart = f"told apart at {row.told} of {row.sizes} amounts"
        return f"{row.first} leads {row.second} throughout ({apart})"
    low = f"below {_count(row.smallest)}" if row.low == 0 else _count(row.low)
    high = f"above {_count(row.largest)}" if row.high == float("inf") else _count(row.high)
    again = f"; the means cross {row.times} times" if row.times > 1 else ""
    return (
        f"{row.first} overtakes {row.second} at about {_count(row.labels)} labels "
        f"[{low}, {high}]{again}"
    )


def _count(labels: float) -> str:
    """Labels to three digits."""
    return f"{float(f'{labels:.3g}'):,.0f}"
