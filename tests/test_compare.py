"""Rankings to cells, ties and draws: by hand, against other libraries, and by simulation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
import scipy.stats
from test_report import HASHES, record, results, saved
from test_stats import paired_detectable, two_methods

from finegrid.report.load.rankings import Results, gather, load
from finegrid.report.stats import compare, significance
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.ranks import mean_ranks, probability_of_improvement
from finegrid.report.stats.scores import Evidence, Known, evidence
from finegrid.runs.record import Record

RNG = np.random.default_rng(0)


def grid(scores: Mapping[str, Sequence[float]], **changes: object) -> Results:
    """Methods with a score for each seed."""
    return results(
        *(record(method, seed, score, **changes)
          for method, own in scores.items() for seed, score in enumerate(own))
    )  # fmt: skip


@pytest.mark.parametrize("n", [2, 9, 10, 30])
def test_a_cell_sums_up_its_seeds(n: int) -> None:
    scores = RNG.normal(0.8, 0.02, n)
    (cell,) = compare.cells(grid({"full": scores})).itertuples()
    assert (cell.ok, cell.failed, cell.missing, cell.metric) == (n, 0, 0, "f1")
    assert cell.mean == pytest.approx(scores.mean())
    assert cell.sd == pytest.approx(scores.std(ddof=1))
    assert cell.iqm == pytest.approx(scipy.stats.trim_mean(scores, 0.25))
    assert (cell.params_delta, cell.train_seconds) == (10, 2.0)
    low, high = scipy.stats.t.interval(0.95, n - 1, 0, scores.std(ddof=1) / np.sqrt(n))
    assert (cell.low, cell.high) == pytest.approx(
        (scores.mean() + low, min(scores.mean() + high, 1))
    )
    assert (cell.interval, cell.learned) == ("seeds", True), "nothing is known of the rows"


def test_one_seed_has_no_interval() -> None:
    (cell,) = compare.cells(grid({"full": [0.8]})).itertuples()
    assert np.isnan([cell.sd, cell.low, cell.high]).all()
    assert cell.interval == ""


def test_the_best_is_the_best_mean_and_not_one_lucky_seed() -> None:
    found = results(record("full", 0, 0.8), record("full", 1, 0.8), record("lora", 0, 0.9),
                    record("ia3", 0, 0.7), record("ia3", 1, 0.72))  # fmt: skip
    best = compare.against_best(found).set_index("method")
    assert set(best["best"]) == {"full"}
    assert best.loc["full", ["difference", "tie"]].tolist() == [0.0, True]
    assert best.loc["lora", "difference"] == pytest.approx(-0.1)
    assert best.loc["lora", "tie"]


def test_a_method_without_a_score_is_no_tie() -> None:
    best = compare.against_best(results(record("full", 0, 0.8), record("lora", 0, None)))
    lora = best.set_index("method").loc["lora"]
    assert (lora["best"], lora["tie"], lora["test"], lora["seeds"]) == ("full", False, "", 0)
    assert np.isnan(lora["difference"])


def test_two_methods_are_compared_by_the_paired_test() -> None:
    a, b = RNG.normal([[0.8], [0.7]], 0.05, (2, 6))
    row = compare.against_best(grid({"full": a, "lora": b})).set_index("method").loc["lora"]
    theirs = scipy.stats.ttest_rel(a, b)
    assert (row["difference"], row["p"]) == pytest.approx(((a - b).mean(), theirs.pvalue))
    assert row["p_adjusted"] == row["p"], "one comparison"
    assert row["detectable"] == pytest.approx(paired_detectable((a - b).std(ddof=1), 6), rel=1e-3)
    assert row["test"] == "seeds"


def ranking(
    rng: np.random.Generator, methods: int, *, gain: float, of_seed: float
) -> dict[str, Known]:
    """Methods alike but for the first, whose seeds differ by unlike amounts."""
    found = {}
    for number in range(methods):
        chance = {"of_seed": of_seed * np.exp(rng.normal(0, 0.5)), "of_row": 0.8, "of_both": 0.3}
        better = gain if number == 0 else 0.0
        one, _ = two_methods(rng, seeds=3, better=better, **chance)
        found[f"m{number}"] = Known(one, {})
    return found


def decided(times: int, *, gain: float, of_seed: float) -> tuple[list[set[str]], list[set[str]]]:
    """Of rankings of six methods, three seeds and predictions: which are ties, which are not."""
    rng = np.random.default_rng(4)
    ties, others = [], []
    for _ in range(times):
        own = ranking(rng, 6, gain=gain, of_seed=of_seed)
        run = results(*(record(name, s, 0.5) for name in own for s in range(3)))
        key = next(iter(evidence(run).rankings))
        best = compare.against_best(run, Evidence({key: own}))
        ties.append(set(best.loc[best["tie"], "method"]))
        others.append(set(best.loc[~best["tie"], "method"]))
    return ties, others


def test_equal_methods_are_seldom_told_apart_though_the_best_is_picked_among_them() -> None:
    _, others = decided(40, gain=0.0, of_seed=0.3)
    assert np.mean([bool(found) for found in others]) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 40)


def test_a_much_better_method_is_told_apart_with_three_seeds() -> None:
    ties, others = decided(20, gain=4.0, of_seed=0.1)
    assert all("m0" in found for found in ties)
    assert np.mean([len(found) for found in others]) > 2, "of the five others"


def predictions(directory: Path, labels: np.ndarray, right: np.ndarray, **changes: object) -> None:
    """Predictions that have some rows right."""
    columns = {"split": ["test"] * len(labels), "idx": np.arange(len(labels)), "label": labels,
               "prediction": np.where(right, labels, 1 - labels)}  # fmt: skip
    pq.write_table(pa.table(columns | changes), directory / "predictions.parquet")


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Two methods with two seeds each; which of 200 rows each run has right."""
    labels = RNG.integers(0, 2, 200)
    right = {f"{m}{s}": RNG.random(200) < 0.8 for m in ("full", "lora") for s in (0, 1)}
    runs = [
        record(name[:-1], int(name[-1]), float(own.mean()), metric="accuracy", **HASHES)
        for name, own in right.items()
    ]
    saved(tmp_path, *runs)
    for number, (name, own) in enumerate(right.items()):
        predictions(tmp_path / f"mrpc/tiny/{name[:-1]}/f0.3-s{name[-1]}-{number}", labels, own)
    return tmp_path, right


def test_predictions_bring_the_chance_of_test_rows(
    written: tuple[Path, dict[str, np.ndarray]],
) -> None:
    directory, right = written
    found = gather(load([directory]))
    known = evidence(found)
    assert known.notes == ()
    (methods,) = known.rankings.values()
    scores = methods["full"].scores
    assert (scores.rows, scores.resampled.shape) == (200, (1000, 2))
    assert scores.resampled.std(axis=0) == pytest.approx(np.full(2, np.sqrt(0.16 / 200)), rel=0.2)
    best = compare.against_best(found, known).set_index("method")
    (other,) = best.index[best["difference"] != 0]
    assert best.loc[other, "test"] == "seeds and rows"
    pairs = [significance.mcnemar(right[f"full{s}"], right[f"lora{s}"]) for s in (0, 1)]
    assert best.loc[other, "mcnemar"] == pytest.approx(min(1, 2 * np.median(pairs)))


SPOILT = {
    "unreadable": "predictions.parquet (Parquet magic bytes not found",
    "other rows": "(other rows or labels than most of its ranking)",
    "other score": "(its score is not its record's)",
    "not a number": "predictions that are no numbers",
}


@pytest.mark.parametrize("how", SPOILT)
def test_predictions_that_do_not_fit_are_told_and_not_used(
    how: str, written: tuple[Path, dict[str, np.ndarray]]
) -> None:
    directory, right = written
    place = directory / "mrpc/tiny/lora/f0.3-s1-3"
    labels = pq.read_table(place / "predictions.parquet")["label"].to_numpy()
    if how == "unreadable":
        (place / "predictions.parquet").write_bytes(b"not parquet")
    elif how == "other rows":
        predictions(place, labels, right["lora1"], idx=np.arange(200) + 7)
    elif how == "other score":
        predictions(place, labels, ~right["lora1"])
    else:
        predictions(place, labels, right["lora1"], prediction=np.full(200, np.nan))
    found = gather(load([directory]))
    known = evidence(found)
    (note,) = known.notes
    assert SPOILT[how] in note
    assert "f0.3-s1-3" in note
    (methods,) = known.rankings.values()
    assert np.isnan(methods["lora"].scores.resampled).tolist()[0] == [False, True]
    best = compare.against_best(found, known)
    assert set(best["test"]) == {"", "seeds and rows"}
    assert best["p"].notna().sum() == 1


def test_only_the_headline_test_set_counts(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    directory, _ = written
    for file in directory.rglob("predictions.parquet"):
        table = pq.read_table(file)
        other = table.set_column(0, "split", pa.array(["test_mismatched"] * 200))
        pq.write_table(pa.concat_tables([table, other]), file)
    (methods,) = evidence(gather(load([directory]))).rankings.values()
    assert methods["full"].scores.rows == 200


def test_draws_spread_as_the_means_do() -> None:
    scores = {name: RNG.normal(0.8, 0.03, 6) for name in ("full", "lora", "ia3")}
    found = grid(scores)
    ((methods, drawn),) = compare.draws(found, 4000).values()
    assert (methods, drawn.shape) == (["full", "ia3", "lora"], (3, 4000))
    for method, own in zip(methods, drawn, strict=True):
        assert own.mean() == pytest.approx(scores[method].mean(), abs=0.002)
    usual = np.sqrt(np.mean([own.var(ddof=1) for own in scores.values()]) / 6)
    assert drawn.std(axis=1).mean() == pytest.approx(usual, rel=0.4), "drawn towards one another"


def test_draws_of_rows_are_joint_and_one_seed_spreads_as_the_others_do() -> None:
    rng = np.random.default_rng(0)
    a, b = two_methods(rng, seeds=4, of_seed=0.0, of_row=0.5, of_both=0.2)
    alone = Scores((0,), a.values[:1])
    run = results(*(record(name, s, 0.5) for name in ("full", "lora", "one") for s in range(4)))
    key = next(iter(evidence(run).rankings))
    cells = {"full": Known(a, {}), "lora": Known(a, {}), "one": Known(alone, {})}
    ((_, drawn),) = compare.draws(run, 800, known=Evidence({key: cells})).values()
    assert np.corrcoef(drawn[:2])[0, 1] > 0.5, "the same runs have the same luck with the rows"
    assert drawn[2].std() > 0, "a single seed spreads as the others do"
    assert b.resampled is not None


def two_tasks() -> list[Record]:
    """Three methods, of which one is always the best, on two tasks at two fractions."""
    return [
        record(method, seed, base + 0.01 * seed, task=task, fraction=fraction, test_rows=1000)
        for task in ("mrpc", "rte") for fraction in (0.3, 1.0)
        for method, base in {"full": 0.9, "head": 0.6, "lora": 0.895}.items() for seed in range(4)
    ]  # fmt: skip


def test_improvement_over_all_tasks() -> None:
    found = probability_of_improvement(results(*two_tasks())).set_index(["method_a", "method_b"])
    sure = found.loc[("full", "head")]
    assert (sure["improvement"], sure["low"], sure["high"], sure["blocks"]) == (1, 1, 1, 4)
    near = found.loc[("full", "lora")]
    full, lora = (base + 0.01 * np.arange(4) for base in (0.9, 0.895))
    assert near["improvement"] == pytest.approx(scipy.stats.mannwhitneyu(full, lora).statistic / 16)
    assert near["low"] < near["improvement"] < near["high"] < 1
    assert set(found["setting"]) == {0}


def test_improvement_counts_the_blocks_that_both_have() -> None:
    found = probability_of_improvement(
        results(record("full", 0, 0.9), record("lora", 0, 0.8), record("ia3", 0, 0.7, task="rte"),
                record("lora", 0, 0.6, task="rte"))
    ).set_index(["method_a", "method_b"])  # fmt: skip
    assert found.loc[("ia3", "lora"), "blocks"] == 1
    assert ("full", "ia3") not in found.index
    assert probability_of_improvement(results(record("full", 0, None))).empty


def test_ranks_are_those_of_demsar() -> None:
    ranks = mean_ranks(results(*two_tasks()), 0)
    assert (ranks.methods, ranks.mean_ranks) == (("full", "lora", "head"), (1.0, 2.0, 3.0))
    assert ranks.blocks == 4
    assert ranks.critical_difference == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 4)), abs=1e-3)
    theirs = scipy.stats.friedmanchisquare([0.9] * 4, [0.8] * 4, [0.7] * 4).pvalue
    assert ranks.friedman_p == pytest.approx(theirs)


def test_a_method_on_one_task_alone_does_not_cost_the_others_their_ranks() -> None:
    more = [record("ia3", 0, 0.5), *(record("bitfit", 0, 0.4, fraction=f) for f in (0.3, 1.0))]
    ranks = mean_ranks(results(*two_tasks(), *more), 0)
    assert ranks.left_out == ("ia3",)
    assert (set(ranks.methods), ranks.blocks) == ({"full", "head", "lora", "bitfit"}, 2)
