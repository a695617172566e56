"""What the benchmarks of an answer and of the search say of what was measured."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import ROOT
from grids import run, written

sys.path.insert(0, str(ROOT / "benchmarks"))
import answer
import regret


def measure(side: str, task: str, every: float) -> answer.Measure:
    return {"side": side, "tasks": task.split(), "cells": [6, 6], "all": every, "load": [1.0, 2.0]}


def test_a_sampled_side_is_the_mean_of_its_rounds_summed_over_tasks() -> None:
    sampled = [measure("peer", *of) for of in (("mrpc", 90.0), ("stsb", 50.0), ("mrpc", 110.0))]
    lines = answer.table([*sampled, measure("finegrid", "mrpc stsb", 60.0)]).splitlines()
    assert "| the peer's loop | 18 | 18 | 150 | mrpc 90; stsb 50; mrpc 110 |" in lines[-2]
    assert lines[-1].endswith("| nan | 0.40 |")  # of 0.6 nothing was measured


def test_a_side_with_a_task_missing_has_no_total() -> None:
    assert "| the peer's loop | 6 | 6 | nan |" in answer.table([measure("peer", "mrpc", 90.0)])


def test_the_sentence_names_the_best_and_those_level_with_it(tmp_path: Path) -> None:
    scores = {"full": 0.9, "lora": 0.9, "head": 0.5}
    runs = [run(m, seed, score + seed / 1000) for m, score in scores.items() for seed in range(4)]
    assert answer.sentence(written(tmp_path, runs)) == "mrpc: full is level with lora"


@pytest.mark.parametrize("diverged", [False, True])
def test_regret_is_the_grids_best_less_the_rate_found(tmp_path: Path, diverged: bool) -> None:
    means = {1e-3: 0.70, 1e-2: 0.80, 1e-1: 0.60}
    runs = [run("lora", s, mean + s / 100, lr=lr) for lr, mean in means.items() for s in (0, 1, 2)]
    found = [run("lora", seed, 0.75, lr=5e-3) for seed in (0, 1)]
    if diverged:
        found[1].status, found[1].test = "diverged", None
    trial = run("lora", 100, 0.99, lr=1e-2, trial=1, test=None)
    written(tmp_path / "grid", runs)
    written(tmp_path / "search", [*found, trial])
    given = Namespace(dir=tmp_path, searched=[], seeds=["0", "1"])
    line = "+0.4300 | 0.5374" if diverged else "+0.0550 | 0.0071"
    assert line in regret.table(given)
    assert "| mrpc | lora | 3 | 0.7050 | 0.8050 | 0.01 | 0.005 |" in regret.table(given)
