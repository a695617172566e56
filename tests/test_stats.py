"""Statistics against closed forms, other libraries and simulation."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from finegrid.errors import UserError
from finegrid.report.stats import bootstrap, paired, significance
from finegrid.report.stats.bootstrap import Resampler
from finegrid.report.stats.paired import Scores

RNG = np.random.default_rng(0)
SEEDS = tuple(range(20))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 33])
def test_iqm_is_the_mean_without_a_quarter_at_either_end(n: int) -> None:
    values = RNG.normal(size=n)
    assert significance.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (5, 5), (3, 11), (40, 12)])
def test_mcnemar_is_exact(a: int, b: int) -> None:
    first = np.array([1] * a + [0] * b + [1] * 7 + [0] * 2, bool)
    second = np.array([0] * a + [1] * b + [1] * 7 + [0] * 2, bool)
    theirs = mcnemar([[7, a], [b, 2]], exact=True).pvalue
    assert significance.mcnemar(first, second) == pytest.approx(theirs)


def test_holm_is_that_of_statsmodels() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5, 0.04])
    assert significance.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert len(significance.holm(np.array([]))) == 0


def paired_detectable(sd: float, n: int, level: float = 0.95) -> float:
    """Of a paired t test over n seeds, whose differences have this standard deviation."""
    critical = float(scipy.stats.t.ppf((1 + level) / 2, n - 1))
    return significance.detectable(sd / np.sqrt(n), df=n - 1, critical=critical)


@pytest.mark.parametrize(("n", "level"), [(2, 0.95), (3, 0.95), (5, 0.9), (10, 0.95), (50, 0.9)])
def test_the_detectable_difference_is_that_of_a_power_analysis(n: int, level: float) -> None:
    found = paired_detectable(2.0, n, level) / 2
    assert TTestPower().power(found, n, 1 - level) == pytest.approx(0.8, abs=3e-3)
    normal = significance.detectable(0.5, df=1e9, critical=1.95996)
    assert normal == pytest.approx((1.95996 + 0.84162) / 2, rel=1e-3)
    assert np.isnan(significance.detectable(1.0, df=0, critical=2))


def p(found: paired.Difference) -> float:
    """Below 0.05 exactly where the interval of 95 % does not hold 0."""
    if found.mean == 0:
        return 1.0
    return float(2 * scipy.stats.t.sf(abs(found.mean / found.se), found.df))


def test_without_predictions_the_difference_is_the_paired_t_test() -> None:
    a, b = RNG.normal(size=(2, 6))
    found = paired.difference(Scores(SEEDS[:6], a), Scores(SEEDS[:6], b))
    theirs = scipy.stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert p(found) == pytest.approx(theirs.pvalue)
    half = scipy.stats.t.ppf(0.975, found.df) * found.se
    ours = (found.mean - half, found.mean + half)
    assert ours == pytest.approx((interval.low, interval.high))
    assert (found.df, found.seeds, found.test) == (5, 6, "seeds")


def test_only_common_seeds_are_compared() -> None:
    a = Scores((1, 2, 3), np.array([0.1, 0.2, 0.4]))
    b = Scores((3, 2, 7), np.array([0.1, 0.1, 0.9]))
    assert paired.difference(a, b).mean == pytest.approx((0.1 + 0.3) / 2)
    nothing = paired.difference(a, Scores((8, 9), np.array([0.1, 0.2])))
    assert (nothing.test, nothing.seeds) == ("", 0)
    assert np.isnan([nothing.mean, nothing.se]).all()


def test_what_cannot_be_tested_has_no_probability() -> None:
    one = paired.difference(Scores((0,), np.array([0.9])), Scores((0,), np.array([0.1])))
    assert (one.mean, one.test) == (pytest.approx(0.8), "")
    assert np.isnan(one.se)
    equal = [Scores((0, 1), np.array([x, x]), rows=100) for x in (0.52, 0.51)]
    found = paired.difference(*equal)
    assert found.se == pytest.approx(0.01 / np.sqrt(2)), "as if they spread by one row of 100"


def test_one_seed_leaves_the_chance_of_the_rows() -> None:
    labels = RNG.integers(0, 2, 400)
    right = RNG.random((2, 400)) < [[0.9], [0.7]]
    draws = Resampler(labels, ["accuracy"], draws=4000)
    a, b = (
        Scores((0,), own.mean(keepdims=True), draws(np.where(own, labels, 1 - labels)[None]), 400)
        for own in right
    )
    found = paired.difference(a, b)
    theirs = scipy.stats.ttest_rel(*right.astype(float))
    assert (found.test, found.df) == ("rows", 399)
    assert found.se == pytest.approx((right[0] * 1.0 - right[1]).std(ddof=1) / 20, rel=0.03)
    assert p(found) == pytest.approx(theirs.pvalue, rel=0.5)
    same = paired.difference(a, a)
    assert (same.mean, same.se) == (0, 0), "the same predictions"


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
    assert paired.difference(cancel, b).se == pytest.approx(of_seeds)
    expected = np.hypot(of_seeds, stray.std(ddof=1) * np.sqrt(100 / 99))
    assert paired.difference(agree, b).se == pytest.approx(expected)


def test_seeds_without_predictions_say_nothing_of_rows() -> None:
    stray = RNG.normal(0, 0.1, (500, 1))
    a = Scores((0, 1), np.array([0.6, 0.9]), np.hstack([stray, np.full((500, 1), np.nan)]), 100)
    b = Scores((0, 1), np.array([0.2, 0.3]), np.zeros((500, 2)), 100)
    expected = np.hypot(0.1, stray.std(ddof=1) * np.sqrt(100 / 99))
    assert paired.difference(a, b).se == pytest.approx(expected)


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
    with pytest.raises(UserError, match="chrf cannot be resampled; known: accuracy, f1"):
        Resampler(labels, ["chrf"])


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
    return float(np.mean([p(paired.difference(*make())) < 0.05 for _ in range(times)]))


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
    gain = paired_detectable(np.sqrt(2), 5)
    assert rejected(lambda: pair(gain), 2000) == pytest.approx(0.8, abs=0.03)


def test_a_detectable_difference_is_found_with_predictions_too() -> None:
    """It is what the test's own standard error allows; the error is too large rather than small."""
    rng = np.random.default_rng(3)
    chance = CHANCE["seeds and rows"]
    pairs = [two_methods(rng, seeds=5, better=0.85, **chance) for _ in range(300)]
    found = [paired.difference(*pair) for pair in pairs]
    true = np.mean([one.mean for one in found])

    def detectable(one: paired.Difference) -> float:
        critical = float(scipy.stats.t.ppf(0.975, one.df))
        return significance.detectable(one.se, df=one.df, critical=critical)

    least = np.median([detectable(one) for one in found])
    power = np.mean([p(one) < 0.05 for one in found])
    assert true == pytest.approx(least, rel=0.35), "so about 80 % should be found"
    assert 0.6 < power < 0.97
