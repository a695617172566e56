"""Papers' claims: known truths get their verdicts, too few data get none, pages are the same."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from math import inf, log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import call
from scipy import stats as reference
from test_decide import noise, table

from finegrid.report.load import rankings
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import evidence
from finegrid.studies import contrasts, doering2024, page, radiya_dixit2020, weights
from finegrid.studies.verdict import (
    Claim,
    Estimate,
    Finding,
    Outcome,
    Verdict,
    judge,
    judge_all,
    of_values,
    over_tasks,
    rule,
    within_task,
)

CLAIM = Claim("a", "text", "test")
TASKS = ("mrpc", "cola", "stsb")
FRACTIONS = (0.1, 0.3, 1.0)
Score = Callable[[str, str, float, float, int], float]


def finding(
    *values: Estimate, region: tuple[float, float] = (-0.1, 0.1), everywhere: bool = True
) -> Finding:
    """A finding that claims an effect within 0.1 of 0."""
    parts = {str(number): value for number, value in enumerate(values)}
    return Finding(replace(CLAIM, everywhere=everywhere), parts, region)


def outcomes(*findings: Finding) -> list[Outcome]:
    return [verdict.outcome for verdict in judge(findings)]


SURE = Estimate(0.0, 0.01, 10, 11)
BEYOND = Estimate(0.2, 0.01, 10, 11)
VAGUE = Estimate(0.0, 0.2, 10, 11)


def test_one_sided_tests_are_those_of_scipy() -> None:
    values = np.array([0.3, 0.1, 0.25, 0.4, -0.1])
    found = of_values(values)
    above = reference.ttest_1samp(values, 0.05, alternative="greater").pvalue
    below = reference.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert found.above(0.05) == pytest.approx(above)
    assert found.below(0.5) == pytest.approx(below)
    assert found.inside((0.05, 0.5)) == pytest.approx(max(above, below))
    assert found.outside((0.05, 0.5)) == 1, "both p doubled are above 1"
    assert found.outside((-0.5, 0.05)) == pytest.approx(2 * above)
    assert found.outside((-inf, 0.05)) == pytest.approx(above)
    interval = reference.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high))
    assert found.inside((-inf, inf)) == 0


def test_equivalence_is_shown_and_not_taken_from_a_lack_of_difference() -> None:
    assert outcomes(finding(SURE)) == ["confirmed"]
    assert outcomes(finding(BEYOND)) == ["contradicted"]
    assert outcomes(finding(VAGUE)) == ["not confirmed"]
    assert outcomes(Finding(CLAIM)) == ["not tested"]


def test_everywhere_and_somewhere() -> None:
    assert outcomes(finding(SURE, SURE)) == ["confirmed"]
    assert outcomes(finding(SURE, BEYOND)) == ["contradicted"]
    assert outcomes(finding(SURE, VAGUE)) == ["not confirmed"]
    assert outcomes(finding(SURE, BEYOND, VAGUE, everywhere=False)) == ["confirmed"]
    assert outcomes(finding(BEYOND, BEYOND, everywhere=False)) == ["contradicted"]
    assert outcomes(finding(BEYOND, VAGUE, everywhere=False)) == ["not confirmed"]


def test_many_claims_are_harder_to_confirm() -> None:
    weak = Estimate(2.0, 1.0, 30, 31)
    alone = finding(weak, region=(0.0, inf))
    assert outcomes(alone) == ["confirmed"]
    untrue = finding(Estimate(0.1, 1.0, 30, 31), region=(0.0, inf))
    assert outcomes(alone, untrue, untrue)[0] == "not confirmed"


def test_what_would_change_a_verdict_is_told_in_data() -> None:
    """A half width of 2 that must become 1 takes four times the data."""
    half = float(reference.t.ppf(0.95, 1000))
    (verdict,) = judge([finding(Estimate(1.0, 2 / half, 1000, 9), region=(0.0, inf))])
    assert verdict.outcome == "not confirmed"
    assert "would confirm it if the effect stayed as it is: up to 4.0 times" in verdict.change
    weak = finding(Estimate(1.8, 1.0, 30, 31), region=(0.0, inf))
    (other, _) = judge([weak, weak])
    assert other.outcome == "not confirmed", "though p alone is below 0.05"
    assert float(other.change.rpartition("up to ")[2].split(" ")[0]) > 1


def test_pooling_keeps_the_error() -> None:
    """Independent tasks by Welch-Satterthwaite; places of a task as if their errors were one."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(0, 3, size=5)
    welch = reference.ttest_ind(a, -b, equal_var=False)
    both = over_tasks([of_values(a), of_values(b)])
    assert both.mean / both.se == pytest.approx(welch.statistic)
    assert both.df == pytest.approx(welch.df)
    assert within_task([of_values(a), of_values(a)]).se == pytest.approx(of_values(a).se)


def test_true_equality_is_rarely_contradicted_and_false_rarely_confirmed() -> None:
    """On the margin itself either error happens in 5 % of cases."""
    rng = np.random.default_rng(1)
    found = [
        outcomes(finding(of_values(rng.normal(0.1, 0.05, 5)), region=(-inf, 0.1)))[0]
        for _ in range(1000)
    ]
    assert found.count("confirmed") / 1000 == pytest.approx(0.05, abs=0.02)
    assert found.count("contradicted") / 1000 == pytest.approx(0.05, abs=0.02)


def results_of(score: Score, **grid: object) -> rankings.Results:
    return rankings.gather(table(score, **({"tasks": TASKS, "fractions": FRACTIONS} | grid)))  # type: ignore[arg-type]


def on_paper1(score: Score, **grid: object) -> dict[str, Verdict]:
    methods = {"methods": ("full", "bitfit", "houlsby", "pfeiffer")}
    results = results_of(score, **(methods | grid))
    cells = contrasts.cells_of(results, evidence(results, seeds_alone=True), 0)
    return named(doering2024.findings(cells, margin=0.01))


def named(findings: list[Finding]) -> dict[str, Verdict]:
    return {verdict.finding.claim.name: verdict for verdict in judge(findings)}


def as_claimed(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
    """A world in which the first paper is right: full drops with the data, BitFit does not."""
    spread = 0.02 if method in ("houlsby", "pfeiffer") else 0.001
    level = 0.8 - (0.004 if method == "full" and fraction < 1 else 0.0)
    level -= 0.06 if method == "houlsby" and task == "cola" else 0.0
    return level + spread * noise(method, task, fraction, budget, seed)


def test_a_world_in_which_the_paper_is_right() -> None:
    found = on_paper1(as_claimed, budgets=(30.0, 60.0), budget_unit="seconds")
    expected = dict.fromkeys(found, "confirmed") | {"streams": "not tested"}
    assert {name: verdict.outcome for name, verdict in found.items()} == expected
    assert found["adapters vary more"].effect > 5  # type: ignore[operator]
    assert found["above full in between"].effect == pytest.approx(0.004, abs=0.002)


def test_a_world_in_which_it_is_wrong() -> None:
    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        level = {"full": 0.8, "bitfit": 0.7 + 0.05 * fraction}.get(method, 0.85)
        spread = 0.01 if method in ("full", "bitfit") else 0.001
        return level + spread * noise(method, task, fraction, budget, seed)

    found = on_paper1(score, budgets=(30.0, 60.0), budget_unit="seconds")
    expected = dict.fromkeys(found, "contradicted") | {"streams": "not tested"}
    assert {name: verdict.outcome for name, verdict in found.items()} == expected


def test_few_noisy_seeds_confirm_nothing() -> None:
    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        return 0.8 + 0.05 * noise(method, task, fraction, budget, seed)

    found = on_paper1(score, seeds=range(3), budgets=(30.0, 60.0), budget_unit="seconds")
    assert {verdict.outcome for verdict in found.values()} == {"not confirmed", "not tested"}
    assert "more data, which would" in found["equal at every fraction"].change


GAPS: dict[str, tuple[dict[str, object], set[str]]] = {
    "one fraction": ({"fractions": (0.3,)}, {"equal at every time budget", "adapters vary more",
                     "adapters gain inconsistently"}),
    "epochs": ({}, {"equal at every fraction", "stable at 30 %", "steadier than full at 30 %",
               "above full in between", "adapters vary more", "adapters gain inconsistently"}),
    "one seed": ({"seeds": (0,)}, set()),
    "no adapters": ({"methods": ("full", "bitfit"), "fractions": (0.1, 0.3)},
                    {"equal at every fraction"}),
    "no bitfit": ({"methods": ("full", "houlsby"), "fractions": (0.1,)},
                  {"adapters vary more", "adapters gain inconsistently"}),
}  # fmt: skip


@pytest.mark.parametrize(("grid", "tested"), GAPS.values(), ids=GAPS)
def test_what_was_not_run_is_not_tested_and_not_dropped(
    grid: dict[str, object], tested: set[str]
) -> None:
    if len(grid.get("fractions", ())) == 1 and "methods" not in grid:  # type: ignore[arg-type]
        grid = grid | {"budgets": (30.0, 60.0), "budget_unit": "seconds"}
    found = on_paper1(as_claimed, **grid)
    assert len(found) == 8
    assert {name for name, verdict in found.items() if verdict.outcome != "not tested"} == tested
    assert all(verdict.why for verdict in found.values())


def test_two_that_learn_nothing_are_not_equal() -> None:
    found = on_paper1(lambda *_: 0.5, degenerate=True)
    assert {verdict.outcome for verdict in found.values()} == {"not tested"}
    detail = found["equal at every fraction"].finding.detail
    assert set(detail["note"]) == {"every run predicts a constant"}


def test_equal_scores_are_not_seen_finer_than_a_test_row() -> None:
    """Three seeds with the same score on 20 rows are no proof of equality within 0.01."""
    found = on_paper1(lambda *_: 0.5, seeds=range(3), test_rows=20)
    assert found["equal at every fraction"].outcome == "not confirmed"


def test_sums_of_cells_are_paired_by_seed_and_by_test_row() -> None:
    """As the difference of their sums: with the chance of rows that all of them share."""
    rng = np.random.default_rng(0)
    rows, seeds = 50, (0, 1, 2, 4)
    runs = pd.DataFrame({"degenerate": [False] * 4, "test_rows": [rows] * 4}, index=list(seeds))
    scores = {
        key: Scores(seeds, rng.normal(0, 0.01, 4), rng.normal(0, 0.01, (200, 4)), rows)
        for key in [("a", 0.3), ("a", 1.0), ("b", 0.3), ("b", 1.0)]
    }
    where = contrasts.Where("mrpc", "epochs", 3.0, 1.0)
    cells = {
        (method, where._replace(fraction=fraction)): contrasts.Cell(found, runs)
        for (method, fraction), found in scores.items()
    }
    found = contrasts.contrast(cells, where, [("a", 0.3), ("b", 1.0)], [("a", 1.0), ("b", 0.3)])
    each = scores["a", 0.3].values + scores["b", 1.0].values
    each = each - scores["a", 1.0].values - scores["b", 0.3].values
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx(each.mean())
    assert found.estimate.se > each.std(ddof=1) / 2, "rows add to seeds"
    assert found.estimate.n == 4
    assert set(found.means) == {"a at 30 %", "b at 100 %", "a at 100 %", "b at 30 %"}
    same = contrasts.contrast(cells, where, [("a", 1.0)], [("a", 1.0)])
    assert same.estimate is not None
    assert (same.estimate.mean, same.estimate.se) == (0, 0)
    alone = contrasts.contrast(cells, where, [("a", 1.0)], [("c", 1.0)])
    assert (alone.estimate, alone.note) == (None, "no finished run of c")


METHODS2 = ("full", "critical_layers", "layers", "supermask", "mask_random", "mask_magnitude")


def on_paper2(score: Score, **given: pd.DataFrame) -> dict[str, Verdict]:
    results = results_of(score, methods=METHODS2, fractions=(0.3, 1.0), seeds=range(5))
    results.runs.loc[results.runs["method"] == "full", "delta_bytes"] = 32e6
    cells = contrasts.cells_of(results, evidence(results, seeds_alone=True), 0)
    return named(radiya_dixit2020.findings(results.runs, cells, margin=0.01, **given))


def right(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
    """Masks and critical layers do as full; the top layers and fixed masks do not."""
    level = 0.8 if method in ("full", "critical_layers", "supermask") else 0.7
    return level - 0.2 * (fraction < 1) + 0.002 * noise(method, task, fraction, seed)


def cell(method: str, task: str, seed: int, fraction: float = 1.0) -> str:
    return f"{method}-{task}-{fraction}-3.0-{seed}"


def distances(share: Mapping[float, float], *, fraction: float = 1.0) -> pd.DataFrame:
    """Two tensors a layer; layer (nan: the embeddings) -> how far it moved of a random one's."""
    rows = [
        {"cell": cell(method, task, seed, fraction), "task": task, "layer": layer,
         "l2": part * (1 + 0.02 * noise(task, seed, layer)), "l2_random": 1.0}
        for method in ("full", "layers") for task in TASKS for seed in range(3)
        for layer, part in share.items() for _ in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def overlap(jaccard: float, *, sparsity: float = 0.1) -> pd.DataFrame:
    """Pairs of masks of one tensor with so much in common, and a pooler that changed everywhere."""
    rows = []
    for task in TASKS:
        for a, b in combinations(range(4), 2):
            each = 1e4 * sparsity
            near = jaccard + 0.01 * noise(task, a, b)
            both = 2 * each * near / (1 + near)
            masks = {"layer": 0.0, "numel": 1e4, "changed_a": each, "changed_b": each,
                     "both": both, "either": 2 * each - both}  # fmt: skip
            pooler = dict.fromkeys(masks, 1e4) | {"layer": np.nan}
            ends = {"cell_a": cell("supermask", task, a), "cell_b": cell("supermask", task, b)}
            rows += [ends | {"task_a": task, "relation": "seed"} | row for row in (masks, pooler)]
    return pd.DataFrame(rows)


def test_a_world_in_which_the_second_paper_is_right() -> None:
    share = {np.nan: 0.01, 0.0: 0.01, 1.0: 0.02, 2.0: 0.04}
    found = on_paper2(right, distances=distances(share), overlap=overlap(0.2))
    assert {name: v.outcome for name, v in found.items()} == dict.fromkeys(found, "confirmed")
    assert len(found) == 7
    parts = found["stays close"].finding.parts
    assert [np.exp(part.mean) for part in parts.values()] == pytest.approx(
        list(share.values()), rel=0.05
    )
    assert [*parts][:2] == ["embeddings and pooler", "layer 0"]
    assert "is monotone in depth" in found["stays close"].finding.remarks[0]
    assert found["masks are small"].effect == pytest.approx(1 / 32)


def test_a_world_in_which_the_second_is_wrong() -> None:
    def wrong(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        return (0.8 if method in ("full", "mask_random") else 0.7) + 0.002 * noise(method, seed)

    moved = distances({0.0: 1.5, 1.0: 1.5, 2.0: 1.5})
    found = on_paper2(wrong, distances=moved, overlap=overlap(0.9))
    told = {name: v.outcome for name, v in found.items()}
    assert told.pop("masks are small") == "confirmed"
    assert told.pop("closeness differs by layer") == "not confirmed"
    assert told == dict.fromkeys(told, "contradicted")


def test_measurements_of_other_runs_are_not_taken() -> None:
    found = on_paper2(right, distances=distances({0.0: 0.1, 1.0: 0.1}, fraction=0.3))
    assert found["stays close"].outcome == "not tested"
    assert found["many solutions"].outcome == "not tested"
    assert "needs --overlap" in found["many solutions"].why


def test_masks_that_chance_would_give_share_nothing_and_equal_ones_all() -> None:
    names = dict.fromkeys(overlap(0.5)["cell_a"], "supermask")
    names |= dict.fromkeys(overlap(0.5)["cell_b"], "supermask")
    rows = overlap(0.5)
    inner = rows["layer"].notna()
    rows.loc[inner, ["both", "either"]] = [100.0, 1900.0]  # 10 % of 10 % in common
    assert weights.shared(rows, names, "supermask")["shared"].to_numpy() == pytest.approx(0)
    rows.loc[inner, ["both", "either"]] = [1000.0, 1000.0]
    assert weights.shared(rows, names, "supermask")["shared"].to_numpy() == pytest.approx(1)


def test_the_jackknife_of_a_mean_of_pairs_knows_its_error() -> None:
    """Pairs x_i + x_j: the mean is twice the runs', so its error is twice theirs."""
    x = np.random.default_rng(0).normal(size=8)
    pairs = pd.DataFrame(
        [(i, j, x[i] + x[j]) for i in range(8) for j in range(i)],
        columns=["cell_a", "cell_b", "shared"],
    )
    found = weights.jackknife(pairs)
    assert found is not None
    assert (found.mean, found.se) == pytest.approx((2 * of_values(x).mean, 2 * of_values(x).se))


def test_spreads_are_compared_alike_whatever_the_noise_of_a_task() -> None:
    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        noisy = {"mrpc": 1e-3, "cola": 1e-1, "stsb": 1e-2}[task]
        more = 3.0 if method == "pfeiffer" else 1.0
        return 0.5 + noisy * more * noise(method, task, fraction, seed)

    (found,) = [
        verdict
        for name, verdict in on_paper1(score, seeds=range(6), methods=("bitfit", "pfeiffer"),
                                       test_rows=100_000).items()
        if name == "adapters vary more"
    ]  # fmt: skip
    assert log(found.low or 1) < log(3) < log(found.high or 1)
    assert found.outcome == "confirmed"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grid")
    one = table(as_claimed, methods=("full", "bitfit", "houlsby"), tasks=TASKS[:2])
    table_of_two = pd.concat([one, table(as_claimed, model="minilm", seeds=range(2))])
    table_of_two.to_parquet(path / "runs.parquet")
    (path / "figure.svg").write_text("<svg/>")
    return path


def test_the_page_is_written_the_same_each_time(grid: Path) -> None:
    out = grid / "docs/page.md"
    (grid / "preface.md").write_text("Mind the rates.\n")
    arguments = ["paper1", str(grid / "runs.parquet"), "--figures", str(grid / "figure.svg")]
    arguments += ["--preface", str(grid / "preface.md")]
    texts = []
    for _ in range(2):
        result = call(*arguments, "--out", str(out), command="verdicts")
        assert result.returncode == 0, result.stderr
        texts.append(out.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert "![../figure.svg](../figure.svg)" in texts[0]
    assert texts[0].index("Mind the rates.") < texts[0].index("\n## ")
    assert texts[0].count("\n## ") >= 3, "a section for each setting, and the commands"
    for claim in (doering2024.FRACTIONS, doering2024.BUDGETS, doering2024.STREAMS):
        assert texts[0].count(f"### {claim.name}: ") == 2
    assert "Of 8 claims: " in texts[0]
    assert "python train.py experiment=made_up" in texts[0]


def test_the_second_papers_page_takes_measurements(tmp_path: Path) -> None:
    table(right, methods=METHODS2, tasks=TASKS).to_parquet(tmp_path / "runs.parquet")
    (tmp_path / "measured/run").mkdir(parents=True)
    distances({0.0: 0.1, 1.0: 0.2}).to_csv(tmp_path / "measured/run/distances.csv", index=False)
    overlap(0.2).to_csv(tmp_path / "measured/overlap.csv", index=False)
    measured = [f"--{name}={tmp_path / 'measured'}" for name in ("distances", "overlap")]
    out = tmp_path / "page.md"
    result = call("paper2", str(tmp_path / "runs.parquet"), *measured, f"--out={out}",
                  command="verdicts")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Of 7 claims: 7 confirmed." in out.read_text(encoding="utf-8")


BAD = {
    "margin": (["--margin=2"], "--margin 2 must lie between 0 and 1"),
    "no csv": (["--overlap=nowhere.csv"], "nowhere.csv is not a readable CSV file"),
    "columns": (["--overlap={}/other.csv"], "other.csv lacks cell_a, cell_b"),
    "empty": (["--distances={}"], "no distances.csv below"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(grid: Path, arguments: list[str], message: str) -> None:
    (grid / "other.csv").write_text("a,b\n1,2\n")
    given = [argument.format(grid) for argument in arguments]
    result = call("paper2", str(grid / "runs.parquet"), *given, f"--out={grid / 'x.md'}",
                  command="verdicts")  # fmt: skip
    assert result.returncode == 1
    assert f"finegrid: {message}" in result.stderr or message in result.stderr
    assert "Traceback" not in result.stderr


def test_seeds_alone_speak_of_these_test_sets(grid: Path) -> None:
    out = grid / "alone.md"
    result = call("paper1", str(grid / "runs.parquet"), "--seeds-alone", f"--out={out}",
                  command="verdicts")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "it speaks of this test set" in out.read_text(encoding="utf-8")


def test_tasks_with_a_budget_each_are_pooled() -> None:
    """Tasks need not train for equally many examples; several budgets of a task are parts."""
    frames = [
        table(as_claimed, methods=("full", "bitfit"), tasks=(task,), budgets=budgets)
        for task, budgets in (("mrpc", (3.0,)), ("cola", (5.0,)))
    ]
    results = rankings.gather(pd.concat(frames, ignore_index=True))
    cells = contrasts.cells_of(results, evidence(results, seeds_alone=True), 0)
    found = {one.claim: one.parts for one in doering2024.findings(cells, margin=0.01)}
    assert {name: part.n for name, part in found[doering2024.STABLE].items()} == {
        "epochs of each task": 10
    }
    frames.append(table(as_claimed, methods=("full", "bitfit"), tasks=("cola",), budgets=(3.0,)))
    results = rankings.gather(pd.concat(frames, ignore_index=True))
    cells = contrasts.cells_of(results, evidence(results, seeds_alone=True), 0)
    found = {one.claim: one.parts for one in doering2024.findings(cells, margin=0.01)}
    assert set(found[doering2024.STABLE]) == {"3 epochs", "5 epochs"}


def test_tasks_in_several_precisions_are_judged_together_where_told(tmp_path: Path) -> None:
    frames = [
        table(as_claimed, methods=("full", "bitfit"), tasks=(task,), precision=precision)
        for task, precision in zip(TASKS[:2], ("32", "bf16-mixed"), strict=True)
    ]
    pd.concat(frames).to_parquet(tmp_path / "runs.parquet")
    counts = []
    for mixed in ([], ["--mix=precision"]):
        out = tmp_path / "page.md"
        given = [str(tmp_path / "runs.parquet"), *mixed, f"--out={out}"]
        assert call("paper1", *given, command="verdicts").returncode == 0
        counts.append(out.read_text(encoding="utf-8").count("Of 8 claims: "))
    assert counts == [2, 1]


def test_a_page_tells_what_each_verdict_stands_on() -> None:
    results = results_of(as_claimed, methods=("full", "bitfit"))
    cells = contrasts.cells_of(results, evidence(results, seeds_alone=True), 0)
    found = judge_all({0: doering2024.findings(cells, margin=0.01)})
    text = page.page("Paper", results, found, rule=rule(0.01), command="python x.py")
    assert "Written by `python x.py`." in text
    assert "| mrpc | full " in text.replace("  ", " ")
    assert "What would change the verdict" in text
    assert "Not tested: needs houlsby or pfeiffer" in text
