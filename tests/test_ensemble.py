"""Ensembles of finished runs: outputs averaged, costs added up."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Runs

from finegrid.analysis import ensemble as analysis
from finegrid.analysis.rows import scored
from finegrid.analysis.weights import finished
from finegrid.commands import ensemble
from finegrid.errors import UserError
from finegrid.inference import restore
from finegrid.runs.record import read


def test_an_ensemble_is_the_mean_of_its_members_logits(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [runs(f"method=bitfit seed={seed}") for seed in (0, 1)] + [runs("method=lora")]
    out = tmp_path / "ensembles.csv"
    ensemble.main([*map(str, places), "--out", str(out)])
    (row,) = pd.read_csv(out).to_dict("records")
    members = [restore(place) for place in places[:2]]
    rows = scored(members[0], "test")
    mean = torch.stack([member.outputs(rows.texts) for member in members]).mean(0)
    task, labels = members[0].task, members[0].task.collate(rows.labels)
    assert row["ensemble"] == pytest.approx(task.score(mean, labels)[task.headline])
    records = [read(place) for place in places[:2]]
    assert row["mean"] == pytest.approx(sum(r.test or 0 for r in records) / 2, abs=1e-6)
    assert row["best"] == pytest.approx(max(r.test or 0 for r in records), abs=1e-6)
    assert row["delta_bytes"] == sum(r.delta_bytes or 0 for r in records)
    assert row["train_seconds"] == pytest.approx(sum(r.train_seconds or 0 for r in records))
    assert "| bitfit | 2    |" in capsys.readouterr().out


def test_only_seeds_may_differ(runs: Runs) -> None:
    like = [runs(f"method=bitfit seed={seed}") for seed in (1, 0)]
    other = [runs("method=bitfit loss=ldam"), runs("method=bitfit optim.lr=0.01 seed=2")]
    groups: dict[Any, list[Path]] = analysis.grouped(finished([*other, *like]))
    assert sorted(map(len, groups.values())) == [1, 1, 2]
    assert like[::-1] in groups.values(), "in the order of their seeds"


def test_runs_that_make_no_ensemble_are_refused(runs: Runs) -> None:
    with pytest.raises(UserError, match="no two of these runs differ in their seed alone"):
        ensemble.main([str(runs("method=bitfit")), str(runs("method=lora"))])
