"""Recommendations on trial: each task left out, decided by the others, against simple rules."""

from pathlib import Path

import pandas as pd
import pytest
from commands import call
from test_decide import LEVEL, noise, table

from finegrid.report.comparison import Comparison
from finegrid.report.recommend.crosscheck import Choice, cross_check, text
from finegrid.report.recommend.decide import Asked


def alike(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
    """Tasks agree, but for `odd`, where bitfit is far above full."""
    other = {"bitfit": 0.2} if task == "odd" else {}
    return LEVEL[method] + other.get(method, 0.0) + 0.002 * noise(method, task, fraction, seed)


def checked(runs: pd.DataFrame, **asked: object) -> dict[str, Choice]:
    choices = cross_check(Comparison.of(runs), Asked(**asked))  # type: ignore[arg-type]
    return {f"{one.task} {one.labels}": one for one in choices}


def test_each_task_is_decided_by_the_others() -> None:
    runs = table(alike, tasks=("mrpc", "cola", "odd"), fractions=(0.1, 1.0))
    found = checked(runs)
    assert set(found) == {f"{task} {n}" for task in ("mrpc", "cola", "odd") for n in (100, 1000)}
    odd = found["odd 1000"]
    assert (odd.named, odd.best, odd.apart) == ("full", "bitfit", True)
    assert odd.regret == pytest.approx(0.19, abs=0.01)
    assert odd.always == pytest.approx(odd.regret)
    assert odd.drawn == pytest.approx(0.19 / 3 + 0.44 / 3, abs=0.01)
    assert found["mrpc 1000"].named == "bitfit", "the odd task tips the mean over two"
    only = checked(runs, task="odd", labels=500)
    assert list(only) == ["odd 100"]


def test_a_limit_holds_for_the_best_too() -> None:
    found = checked(table(alike, tasks=("mrpc", "cola")), megabytes=1.0)
    one = found["mrpc 1000"]
    assert (one.named, one.best, one.regret) == ("bitfit", "bitfit", 0.0)
    assert one.always != one.always, "full is over the limit"


def test_other_tasks_with_other_numbers_of_labels_are_asked_without_one() -> None:
    runs = table(alike, tasks=("mrpc", "cola"), fractions=(1.0,))
    runs.loc[runs["task"].eq("cola"), "train_rows"] += 100
    found = checked(runs)
    assert found["mrpc 1000"].unlimited
    assert not found["cola 1100"].unlimited
    assert "| 1000 ~ " in text(list(found.values()))


def test_what_has_no_answer_is_counted_apart() -> None:
    alone = checked(table(alike))
    assert {one.named for one in alone.values()} == {""}
    assert "No answer: 3 of 3." in text(list(alone.values()))
    runs = table(alike, tasks=("mrpc", "cola"), fractions=(1.0,), metric="matthews")
    runs.loc[runs["task"].eq("cola"), "degenerate"] = True
    found = checked(runs)
    assert "no method that fits learned anything" in found["mrpc 1000"].lacking
    assert "no method learned anything on the task left out" in found["cola 1000"].lacking
    few = checked(table(alike, tasks=("mrpc", "cola"), seeds=range(2)))
    assert text(list(few.values())).startswith("Nothing to check")


def test_the_command_prints_one_table_and_the_mean_regrets(tmp_path: Path) -> None:
    tasks = ("mrpc", "cola", "builtin_a", "builtin_b")
    table(alike, tasks=tasks, fractions=(1.0,)).to_parquet(tmp_path / "runs.parquet")
    result = call(str(tmp_path), "--check", command="recommend")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| task ")
    assert sum(line.startswith("|") for line in lines) == 2 + len(tasks)
    assert any(line.startswith("Mean regret of 2 answers on 2 real tasks: 0.0") for line in lines)
    last = lines[-1]
    assert last.startswith("Mean regret of 2 answers on 2 constructed tasks: 0.0")
    assert "always full 0.0" in last
    assert "at random 0." in last
