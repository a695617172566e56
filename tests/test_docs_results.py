"""The results that docs/results publishes are what the report makes of their runs.parquet today."""

import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from finegrid.report import tables
from finegrid.report.load.rankings import results
from finegrid.report.stats import compare

STORED = sorted((ROOT / "docs/results").glob("*/runs.parquet"))
SCORE = re.compile(r"-?\d\.\d{4} ± \S+ \(\d+")  # mean, standard deviation and number of seeds
PLACE = ["task", "budget_unit", "budget", "fraction", "method"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_means_are_those_of_the_runs_and_of_the_published_tables(path: Path) -> None:
    ours = results([path])
    cells = compare.cells(ours)
    raw = pd.read_parquet(path).query("status == 'ok'")
    plain = raw[~raw["overrides"].str.contains("method.", regex=False)]
    by_hand = plain.groupby(PLACE)["test"].agg(["mean", "std", "size"])
    by_hand = by_hand[by_hand.index.isin(cells.set_index(PLACE).index)]  # variants apart
    compared = cells.set_index(PLACE).loc[by_hand.index]
    assert len(compared) > 5
    assert compared["mean"].tolist() == pytest.approx(by_hand["mean"].tolist(), abs=1e-12)
    assert compared["sd"].tolist() == pytest.approx(by_hand["std"].tolist(), abs=1e-12)
    assert compared["ok"].tolist() == by_hand["size"].tolist()
    best = compare.against_best(ours)
    today = SCORE.findall(tables.markdown(ours, cells, best).replace("**", ""))
    published = (path.parent / "report.md").read_text(encoding="utf-8").replace("**", "")
    assert today == SCORE.findall(published)
    assert len(today) >= len(by_hand)
