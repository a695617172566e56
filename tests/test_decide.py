"""Decisions: what fits the limits, how likely it is the best, and when nothing is said."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import call

from finegrid.errors import UserError
from finegrid.report import pareto
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.report.recommend import text
from finegrid.report.recommend.decide import Asked, Decision, bearing, decide
from finegrid.report.recommend.options import probability_best
from finegrid.report.stats import compare
from finegrid.runs.record import Record

ROWS = {0.1: 100, 0.3: 300, 1.0: 1000}
SECONDS = {"full": 120.0, "bitfit": 60.0, "head": 6.0}
BYTES = {"full": 400e6, "bitfit": 0.4e6, "head": 0.01e6}
LEVEL = {"full": 0.85, "bitfit": 0.84, "head": 0.6}


def table(
    score: Callable[[str, str, float, float, int], float],
    *,
    methods: Iterable[str] = ("full", "bitfit", "head"),
    tasks: Iterable[str] = ("mrpc",),
    fractions: Iterable[float] = (0.1, 0.3, 1.0),
    budgets: Iterable[float] = (3.0,),
    seeds: Iterable[int] = range(5),
    **changes: object,
) -> pd.DataFrame:
    """A grid's runs, as `frame.load` gives them, with a score for each place and seed."""
    rows = []
    for method, task, fraction, budget, seed in product(methods, tasks, fractions, budgets, seeds):
        values: dict[str, object] = {
            "method": method, "task": task, "model": "tiny", "fraction": fraction,
            "budget_unit": "epochs", "budget": budget, "seed": seed, "protocol": "holdout",
            "overrides": [], "status": "ok", "metric": "f1", "precision": "32",
            "test": score(method, task, fraction, budget, seed), "validation": 0.5,
            "train_rows": ROWS[fraction] - 50, "validation_rows": 50, "test_rows": 40_000,
            "train_seconds": SECONDS.get(method, 60.0) * fraction, "degenerate": False,
            "delta_bytes": BYTES.get(method, 1e6),
            "cell": f"{method}-{task}-{fraction}-{budget}-{seed}",
            "command": "python train.py experiment=made_up", "device": "cpu",
        }  # fmt: skip
        record = asdict(Record(**(values | changes)))  # type: ignore[arg-type]
        for name in ("metrics", "versions"):
            del record[name]
        rows.append(record | {"overrides": "", "directory": "", "version": "1"})
    return pd.DataFrame(rows)


def noise(*key: object) -> float:
    """Standard normal, the same for the same key."""
    words = np.frombuffer(repr(key).encode(), np.uint8)
    return float(np.random.default_rng(words.tolist()).normal())


def usual(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
    """More rows help; full is a little above bitfit, head far below."""
    return LEVEL[method] + 0.05 * fraction + 0.002 * noise(method, task, fraction, seed)


def decided(runs: pd.DataFrame, **asked: object) -> Decision:
    """The decision on runs; limits that leave everything in unless told otherwise."""
    limits = {"labels": 1000, "minutes": 10.0, "megabytes": 1000.0} | asked
    return decide(Comparison.of(runs), Asked(**limits))  # type: ignore[arg-type]


def sentence(decision: Decision) -> str:
    """What is said of a decision."""
    return text.answer(decision).sentence


def test_the_best_within_the_limits_is_chosen() -> None:
    runs = table(usual)
    assert decided(runs).choice == "full"
    assert decided(runs, megabytes=1.0).choice == "bitfit"
    assert decided(runs, minutes=1.0, megabytes=1.0).choice == "bitfit"
    assert decided(runs, minutes=0.9).choice == "full", "with fewer labels, it still fits"


def test_labels_are_those_to_train_on_and_those_to_select_on() -> None:
    """Of protocol dev the latter are the test rows, which nobody labels for the run."""
    runs = table(usual)
    fewest = min(ROWS.values())
    assert decided(runs, labels=fewest).choice is not None
    assert decided(runs, labels=fewest - 1).choice is None
    assert decided(runs.assign(protocol="dev"), labels=fewest - 50).choice is not None


def test_a_method_stands_with_its_most_labels_within_the_limits() -> None:
    found = decided(table(usual), labels=500, minutes=0.4)
    fractions = dict(zip(found.cells["method"].astype(str), found.cells["fraction"], strict=True))
    assert fractions == {"full": 0.1, "bitfit": 0.3, "head": 0.3}


def test_methods_are_compared_where_they_were_measured_side_by_side() -> None:
    """What more rows bring is no merit of the method that was given them."""
    runs = table(usual, methods=("full", "bitfit", "head"))
    few = runs[runs["method"].ne("full") | runs["fraction"].lt(1.0)]
    found = decided(few)
    assert found.choice == "bitfit", "full was not measured with all rows"
    assert any("not side by side with these: full." in note for note in found.notes)
    assert set(found.cells["fraction"]) == {1.0}
    assert decided(few, labels=500).choice == "full"
    alone = runs[runs["method"].eq("head") | runs["fraction"].lt(1.0)]
    assert set(decided(alone).cells["fraction"]) == {0.3}, "one method is no comparison"
    longer = table(usual, methods=("head",), budgets=(9.0,), fractions=(1.0,))
    assert set(decided(pd.concat([runs, longer], ignore_index=True)).cells["budget"]) == {3.0}


def test_of_as_many_methods_more_tasks_are_compared_on() -> None:
    """A task of which other methods were run does not keep out those that agree."""
    every = table(usual, tasks=("cola", "mrpc", "stsb"), methods=("full", "bitfit", "head"))
    other = table(lambda m, *rest: usual("full", *rest) - 0.1 * (m == "lora"), tasks=("rte",),
                  methods=("full", "lora", "dora", "vera"))  # fmt: skip
    found = decided(pd.concat([every, other], ignore_index=True))
    assert found.tasks == ["cola", "mrpc", "stsb"]
    assert set(found.options["method"]) == {"full", "bitfit", "head"}


def test_a_task_on_which_a_method_fails_counts_against_it() -> None:
    def score(method: str, task: str, *rest: Any) -> float:
        best = {"full": 0.80, "bitfit": 0.81, "head": 0.3}[method]
        return (0.0 if (method, task) == ("bitfit", "cola") else best) + 0.001 * noise(
            method, task, rest
        )

    runs = table(score, tasks=("cola", "mrpc", "stsb"), metric="matthews")
    failed = runs["method"].eq("bitfit") & runs["task"].eq("cola")
    runs.loc[failed, "degenerate"] = True
    found = decided(runs)
    assert (found.tasks, found.choice) == (["cola", "mrpc", "stsb"], "full")
    assert not found.options.set_index("method").loc["bitfit", "level"]
    assert any("no choice for such a task: bitfit on cola." in note for note in found.notes)
    assert set(decided(runs, task="cola").options["method"]) == {"full", "head"}


def test_of_several_budgets_the_largest_counts_and_not_the_luckiest() -> None:
    def lucky(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        return usual(method, task, fraction, budget, seed) + 0.1 * (budget == 1.0)

    runs = table(lucky, budgets=(1.0, 3.0))
    runs["train_seconds"] *= runs["budget"]
    assert set(decided(runs).cells["budget"]) == {3.0}


def test_kinds_of_budget_are_not_set_against_one_another() -> None:
    epochs = table(usual, methods=("full", "bitfit"))
    seconds = table(usual, methods=("bitfit", "head"), budgets=(6.0,), budget_unit="seconds")
    runs = pd.concat([epochs, seconds], ignore_index=True)
    found = decided(runs)
    assert (found.unit, set(found.options["method"])) == ("epochs", {"full", "bitfit"})
    assert "Budgets in epochs are compared; those in seconds are not" in found.notes[-1]
    assert "budgets in epochs" in text.brief(found)
    asked = decided(runs, budget="seconds")
    assert set(asked.options["method"]) == {"bitfit", "head"}
    with pytest.raises(UserError, match="no budgets in second; did you mean 'seconds'"):
        decided(runs, budget="second")


def test_a_method_that_learned_nothing_is_not_recommended() -> None:
    runs = table(usual, metric="matthews")
    dull = runs["method"].eq("full")
    runs.loc[dull, "degenerate"] = True
    assert decided(runs).choice == "bitfit"
    runs["degenerate"] = True
    assert "no method that fits learned anything" in str(decided(runs).lacking)


def test_two_equal_methods_are_level_in_report_and_recommend() -> None:
    rng = np.random.default_rng(0)
    clear = 0
    for _ in range(12):
        noisy = table(lambda *_: 0.8 + 0.02 * rng.normal(), methods=("full", "bitfit"),
                      fractions=(1.0,), seeds=range(3))  # fmt: skip
        found = decided(noisy)
        best = compare.against_best(rankings.gather(noisy))
        assert found.clear == (best["tie"].sum() == 1)
        assert found.choice == best["best"].iloc[0]
        clear += found.clear
    assert clear <= 3, "5 % and chance"


def test_a_budget_in_seconds_is_what_it_says() -> None:
    runs = table(usual, budgets=(60.0,), budget_unit="seconds", train_seconds=60.4)
    assert decided(runs, minutes=1.0).choice == "full"
    assert decided(runs, minutes=0.99).choice is None


def test_the_probabilities_are_shares_of_draws() -> None:
    joint = np.array([[1.0, 2.0, 3.0, 5.0], [0.0, 3.0, 3.0, 1.0]])
    assert probability_best(joint).tolist() == [0.625, 0.375]
    same = decided(table(lambda m, t, f, b, seed: 0.8 + 0.01 * ((seed + len(m)) % 5)))
    assert same.options["probability"].sum() == pytest.approx(1)
    assert not same.clear
    assert "cannot be told apart from" in sentence(same)
    two = decided(table(usual, methods=("full", "head")))
    assert sentence(two).startswith("full is the best on mrpc within")


def test_several_tasks_weigh_alike_whatever_their_metrics_size() -> None:
    """On the raw mean the method that is 0.04 better on the easy task would win."""

    def scores(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        best = {"easy": {"full": 0.90, "bitfit": 0.86}, "hard": {"full": 0.07, "bitfit": 0.10}}
        return best[task][method] + 0.001 * noise(method, task, seed)

    found = decided(table(scores, methods=("full", "bitfit"), tasks=("easy", "hard")))
    assert found.tasks == ["easy", "hard"]
    assert found.choice == "bitfit"
    assert found.options["score"].iloc[0] == pytest.approx((0.86 / 0.9 + 1) / 2, abs=0.01)


def test_only_full_tables_are_compared() -> None:
    runs = table(usual, tasks=("mrpc", "cola"))
    kept = runs[(runs["method"] != "head") | (runs["task"] == "mrpc")]
    found = decided(kept)
    assert set(found.options["method"]) == {"full", "bitfit"}
    assert found.tasks == ["cola", "mrpc"]
    assert any("not on every task compared: head" in note for note in found.notes)


def test_the_front_has_whatever_is_not_outdone() -> None:
    points = np.array([[-0.9, 10, 9], [-0.8, 5, 1], [-0.8, 6, 1], [-0.7, 5, 2]])
    assert pareto.front(points).tolist() == [True, True, False, False]
    assert pareto.front(points[[1, 1]]).tolist() == [True, True], "equal ones do not outdo"
    some = np.random.default_rng(0).integers(1, 6, (50, 8, 3)).astype(float)
    for costs in some:
        outdone = [any((a <= b).all() and (a < b).any() for a in costs) for b in costs]
        assert pareto.front(costs).tolist() == [not one for one in outdone]


LACKING = {
    "seeds": ({"seeds": range(2)}, {}, "no method has 3 finished seeds on a task (the most: 2)"),
    "methods": ({"methods": ("bitfit",)}, {}, "fewer than 2 methods fit"),
    "alone": ({}, {"megabytes": 0.1}, "fewer than 2 methods fit on one task and learned something "
              "(head)"),
    "below": ({}, {"labels": 99}, "99 labels are fewer than any measured"),
    "above": ({}, {"labels": 2001}, "2001 labels are fewer than any measured, or more than 2 times "
              "the most (100 to 1000 on mrpc)"),
    "time": ({}, {"minutes": 0.001}, "the quickest takes 0.01 min"),
}  # fmt: skip


@pytest.mark.parametrize(("grid", "asked", "reason"), LACKING.values(), ids=LACKING)
def test_what_is_not_known_is_not_said(
    grid: dict[str, object], asked: dict[str, object], reason: str
) -> None:
    found = decided(table(usual, **grid), **asked)  # type: ignore[arg-type]
    assert found.choice is None
    assert reason in str(found.lacking)
    assert sentence(found).startswith("Not enough evidence within")


def test_scores_that_are_not_above_nought_decide_nothing() -> None:
    assert decided(table(lambda *_: 0.0)).choice is None


def test_failed_runs_are_no_seeds_and_are_told() -> None:
    runs = table(usual)
    lost = (runs["method"] == "full") & (runs["seed"] > 2)
    runs.loc[lost, ["status", "test"]] = ["diverged", np.nan]
    assert "2 of its runs failed" in sentence(decided(runs))
    runs.loc[runs["method"].eq("full") & (runs["seed"] > 1), ["status", "test"]] = [
        "failed",
        np.nan,
    ]
    assert decided(runs).choice == "bitfit"


def test_the_setting_with_most_evidence_answers() -> None:
    more = table(usual, tasks=("mrpc", "cola"), model="deberta")
    other = table(usual, model="minilm")
    found = decided(pd.concat([other, more], ignore_index=True))
    assert (found.setting.model, found.tasks) == ("deberta", ["cola", "mrpc"])
    assert "Numbers that cannot be compared with these: minilm" in found.notes[-1]


@pytest.mark.parametrize("asked", [{"labels": 0}, {"minutes": -1.0}, {"task": "mprc"}])
def test_bad_questions_are_refused(asked: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"above 0|did you mean 'mrpc'"):
        decided(table(usual), **asked)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "runs.parquet"
    table(usual).to_parquet(path)
    return path


def test_the_script_answers_first_and_shows_its_evidence_when_asked(shipped: Path) -> None:
    limits = ["--labels", "1000", "--minutes", "5", "--megabytes", "1", "--task", "mrpc"]
    short = call(str(shipped), *limits, command="recommend")
    assert short.returncode == 0, short.stderr
    where = "on mrpc within 1000 labels, 5 min and 1 MB a task"
    assert short.stdout.startswith(f"bitfit is the best {where}: f1 0.8")
    assert "next: finegrid train" in short.stdout
    long = call(*limits, "--why", "--results", str(shipped), command="recommend")
    assert long.stdout.startswith(short.stdout.partition("By runs of")[0])
    assert "| bitfit " in long.stdout
    assert "python train.py experiment=made_up" in long.stdout


def test_without_limits_all_that_was_measured_counts(shipped: Path) -> None:
    result = call(str(shipped), command="recommend")
    assert result.stdout.startswith("full is the best on mrpc: f1 0.9")


def test_what_comes_with_finegrid_is_answered_in_twelve_lines() -> None:
    result = call(command="recommend")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) <= 12
    assert "next: finegrid train " in result.stdout
    assert "tune." not in result.stdout
    assert result.stdout.count(" hydra.mode=RUN") == result.stdout.count(" experiment=")
    assert "known=" not in result.stdout
    assert "precision mixed" in result.stdout
    assert " and " in result.stdout.partition(":")[0], "on several tasks"
    assert "minilm" in result.stdout
    assert "builtin" not in result.stdout


def test_real_data_come_before_toy_data() -> None:
    toy = table(usual, tasks=("builtin_a", "builtin_b"))
    both = pd.concat([toy, table(usual)], ignore_index=True)
    assert decided(both).tasks == ["mrpc"]
    assert decided(both, task="builtin_a").tasks == ["builtin_a"]
    assert sentence(decided(toy)).startswith("Constructed tasks alone, no real data: full ")
    few = decided(both, task="builtin_a", labels=5)
    assert sentence(few).startswith("Constructed tasks alone, no real data: Not enough evidence")
    assert sentence(decided(both)).startswith("full ")


def test_toy_runs_are_compared_only_where_they_may_answer() -> None:
    toy = table(usual, tasks=("builtin_a", "builtin_b"))
    both = pd.concat([toy, table(usual)], ignore_index=True)
    lost = both.iloc[[0]].assign(task=np.nan, status="unreadable")
    kept = bearing(pd.concat([both, lost], ignore_index=True), Asked())
    assert set(kept["task"].dropna()) == {"mrpc"}
    assert kept["task"].isna().sum() == 1, "an unreadable run is told of"
    assert set(bearing(both, Asked(task="mrpc"))["task"]) == {"mrpc"}
    for asked in (Asked(task="builtin_a"), Asked(task="mprc")):
        assert bearing(both, asked) is both
    both.loc[both["task"].eq("mrpc"), "status"] = "failed"
    assert bearing(both, Asked()) is both
    assert bearing(toy, Asked()) is toy


def test_a_model_of_more_than_toy_size_comes_first() -> None:
    tasks = ("builtin_a", "builtin_b")
    tiny, real = (table(usual, tasks=tasks[:many], model=model) for many, model in
                  ((2, "tiny"), (1, "minilm")))  # fmt: skip
    both = pd.concat([tiny, real], ignore_index=True)
    assert decided(both).setting.model == "minilm"


def test_of_as_many_cells_those_with_more_runs_answer() -> None:
    runs = pd.concat([table(usual, seeds=range(3)), table(usual, budget_unit="steps")])
    assert decided(runs.reset_index(drop=True)).unit == "steps"


def test_of_equal_means_the_smallest_is_named_and_the_others_said() -> None:
    runs = table(lambda m, t, f, b, seed: 0.6 if m == "head" else 0.8 + 0.001 * seed)
    found = decided(runs)
    assert (found.choice, found.clear) == ("bitfit", False)
    assert list(found.options["equal"]) == [False, True, False]
    same = "full has exactly the same mean; by bytes, then seconds, bitfit leads."
    assert same in sentence(found)
    runs["delta_bytes"] = 1e6
    runs.loc[runs["method"].eq("bitfit"), "train_seconds"] = 500.0
    assert decided(runs).choice == "full", "of equal size the quickest"
    assert "the same mean" not in sentence(decided(table(usual)))


def test_runs_given_twice_count_once(shipped: Path) -> None:
    """As where a table is reported together with the directories that it was written from."""
    runs = rankings.load([shipped]).assign(started="2026-01-01T00:00:00")
    runs["cell"] = [f"c{n}" for n in range(len(runs))]
    runs.to_parquet(path := shipped.parent / "again.parquet")
    assert len(rankings.load([path, path])) == len(runs)
    runs.loc[0, "started"] = ""  # unknown: perhaps another try
    runs.to_parquet(path)
    assert len(rankings.load([path, path])) == len(runs) + 1


def test_a_directory_of_a_report_is_read_as_its_table(shipped: Path) -> None:
    tables = [rankings.load([path]) for path in (shipped, shipped.parent)]
    pd.testing.assert_frame_equal(*tables)
    result = call(str(shipped.parent), command="report")
    assert "### mrpc, tiny: f1" in result.stdout


def test_lacking_evidence_is_an_answer_and_a_wrong_name_is_not(shipped: Path) -> None:
    limits = ["--minutes", "5", "--megabytes", "1", "--results", str(shipped)]
    few = call("--labels", "5", *limits, command="recommend")
    assert (few.returncode, few.stdout[:19]) == (0, "Not enough evidence")
    wrong = call("--labels", "500", "--model", "tny", *limits, command="recommend")
    assert wrong.returncode == 1
    assert "finegrid: no runs of model tny; did you mean 'tiny'?" in wrong.stderr
