"""The results that docs/results publishes are what the report makes of their runs.parquet today."""

import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from finegrid.report import tables
from finegrid.report.load.rankings import results
from finegrid.report.stats import compare

STORED = sorted((ROOT / "docs/results").glob("*/runs.parquet"))
SCORE = re.compile(r"-?\d\.\d{4} ± \S+ \(\d+")  # mean, standard deviation and number of seeds
PLACE = ["model", "head", "task", "budget_unit", "budget", "fraction", "method", "options", "lr"]
MIXED = {"version": "finegrid mixed", "head": "head mixed", "precision": "precision mixed"}
CELL = ["mean", "sd", "ok"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_means_are_those_of_the_runs_and_of_the_published_tables(path: Path) -> None:
    published = (path.parent / "report.md").read_text(encoding="utf-8").replace("**", "")
    ours = results([path], mix=[name for name, said in MIXED.items() if said in published])
    cells = compare.cells(ours)
    raw = pd.read_parquet(path).query("status == 'ok'")
    named = (
        raw["head"].astype(object) if "head" in raw else pd.Series(index=raw.index, dtype=object)
    )
    raw["head"] = named.fillna("classifier")  # which older runs do not name
    raw["options"] = raw["overrides"].str.findall(r"method\.\S+").str.join(" ")
    by_hand = raw.groupby(PLACE)["test"].agg(mean="mean", sd="std", ok="size")
    assert len(cells) > 2
    assert _sorted(cells) == pytest.approx(_sorted(by_hand), abs=1e-12)
    best = compare.against_best(ours)
    today = SCORE.findall(tables.markdown(ours, cells, best).replace("**", ""))
    assert today == SCORE.findall(published)
    assert len(today) >= len(by_hand)


def test_all_published_runs_are_read_together_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(results(STORED).runs) > 1000


def _sorted(cells: pd.DataFrame) -> list[float]:
    """Means, spreads and numbers of runs in an order of their own, where none is -1."""
    return cells[CELL].astype(float).fillna(-1).sort_values(CELL).to_numpy().ravel().tolist()
