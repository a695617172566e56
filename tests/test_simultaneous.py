"""Rankings compared all at once: against closed forms, other libraries and simulation."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from conftest import ROOT
from sklearn.metrics import f1_score
from test_compare import predictions
from test_report import HASHES, record, results, saved

from finegrid.report.load import outcomes
from finegrid.report.load.rankings import gather, load
from finegrid.report.recommend.verdict import Verdict, verdict
from finegrid.report.stats import compare, constant, row_noise, simultaneous, studentized
from finegrid.report.stats.bootstrap import Resampler
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import evidence
from finegrid.report.stats.shrunken_variance import residual, spreads

sys.path.insert(0, str(ROOT / "benchmarks"))
import verdict_size

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("df", [2, 7, 40])
@pytest.mark.parametrize("methods", [2, 3, 10, 34])
def test_critical_values_are_tukeys(methods: int, df: float) -> None:
    for p in (0.05, 0.001):
        t = studentized.critical(p, methods, df)
        theirs = scipy.stats.studentized_range.sf(t * np.sqrt(2), methods, df)
        assert theirs == pytest.approx(p, rel=0.01)
        assert studentized.exceeded(t, methods, df) == pytest.approx(p, rel=1e-3)


def test_two_methods_have_the_paired_t_interval() -> None:
    a, b = RNG.normal(size=(2, 5))
    cells = [Scores(tuple(range(5)), own) for own in (a, b)]
    pairs = simultaneous.pairs(cells, spreads(cells))
    theirs = scipy.stats.ttest_rel(a, b)
    low = theirs.confidence_interval(0.95).low
    assert pairs.p(0, 1) == pytest.approx(theirs.pvalue)
    assert pairs.difference[0, 1] - pairs.half()[0, 1] == pytest.approx(low)


def test_equal_spreads_share_their_variance_and_the_seeds_common_luck_cancels() -> None:
    values = RNG.normal(size=(200, 4)) + 100 * RNG.normal(size=4)
    found = spreads([Scores((0, 1, 2, 3), own) for own in values])
    assert np.mean([one.variance for one in found]) == pytest.approx(1, rel=0.4)
    assert {one.methods for one in found} == {200}
    wild = values[:5] * np.array([1, 1, 1, 1, 9])[:, None]
    found = spreads([Scores((0, 1, 2, 3), own) for own in wild - wild.mean(axis=0)])
    assert found[4].variance == max(one.variance for one in found)


SIZES = [
    verdict_size.Shape(4, 3, "normal", "equal"),
    verdict_size.Shape(4, 3, "collapse", "unlike"),
    verdict_size.Shape(10, 5, "normal", "unlike"),
    verdict_size.Shape(4, 3, of_rows=10.0, predictions=False),
    verdict_size.Shape(10, 3, of_rows=1.0),
]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_five_per_cent_is_five_per_cent(shape: verdict_size.Shape) -> None:
    rng = np.random.default_rng(1)
    share = np.mean([verdict_size.wrong(verdict_size.ranking(shape, rng)) for _ in range(300)])
    assert share <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)


def test_margins_hold_with_the_best_that_the_data_chose() -> None:
    rng = np.random.default_rng(2)
    shape = verdict_size.Shape(10, 3, gain=1.0)
    truth = np.array([1.0, *[0.0] * 9])
    held = [verdict_size.margins_hold(verdict_size.ranking(shape, rng), truth) for _ in range(300)]
    assert np.mean(held) >= 0.93


def test_there_is_power_left() -> None:
    rng = np.random.default_rng(3)
    shape = verdict_size.Shape(4, 5, gain=3.0)
    assert np.mean([verdict_size.found(verdict_size.ranking(shape, rng)) for _ in range(200)]) > 0.8


def test_an_interval_holds_nought_where_a_method_is_bold() -> None:
    runs = [record(f"m{m}", s, 0.8 + 0.02 * RNG.normal() - 0.01 * m, test_rows=3000)
            for m in range(6) for s in range(3)]  # fmt: skip
    best = compare.against_best(results(*runs))
    others = best[best["method"] != best["best"]]
    assert (others["tie"] == (others["low"] <= 0)).all()
    assert (others["tie"] == (others["p_adjusted"] >= 0.05)).all()


def test_other_rankings_have_no_say() -> None:
    runs = [
        record(m, s, 0.8 + 0.02 * RNG.normal()) for m in ("full", "lora", "ia3") for s in range(3)
    ]
    wild = [record(m, s, RNG.random(), fraction=0.1) for m in ("full", "lora") for s in range(3)]
    alone = compare.against_best(results(*runs))
    both = compare.against_best(results(*runs, *wild)).query("fraction == 0.3")
    assert alone["p_adjusted"].tolist() == pytest.approx(both["p_adjusted"].tolist(), nan_ok=True)


def classes(rare: float, errors: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    labels = (RNG.random(n) < rare).astype(int)
    return labels, np.where(RNG.random(n) < errors, 1 - labels, labels)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
@pytest.mark.parametrize(("rare", "errors"), [(0.5, 0.1), (0.3, 0.2), (0.7, 0.15)])
def test_the_chance_of_rows_is_near_that_of_predictions(
    metric: str, rare: float, errors: float
) -> None:
    labels, predicted = classes(rare, errors)
    scores = Resampler(labels, [metric], draws=2000).scores(predicted[None])[:, 0]
    accuracy = float(np.mean(labels == predicted))
    found = row_noise.VARIANCES[metric](float(scores[0]), accuracy, len(labels))
    assert 0.85 < found / scores[1:].var() < 1.8
    blind = row_noise.VARIANCES[metric](float(scores[0]), None, len(labels))
    assert blind > 0.85 * scores[1:].var(), "rather too large where nothing tells the classes"


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_the_chance_of_rows_of_a_correlation(metric: str) -> None:
    x, y = RNG.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 2000).T
    scores = Resampler(x, [metric], draws=1000).scores(y[None])[:, 0]
    found = row_noise.VARIANCES[metric](float(scores[0]), None, 2000)
    assert 0.8 < found / scores[1:].var() < 2


def test_equal_scores_have_a_width_and_bounds_hold() -> None:
    runs = [record("full", s, 0.995, metric="accuracy", test_rows=400) for s in range(3)]
    (cell,) = compare.cells(results(*runs)).itertuples()
    assert (cell.sd, cell.high, cell.interval) == (0, 1, "seeds and rows")
    assert cell.low < 0.995
    (blind,) = compare.cells(results(*(record("full", s, 0.9) for s in range(3)))).itertuples()
    assert np.isnan(blind.low), "no interval rather than one of no width"


def test_the_leader_is_the_highest_that_learned() -> None:
    means, above = np.array([0.9, 0.8, 0.7, 0.6]), np.zeros((4, 4), bool)
    above[1, 3] = True
    learned = np.array([False, True, True, True])
    assert verdict(means, learned, above) == Verdict(1, (0, 2))
    assert verdict(means, ~(learned | True), above) == Verdict(None)


LABELS = np.repeat([0, 1], [30, 70])
BASELINES = {  # metric -> score of the best constant on 30 and 70 rows
    "accuracy": 0.7, "f1": 2 * 0.7 / 1.7, "matthews": 0.0, "pearson": 0.0,
    "accuracy_norm": 0.7,
}  # fmt: skip


@pytest.mark.parametrize(("metric", "score"), BASELINES.items(), ids=BASELINES)
def test_the_baseline_is_the_best_constant(metric: str, score: float) -> None:
    draws = Resampler(LABELS, [metric], draws=200)
    runs = results(record("full", 0, 0.5)).runs
    found = constant.baseline(runs, (metric,), draws, {})
    assert found is not None
    assert found.score == pytest.approx(score, abs=1e-6)


def test_f1_is_of_the_positive_class_that_the_record_names() -> None:
    predicted = np.where(np.arange(100) % 9 == 0, 1 - LABELS, LABELS)[None]
    for positive in (0, 1):
        scores = Resampler(LABELS, ["f1"], draws=200, positive=positive).scores(predicted)
        assert scores[0, 0] == pytest.approx(
            f1_score(LABELS, predicted[0], pos_label=positive), abs=1e-6
        )


def test_a_method_no_better_than_a_constant_never_leads(tmp_path: Path) -> None:
    """200 rows, 140 of a class: one method says so, one errs a little less, one is good."""
    labels = np.repeat([0, 1], [60, 140])
    right = {"constant": labels == 1, "luck": np.arange(200) >= 58, "good": np.arange(200) >= 20}
    runs = [record(name, seed, float(own.mean()), metric="accuracy", test_rows=200,
                   degenerate=name == "constant", **HASHES)
            for name, own in right.items() for seed in range(3)]  # fmt: skip
    saved(tmp_path, *runs)
    for number, run in enumerate(runs):
        place = tmp_path / f"mrpc/tiny/{run.method}/f0.3-s{run.seed}-{number}"
        predictions(place, labels, right[run.method])
    found = gather(load([tmp_path]))
    cells = compare.cells(found).set_index("method")
    assert cells["learned"].to_dict() == {"constant": False, "luck": False, "good": True}
    assert set(compare.against_best(found)["best"]) == {"good"}
    dull = found.runs[found.runs["method"] != "good"].reset_index(drop=True)
    nothing = type(found)(dull, found.settings)
    best = compare.against_best(nothing)
    assert set(best["best"]) == {""}
    assert not best["tie"].any()
    from finegrid.report import tables

    text = tables.markdown(nothing, compare.cells(nothing), best)
    assert "**No method learned anything** at 30\xa0% of the data" in text
    assert "**0." not in text, "nothing is bold"


IDS: dict[str, Callable[[int], object]] = {"text": lambda i: f"row{i}", "numbers": int}


@pytest.mark.parametrize("name", IDS.values(), ids=IDS)
def test_row_ids_are_hashed_by_value(tmp_path: Path, name: Callable[[int], object]) -> None:
    labels, right = np.arange(50) % 2, np.arange(50) > 5
    for place in ("a", "b", "other"):
        (tmp_path / place).mkdir()
        idx = pa.array([name(i + 50 * (place == "other")) for i in range(50)])
        predictions(tmp_path / place, labels, right, idx=idx)
    a, b, other = (outcomes.read(str(tmp_path / place)).rows for place in ("a", "b", "other"))
    assert a == b != other


@pytest.mark.parametrize("kind", ["<i4", "<f4"])
def test_stored_predictions_are_those_of_the_directory(tmp_path: Path, kind: str) -> None:
    labels = (np.arange(60) % 3).astype(kind)
    values = labels + RNG.normal(size=60).astype("<f4") if kind == "<f4" else labels[::-1]
    saved(tmp_path, record("full", 0, 0.5))
    columns = {"split": ["test"] * 60, "idx": range(60), "label": labels, "prediction": values}
    place = tmp_path / "mrpc/tiny/full/f0.3-s0-0"
    pq.write_table(pa.table(columns), place / "predictions.parquet")
    kept, note = outcomes.stored(load([tmp_path]))
    one, again = outcomes.read(str(place)), outcomes.of_run(kept.iloc[0].to_dict())
    assert note == ""
    assert again is not None
    assert one.rows == again.rows
    assert (one.labels == again.labels).all()
    assert (one.values == again.values).all()


def test_too_many_predictions_are_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, record("full", 0, 0.5))
    predictions(tmp_path / "mrpc/tiny/full/f0.3-s0-0", np.arange(50) % 2, np.arange(50) > 5)
    monkeypatch.setattr(outcomes, "MOST", 10)
    kept, note = outcomes.stored(load([tmp_path]))
    assert kept["prediction_values"].isna().all()
    assert note.startswith("1 run")


@pytest.mark.parametrize("spoilt", [b"", b"i", b"ixx", b"z" + b"0" * 9])
def test_stored_predictions_that_cannot_be_read_are_told(spoilt: bytes) -> None:
    row = asdict(record("full", 0, 0.5, metric="accuracy", test_rows=9))
    row |= {"overrides": "", "directory": "", "version": "1", "prediction_rows": "x",
            "prediction_labels": spoilt, "prediction_values": spoilt}  # fmt: skip
    runs = pd.DataFrame([row]).drop(columns=["metrics", "versions"])
    assert "full seed 0 on mrpc at 0.3" in evidence(gather(runs)).notes[0]


def unlike(wild: float, methods: int = 6, seeds: int = 5) -> list[Scores]:
    """Methods of which the first strays so many times as much as the others."""
    values = RNG.normal(0, 0.01, (methods, seeds))
    values[0] *= wild
    return [Scores(tuple(range(seeds)), 0.8 + own) for own in values]


def test_a_spread_is_never_drawn_downwards() -> None:
    for wild in (1.0, 3.0, 10.0):
        cells = unlike(wild)
        own = residual(cells)
        drawn = np.array([spread.variance for spread in spreads(cells)])
        assert (drawn >= own * (1 - 1e-9)).all()
        assert drawn[own.argmin()] > own.min(), "the steadiest is drawn towards the mean"


def test_p_counts_all_methods_of_the_ranking() -> None:
    cells = unlike(1.0, methods=4)
    table = simultaneous.pairs(cells, spreads(cells))
    assert table.p(0, 1) > table.p(0, 1, alone=True)
    (few,) = {int(n) for n in table.methods.ravel()}
    assert few == 4


def test_rows_that_both_get_wrong_are_no_chance_of_a_difference() -> None:
    rows, draws = 100, RNG.normal(0.8, 0.03, (400, 1))
    apart = RNG.normal(0.8, 0.04, (400, 1))
    same, other = (
        [Scores((0,), np.array([0.8]), one, rows) for one in (draws, two)] for two in (draws, apart)
    )
    for cells, expected in ((same, 0.0), (other, (draws - apart).var(ddof=1) * rows / (rows - 1))):
        (part,) = simultaneous.pairs(cells, spreads(cells)).sources
        assert part.chance == "rows"
        assert part.variance[0, 1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("z", "learned"), [(-3.0, False), (0.0, False), (1.6, False), (1.7, True)])
def test_a_method_learned_if_it_is_better_at_five_per_cent(z: float, learned: bool) -> None:
    """One-sided: from 1.645 standard errors above the constant on."""
    runs = pd.DataFrame({"degenerate": [False]})
    scores = Scores((0,), np.array([0.7 + z * 0.01]), rows=100_000, of_rows=0.0001)
    assert constant.learned(runs, scores, constant.Baseline(0.7)) == learned


def test_the_chance_of_rows_by_closed_forms() -> None:
    runs = pd.DataFrame({"metric": ["accuracy"], "test": [0.5]})
    assert row_noise.variance(runs, ("accuracy",), 400) == pytest.approx(0.25 / 400)
    runs = pd.DataFrame({"metric": ["pearson"], "test": [0.6]})
    fisher = (1 - 0.36) ** 2 / 397
    assert row_noise.variance(runs, ("pearson",), 400) == pytest.approx(fisher * 1.18)
