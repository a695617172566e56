"""Where one method overtakes another: known crossings, what is not told, the interval."""

from collections.abc import Callable
from math import inf, log2, nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_decide import ROWS, noise, table

from finegrid.report import overtaking, tables
from finegrid.report.comparison import Comparison
from finegrid.report.html.page import page
from finegrid.report.stats import crossings
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Known

GAIN = 0.02  # of `late` over `early` with each doubling of the labels


def lines(crossing: float, spread: float) -> Callable[[str, str, float, float, int], float]:
    """Two methods whose true scores are the same at so many labels."""

    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        rises = GAIN * log2(ROWS[fraction] / crossing) if method == "late" else 0.0
        return 0.7 + rises + spread * noise(method, fraction, seed)

    return score


def compared(crossing: float, spread: float = 1e-4, **grid: object) -> Comparison:
    runs = table(lines(crossing, spread), **({"methods": ("early", "late")} | grid))  # type: ignore[arg-type]
    return Comparison.of(runs)


def only(made: Comparison) -> Any:
    (row,) = made.crossings.itertuples()
    return row


def test_a_known_crossing_is_where_it_is_in_labels() -> None:
    """Rows to select on count: 100, 300 and 1,000 labels, of which 50 are those."""
    made = compared(200)
    row = only(made)
    assert (row.first, row.second, row.times, row.why) == ("late", "early", 1, "")
    assert row.labels == pytest.approx(200, rel=0.01)
    assert 100 < row.low < 200 < row.high < 350, "the chance of 40,000 rows, and little of seeds"
    assert (row.smallest, row.largest, row.sizes) == (100, 1000, 3)
    text = overtaking.sentence(row)
    assert text.startswith("late overtakes early at about 200 labels [1")
    shown = tables.markdown(made.results, made.cells, made.best, crossings=made.crossings)
    assert f"- {text}" in shown
    assert "overtakes" not in tables.markdown(made.results, made.cells, made.best)
    assert text in page(made)


def test_an_end_beyond_what_was_measured_is_said() -> None:
    row = only(compared(105, spread=0.003))
    assert (row.why, row.low) == ("", 0.0)
    assert "[below 100, " in overtaking.sentence(row)
    row = only(compared(950, spread=0.003))
    assert row.high == inf
    assert overtaking.sentence(row).endswith(", above 1,000]")


UNTOLD: dict[str, tuple[float, dict[str, object], str]] = {
    "leads": (20, {}, "late leads early throughout (told apart at 3 of 3 amounts)"),
    "chance": (200, {"spread": 0.3}, "no crossing told: "),
    "one seed": (200, {"seeds": (0,)}, "no crossing told: fewer than two seeds in common"),
    "constant": (200, {"degenerate": True}, "no crossing told: neither learned anything"),
    "same scores": (200, {"spread": 0.0, "test_rows": None}, "no crossing told: a difference with"),
}


@pytest.mark.parametrize(("crossing", "grid", "text"), UNTOLD.values(), ids=UNTOLD)
def test_what_is_told_without_a_crossing(
    crossing: float, grid: dict[str, object], text: str
) -> None:
    assert text in overtaking.sentence(only(compared(crossing, **grid)))  # type: ignore[arg-type]


def test_two_amounts_are_not_looked_into() -> None:
    made = compared(200, fractions=(0.1, 1.0))
    assert made.crossings.empty
    shown = tables.markdown(made.results, made.cells, made.best, crossings=made.crossings)
    assert "At how many labels" not in shown


def sizes(differences: dict[float, float], seeds: int, luck: np.ndarray[Any, Any]) -> list[Any]:
    """Methods `a` and `b` at some amounts; luck: amounts x methods x seeds, `a` - `b` is given."""
    made = []
    for (labels, difference), own in zip(differences.items(), luck, strict=True):
        values = {"a": 0.7 + difference + own[0], "b": 0.7 + own[1]}
        scores = {name: Scores(tuple(range(seeds)), value) for name, value in values.items()}
        made.append(crossings._size(labels, {name: Known(one, {}) for name, one in scores.items()}))
    return made


def row_of(of: list[Any]) -> Any:
    (row,) = crossings._of_table(of, 0.95)
    named = dict(zip(crossings.COLUMNS, [0, "t", "epochs", 3.0, *row], strict=True))
    return next(pd.DataFrame([named]).itertuples())


@pytest.mark.parametrize(
    ("differences", "labels", "times", "first"),
    [
        ((-0.1, 0.1, 0.1, -0.1), 32 * 2**0.5, 2, "a"),
        ((0.1, 0.1, -0.1, -0.3), 64 * 2**0.5, 1, "b"),
        ((-0.1, 0.3, 0.3, 0.3), 32 * 2**0.25, 1, "a"),
    ],
)
def test_of_several_crossings_the_first(
    differences: tuple[float, ...], labels: float, times: int, first: str
) -> None:
    luck = 1e-5 * np.random.default_rng(0).normal(size=(4, 2, 5))
    row = row_of(sizes(dict(zip((32.0, 64.0, 128.0, 256.0), differences, strict=True)), 5, luck))
    assert (row.first, row.times) == (first, times)
    assert row.labels == pytest.approx(labels, rel=1e-3)
    assert ("the means cross 2 times" in overtaking.sentence(row)) == (times == 2)


def test_a_crossing_within_chance_does_not_hide_the_one_that_is_told() -> None:
    """`a` is a hair ahead at 64 labels and far behind from 128 on: `b` overtakes it."""
    luck = 0.01 * np.random.default_rng(0).normal(size=(4, 2, 5))
    luck -= luck.mean(axis=2, keepdims=True)
    row = row_of(sizes({32.0: -0.001, 64.0: 0.001, 128.0: -0.1, 256.0: -0.2}, 5, luck))
    assert (row.first, row.second, row.times, row.why) == ("b", "a", 2, "")
    assert 64 < row.labels < row.high < 128
    assert row.low == 0


def test_equal_means_between_two_signs_cross_in_their_middle() -> None:
    x = np.array([5.0, 6.0, 7.0, 8.0])
    assert crossings._zeros(x, np.array([-1.0, 0.0, 0.0, 2.0])) == [6.5]
    assert crossings._zeros(x, np.array([0.0, 0.0, 1.0, 2.0])) == []
    assert crossings._zeros(x, np.zeros(4)) == []


@pytest.mark.parametrize(("seeds", "together"), [(3, 0.0), (5, 0.7)])
def test_the_interval_holds_the_true_crossing(seeds: int, together: float) -> None:
    """Nominal 95 %: at least 92 % of 150, whether or not a seed's luck is alike at all amounts."""
    rng = np.random.default_rng(1)
    true, held = 2**7.3, 0
    amounts = (64.0, 128.0, 256.0, 512.0)
    for _ in range(150):
        alike, own = rng.normal(size=(1, 2, seeds)), rng.normal(size=(4, 2, seeds))
        luck = 0.01 * (together**0.5 * alike + (1 - together) ** 0.5 * own)
        row = row_of(sizes({n: GAIN * log2(n / true) for n in amounts}, seeds, luck))
        sure = row.labels != row.labels and row.told == row.sizes
        held += not sure if row.labels != row.labels else row.low <= true <= row.high
    assert held >= 138


def test_of_equal_methods_hardly_a_crossing_is_told() -> None:
    """Nominal 5 % of 100, at four amounts together."""
    rng = np.random.default_rng(6)
    equal = dict.fromkeys((64.0, 128.0, 256.0, 512.0), 0.0)
    rows = [row_of(sizes(equal, 3, 0.01 * rng.normal(size=(4, 2, 3)))) for _ in range(100)]
    assert sum(row.why == "" for row in rows) <= 10, "crossings, and leads throughout"


def test_many_pairs_are_counted() -> None:
    row = ("a", "b", nan, nan, nan, 0, 3, 3, 10.0, 99.0, "")
    frame = pd.DataFrame([(0, "t", "epochs", 3.0, *row)] * 30, columns=crossings.COLUMNS)
    told = overtaking.sentences(frame, frame.to_dict("records")[0])
    assert len(told) == overtaking.MOST + 1
    assert told[-1] == "and 6 more pairs, in csv/crossings.csv"
