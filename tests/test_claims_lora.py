"""Is LoRA enough: known truths get their verdicts, and all intervals of a setting hold together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import call
from conftest import METHODS
from scipy import stats as reference
from test_decide import noise, table

from finegrid.report.load import rankings
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Evidence, Known, evidence
from finegrid.studies import lora2026
from finegrid.studies.study import Given
from finegrid.studies.verdict import Verdict

TASKS = ("mrpc", "cola")
GRID = {"methods": ("lora", "dora", "pissa", "full"), "tasks": TASKS, "fractions": (1.0,)}
SEARCHED = {"tuning_runs": 6, "tuning_examples": 1000}
Score = Callable[[str, str, float, float, int], float]


def runs(score: Score, **grid: object) -> pd.DataFrame:
    return table(score, **(GRID | SEARCHED | grid))  # type: ignore[arg-type]


def given(frame: pd.DataFrame) -> Given:
    results = rankings.gather(frame)
    return Given(results, evidence(results, seeds_alone=True), 0.01)


def judged(frame: pd.DataFrame) -> tuple[Verdict, Verdict]:
    """On the variants, and on full."""
    first, second = lora2026.verdicts(given(frame))[0]
    return first, second


def world(spread: float = 0.001, **gains: float) -> Score:
    """Methods that are better than LoRA by so much, and seeds' luck."""

    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        name = method.partition(" ")[0]
        return 0.8 + gains.get(name, 0.0) + spread * noise(method, task, fraction, seed)

    return score


def test_level_variants_confirm_that_lora_is_enough() -> None:
    first, second = judged(runs(world()))
    assert (first.outcome, second.outcome) == ("confirmed", "confirmed")
    assert first.high is not None
    assert first.high < 0.01
    assert "of 4 differences none can be as large as the margin" in first.why
    assert "Rates were searched: 6 runs, 1,000 examples a method" in first.finding.remarks
    assert list(first.finding.detail["n"]) == [5.0] * 4


def test_one_better_variant_on_one_task_contradicts_it() -> None:
    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        better = 0.02 if (method, task) == ("pissa", "cola") else 0.0
        return world()(method, task, fraction, budget, seed) + better

    first, second = judged(runs(score))
    assert (first.outcome, second.outcome) == ("contradicted", "confirmed")
    where = "cola, 100 % of the rows, 3 epochs"
    assert first.why == f"of 4 differences 1 shown to be above 0: pissa on {where}"
    assert first.finding.claim.measure == f"pissa - lora, {where}"
    assert first.p is not None
    assert first.p < 0.05
    assert judged(runs(world(full=0.05)))[1].outcome == "contradicted"


def test_few_noisy_seeds_confirm_nothing_and_tell_what_they_would_find() -> None:
    first, _ = judged(runs(world(spread=0.05), seeds=range(3)))
    assert first.outcome == "not confirmed"
    detectable = first.finding.detail["detectable"]
    assert (detectable > 0.1).all()
    assert any(f"{value:.4f}" in first.why for value in detectable)
    assert "more data, which would" in first.change


def test_better_by_less_than_the_margin_is_said() -> None:
    first, _ = judged(runs(world(spread=0.0003, dora=0.004)))
    assert first.outcome == "confirmed"
    assert any("less than the margin: dora on" in remark for remark in first.finding.remarks)


def test_rates_that_were_not_searched_are_not_tested() -> None:
    first, second = judged(runs(world(), tuning_runs=None))
    assert (first.outcome, second.outcome) == ("not tested", "not tested")
    assert "learning rate of dora and lora not searched" in first.why
    frame = runs(world(dora=0.2))
    frame.loc[frame["method"] == "dora", "tuning_runs"] = 0
    first, _ = judged(frame)
    assert first.outcome == "confirmed", "what dora gained is not said of tuned methods"
    assert "2 of 4 differences not tested, see the table" in first.finding.remarks
    notes = first.finding.detail.set_index("method")["note"]
    assert set(notes["dora"]) == {"learning rate of dora not searched"}


def test_lora_at_every_matrix_stands_for_lora_and_overrides_keep_their_method() -> None:
    frame = runs(world(lora=0.1), methods=("lora", "lora_all", "rslora", "bitfit"))
    of = frame["method"] == "rslora"
    frame.loc[of, "overrides"] = "method=rslora method.roles=null"
    pairs = lora2026.compared(given(frame), 0)
    assert {(pair.method, pair.lora) for pair in pairs} == {
        ("rslora method.roles=null", "lora_all")
    }


def test_of_several_loras_the_best_is_taken() -> None:
    frame = runs(world(), methods=("lora", "dora"))
    more = frame[frame["method"] == "lora"].assign(
        overrides="method=lora method.rank=64", cell="x", test=lambda rows: rows["test"] + 0.01
    )
    pairs = lora2026.compared(given(pd.concat([frame, more], ignore_index=True)), 0)
    assert {(pair.method, pair.lora) for pair in pairs} == {("dora", "lora method.rank=64")}


GAPS = {
    "no LoRA": ({"methods": ("dora", "full")}, "needs lora_all or lora"),
    "no variant": ({"methods": ("lora", "head")}, "needs lora_all or lora"),
    "one seed": ({"seeds": (0,)}, "seeds in common: 1"),
    "constant": ({"degenerate": True}, "neither learned anything"),
}


@pytest.mark.parametrize(("grid", "why"), GAPS.values(), ids=GAPS)
def test_what_was_not_run_is_not_tested(grid: dict[str, object], why: str) -> None:
    for verdict in judged(runs(world(), **grid)):
        assert verdict.outcome == "not tested"
        assert why in verdict.why


def test_one_variant_on_one_task_has_the_paired_t_interval() -> None:
    frame = runs(world(0.01), methods=("lora", "dora"), tasks=("mrpc",))
    (pair,) = lora2026.compared(given(frame), 0)
    scores = frame.pivot(index="seed", columns="method", values="test")
    theirs = reference.ttest_rel(scores["dora"], scores["lora"]).confidence_interval(0.95)
    assert (pair.low, pair.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)


def test_more_tasks_and_methods_widen_every_interval() -> None:
    many = lora2026.compared(given(runs(world(0.01))), 0)
    one = lora2026.compared(given(runs(world(0.01), tasks=("mrpc",))), 0)
    of_mrpc = [pair for pair in many if pair.where.task == "mrpc"]
    for wide, narrow in zip(of_mrpc, one, strict=True):
        assert wide.difference == pytest.approx(narrow.difference)
        assert wide.half > narrow.half
    for pair in many:
        assert (pair.p_inside < 0.05) == (pair.high < 0.01)
        assert (pair.p_outside < 0.05) == (pair.low > 0)


def test_equal_methods_seldom_contradict_it() -> None:
    """Of 100 settings of 2 tasks and 4 equal methods at most 5 % call one better than LoRA."""
    start = given(runs(world(), methods=("lora", "dora", "pissa", "vera")))
    rng = np.random.default_rng(0)
    contradicted = 0
    for _ in range(100):
        made = {
            key: {
                name: Known(Scores(tuple(range(5)), rng.normal(0.8, 0.01, 5)), {}) for name in cells
            }
            for key, cells in start.known.rankings.items()
        }
        pairs = lora2026.compared(replace(start, known=Evidence(made)), 0)
        contradicted += any(pair.low > 0 for pair in pairs)
    assert contradicted <= 5


def test_the_family_is_what_there_is() -> None:
    assert {*lora2026.LORA, *lora2026.VARIANTS} <= set(METHODS)


def test_the_page(tmp_path: Path) -> None:
    runs(world()).to_parquet(tmp_path / "runs.parquet")
    out = tmp_path / "page.md"
    given = [str(tmp_path / "runs.parquet"), "--seeds-alone", f"--out={out}"]
    result = call("lora", *given, command="verdicts")
    assert result.returncode == 0, result.stderr
    text = out.read_text(encoding="utf-8")
    assert "Of 2 claims: 2 confirmed." in text
    assert "### no variant beats tuned LoRA: confirmed" in text
    assert "| mrpc | 100 %    | 3 epochs | dora " in text
