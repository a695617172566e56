"""Statistics against closed forms, other libraries and simulation."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from finegrid.errors import UserError
from finegrid.report.stats import bootstrap, significance
from finegrid.report.stats.bootstrap import Resampler
from finegrid.report.stats.significance import Scores

RNG = np.random.default_rng(0)
SEEDS = tuple(range(20))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 33])
def test_iqm_is_the_mean_without_a_quarter_at_either_end(n: int) -> None:
    values = RNG.normal(size=n)
    assert significance.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_students_probability_and_quantile(n: int) -> None:
    values = RNG.normal(size=n)
    t = values.mean() / (values.std(ddof=1) / np.sqrt(n))
    assert significance.two_sided(t, n - 1) == pytest.approx(
        scipy.stats.ttest_1samp(values, 0).pvalue
    )
    assert significance.two_sided(1.96, np.inf) == pytest.approx(2 * scipy.stats.norm.sf(1.96))
    assert significance.quantile(0.975, n - 1) == pytest.approx(scipy.stats.t.ppf(0.975, n - 1))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (5, 5), (3, 11), (40, 12)])
def test_mcnemar_is_exact(a: int, b: int) -> None:
    first = np.array([1] * a + [0] * b + [1] * 7 + [0] * 2, bool)
    second = np.array([0] * a + [1] * b + [1] * 7 + [0] * 2, bool)
    theirs = mcnemar([[7, a], [b, 2]], exact=True).pvalue
    assert significance.mcnemar(first, second) == pytest.approx(theirs)


def test_holm_is_that_of_statsmodels_and_keeps_what_was_not_tested() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5, 0.04])
    assert significance.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    gaps = np.array([0.01, np.nan, 0.04])
    assert significance.holm(gaps) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert len(significance.holm(np.array([]))) == 0


def test_improvement_counts_pairs_of_runs_and_is_mann_whitneys_u() -> None:
    a = [np.array([0.5, 0.7, 0.7]), RNG.normal(size=4)]
    b = [np.array([0.7, 0.2]), RNG.normal(size=6)]
    brute = [
        np.mean([(x > y) + (x == y) / 2 for x, y in product(one, other)])
        for one, other in zip(a, b, strict=True)
    ]
    assert significance.improvement(a, b) == pytest.approx(np.mean(brute))
    u = scipy.stats.mannwhitneyu(a[1], b[1]).statistic
    assert significance.improvement(a[1:], b[1:]) == pytest.approx(u / 24)
    assert significance.improvement(a, a) == 0.5


@pytest.mark.parametrize(("n", "level"), [(2, 0.95), (3, 0.95), (5, 0.9), (10, 0.95), (50, 0.9)])
def test_the_detectable_difference_is_that_of_a_power_analysis(n: int, level: float) -> None:
    found = significance.detectable(2.0, n, level=level) / 2
    assert TTestPower().power(found, n, 1 - level) == pytest.approx(0.8, abs=3e-3)
    assert significance.detectable(1.0, 4, df=1e9) == pytest.approx(
        (1.95996 + 0.84162) / 2, rel=1e-3
    )
    assert np.isnan(significance.detectable(1.0, 1))


def test_without_predictions_the_difference_is_the_paired_t_test() -> None:
    a, b = RNG.normal(size=(2, 6))
    found = significance.difference(Scores(SEEDS[:6], a), Scores(SEEDS[:6], b))
    theirs = scipy.stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.df, found.seeds, found.test) == (5, 6, "seeds")


def test_only_common_seeds_are_compared() -> None:
    a = Scores((1, 2, 3), np.array([0.1, 0.2, 0.4]))
    b = Scores((3, 2, 7), np.array([0.1, 0.1, 0.9]))
    assert significance.difference(a, b).mean == pytest.approx((0.1 + 0.3) / 2)
    nothing = significance.difference(a, Scores((8, 9), np.array([0.1, 0.2])))
    assert (nothing.test, nothing.seeds) == ("", 0)
    assert np.isnan([nothing.mean, nothing.p]).all()


def test_what_cannot_be_tested_has_no_probability() -> None:
    one = significance.difference(Scores((0,), np.array([0.9])), Scores((0,), np.array([0.1])))
    assert (one.mean, one.test) == (pytest.approx(0.8), "")
    assert np.isnan(one.p)
    equal = [Scores((0, 1), np.array([x, x]), rows=100) for x in (0.52, 0.51)]
    found = significance.difference(*equal)
    assert found.se == pytest.approx(0.01 / np.sqrt(2)), "as if they spread by one row of 100"


def test_one_seed_leaves_the_chance_of_the_rows() -> None:
    labels = RNG.integers(0, 2, 400)
    right = RNG.random((2, 400)) < [[0.9], [0.7]]
    draws = Resampler(labels, ["accuracy"], draws=4000)
    a, b = (
        Scores((0,), own.mean(keepdims=True), draws(np.where(own, labels, 1 - labels)[None]), 400)
        for own in right
    )
    found = significance.difference(a, b)
    theirs = scipy.stats.ttest_rel(*right.astype(float))
    assert (found.test, found.df) == ("rows", 399)
    assert found.se == pytest.approx((right[0] * 1.0 - right[1]).std(ddof=1) / 20, rel=0.03)
    assert found.p == pytest.approx(theirs.pvalue, rel=0.5)
    assert significance.difference(a, a).p == 1.0, "the same predictions"


def test_the_chance_of_rows_is_that_of_the_mean_over_all_seeds() -> None:
    """Seeds that stray on opposite rows cancel one another; the first alone would not tell."""
    stray = RNG.normal(0, 0.1, 500)
    nothing = np.zeros((500, 2))
    b = Scores((0, 1), np.array([0.2, 0.3]), nothing, 100)
    cancel, agree = (
        Scores((0, 1), np.array([0.6, 0.9]), np.stack([stray, other], axis=1), 100)
        for other in (-stray, stray)
    )
    of_seeds = (0.6 - 0.4) / np.sqrt(2) / np.sqrt(2)  # sd of 0.4 and 0.6, of a mean of two
    assert significance.difference(cancel, b).se == pytest.approx(of_seeds)
    expected = np.hypot(of_seeds, stray.std(ddof=1) * np.sqrt(100 / 99))
    assert significance.difference(agree, b).se == pytest.approx(expected)


def test_seeds_without_predictions_say_nothing_of_rows() -> None:
    stray = RNG.normal(0, 0.1, (500, 1))
    a = Scores((0, 1), np.array([0.6, 0.9]), np.hstack([stray, np.full((500, 1), np.nan)]), 100)
    b = Scores((0, 1), np.array([0.2, 0.3]), np.zeros((500, 2)), 100)
    expected = np.hypot(0.1, stray.std(ddof=1) * np.sqrt(100 / 99))
    assert significance.difference(a, b).se == pytest.approx(expected)


def f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """As GLUE has it for two classes, the mean over classes for more."""
    average = "binary" if max(labels.max(), predicted.max()) < 2 else "macro"
    return float(sk.f1_score(labels, predicted, average=average, zero_division=0))


def defined(score: float) -> float:
    """A correlation with a constant counts as 0."""
    return 0.0 if np.isnan(score) else score


PEARSON = lambda y, x: defined(scipy.stats.pearsonr(y, x)[0])  # noqa: E731
SPEARMAN = lambda y, x: defined(scipy.stats.spearmanr(y, x)[0])  # noqa: E731
EXPLICIT = {
    "accuracy": sk.accuracy_score, "f1": f1, "matthews": sk.matthews_corrcoef,
    "pearson": PEARSON, "spearman": SPEARMAN,
}  # fmt: skip


def classes(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions: three good runs and one that predicts a constant."""
    labels = RNG.integers(0, number, 50)
    guesses = RNG.integers(0, number, (4, 50))
    predicted = np.where(RNG.random((4, 50)) < 0.6, labels, guesses)
    predicted[3] = 1
    return labels, predicted


def values() -> tuple[np.ndarray, np.ndarray]:
    """Labels with ties; predictions with and without, far from 0, and constant."""
    labels = np.round(RNG.random(50) * 5)
    noise = RNG.normal(size=(4, 50))
    predicted = labels + noise
    predicted[1] = np.round(predicted[1])
    predicted[2] += 1000
    predicted[3] = 0.25
    return labels, predicted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("names", "rows"),
    [(["accuracy"], classes(2)), (["f1"], classes(2)), (["matthews"], classes(2)),
     (["accuracy", "f1"], classes(2)), (["accuracy", "f1", "matthews"], classes(4)),
     (["pearson"], values()), (["spearman"], values()), (["pearson", "spearman"], values())],
)  # fmt: skip
def test_resampled_scores_are_those_of_the_rows_repeated(
    names: list[str], rows: tuple[np.ndarray, np.ndarray]
) -> None:
    labels, predicted = rows
    draws = Resampler(labels, names, draws=200)
    scores = draws.scores(predicted)
    for draw in (*range(10), 200):
        drawn = np.repeat(np.arange(len(labels)), draws.weights[:, draw].astype(int))
        assert len(drawn) == len(labels)
        expected = [
            np.mean([EXPLICIT[name](labels[drawn], own[drawn]) for name in names])
            for own in predicted
        ]
        assert scores[draw] == pytest.approx(expected, abs=1e-5)
    assert (draws.weights[:, 0] == 1).all(), "the first draw is the rows themselves"
    assert (draws(predicted) == scores[1:]).all()


def test_draws_are_the_same_for_all_and_fewer_on_large_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.arange(300) % 2
    assert (Resampler(labels, ["f1"]).weights == Resampler(labels, ["f1"]).weights).all()
    monkeypatch.setattr(bootstrap, "CELLS", 100_000)
    assert Resampler(labels, ["f1"]).weights.shape == (300, 1 + 333)
    with pytest.raises(UserError, match="bleu cannot be resampled; known: accuracy, f1"):
        Resampler(labels, ["bleu"])


def two_methods(
    rng: np.random.Generator, *, seeds: int, of_seed: float, of_row: float, of_both: float,
    better: float = 0.0,
) -> tuple[Scores, Scores]:  # fmt: skip
    """Two methods' accuracies on 150 rows: what a row is worth depends on seed, row and both."""
    rows, draws = 150, 150
    labels = np.zeros(rows, int)
    resampler = Resampler(labels, ["accuracy"], draws=draws, seed=int(rng.integers(1 << 30)))
    made = []
    for gain in (better, 0.0):
        logits = (
            1 + gain + of_row * rng.normal(size=rows) + of_both * rng.normal(size=(seeds, rows))
        )
        logits += of_seed * rng.normal(size=(seeds, 1))
        scores = resampler.scores((logits < 0).astype(int))
        made.append(Scores(SEEDS[:seeds], scores[0], scores[1:], rows))
    return made[0], made[1]


def rejected(make: Callable[[], tuple[Scores, Scores]], times: int) -> float:
    """The share of p below 0.05."""
    return float(np.mean([significance.difference(*make()).p < 0.05 for _ in range(times)]))


CHANCE = {
    "seeds alone": {"of_seed": 0.5, "of_row": 0.0, "of_both": 0.3},
    "rows alone": {"of_seed": 0.0, "of_row": 1.5, "of_both": 0.0},
    "seeds and rows": {"of_seed": 0.3, "of_row": 1.0, "of_both": 0.5},
    "all of it in both": {"of_seed": 0.0, "of_row": 0.0, "of_both": 1.5},
}


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize("chance", CHANCE.values(), ids=CHANCE)
def test_a_true_null_is_seldom_rejected(chance: dict[str, float], seeds: int) -> None:
    """At most alpha, but for the noise of 300 simulations (2.5 standard errors)."""
    rng = np.random.default_rng(1)
    share = rejected(lambda: two_methods(rng, seeds=seeds, **chance), 300)
    assert share <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)


def test_without_predictions_other_test_rows_would_often_be_called_a_difference() -> None:
    """Why the rows must be in the test: seeds agree with one another on what one test set says."""
    rng = np.random.default_rng(1)

    def blind() -> tuple[Scores, Scores]:
        a, b = two_methods(rng, seeds=8, of_seed=0.0, of_row=1.5, of_both=0.2)
        return Scores(a.seeds, a.values), Scores(b.seeds, b.values)

    assert rejected(blind, 300) > 0.3


def test_size_and_power_of_the_test_over_seeds_alone() -> None:
    rng = np.random.default_rng(2)

    def pair(gain: float) -> tuple[Scores, Scores]:
        a, b = rng.normal(size=(2, 5))
        return Scores(SEEDS[:5], a + gain), Scores(SEEDS[:5], b)

    assert rejected(lambda: pair(0.0), 2000) == pytest.approx(0.05, abs=0.015)
    gain = significance.detectable(np.sqrt(2), 5)
    assert rejected(lambda: pair(gain), 2000) == pytest.approx(0.8, abs=0.03)


def test_a_detectable_difference_is_found_with_predictions_too() -> None:
    """It is what the test's own standard error allows; the error is too large rather than small."""
    rng = np.random.default_rng(3)
    chance = CHANCE["seeds and rows"]
    pairs = [two_methods(rng, seeds=5, better=0.85, **chance) for _ in range(300)]
    found = [significance.difference(*pair) for pair in pairs]
    true = np.mean([one.mean for one in found])
    least = np.median([significance.detectable(one.se, 1, df=one.df) for one in found])
    power = np.mean([one.p < 0.05 for one in found])
    assert true == pytest.approx(least, rel=0.35), "so about 80 % should be found"
    assert 0.6 < power < 0.97
