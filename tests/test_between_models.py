"""Models compared with one another: what is ahead, what is chance, what is not compared."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_decide import noise, table

from finegrid.report import between_models, write
from finegrid.report.answer import answer
from finegrid.report.comparison import Comparison
from finegrid.report.html.page import page

AHEAD = {"small": 0.0, "large": 0.05}  # with full; with bitfit they are the same


def runs(models: dict[str, float] = AHEAD, *, draw: object = 0, **changes: object) -> pd.DataFrame:
    """Two methods with each of some models, on the same rows."""

    def score(model: str) -> Any:
        def of(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
            ahead = models[model] if method == "full" else 0.0
            return 0.7 + ahead + 0.004 * noise(model, method, task, seed, draw)

        return of

    frames = [
        table(
            score(model), methods=("full", "bitfit"), fractions=(1.0,), seeds=range(3),
            model=model, train_hash="train", validation_hash="held", test_hash="test",
            **({"fingerprint": f"weights of {model}"} | changes),
        ).assign(cell=lambda rows, model=model: model + rows["cell"])
        for model in models
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_the_model_that_is_ahead_with_a_method_is_told() -> None:
    made = Comparison.of(runs())
    full, bitfit = made.models.itertuples()
    assert (full.method, full.best, full.model, full.seeds) == ("full", "large", "small", 3)
    assert 0 < full.low < full.difference < full.high
    assert full.difference == pytest.approx(0.05, abs=0.01)
    assert bitfit.low < 0 < bitfit.high
    (said,) = (one for one in between_models.sentences(made) if "with full" in one)
    place = "On mrpc (100\xa0% of the data, 3\xa0epochs, 3 seeds)"
    assert said.startswith(f"{place} with full large is ahead of small: by 0.0")
    for text in (write.markdown(made), page(made), answer(made).sentence):
        assert said in text


def test_models_that_are_level_are_not_told_apart() -> None:
    made = Comparison.of(runs({"one": 0.0, "two": 0.0}))
    assert all(" cannot be told apart from " in one for one in between_models.sentences(made))


def test_every_model_is_behind_the_best_of_a_method() -> None:
    made = Comparison.of(runs({"a": 0.0, "b": 0.05, "c": 0.1}))
    of_full = made.models[made.models["method"].eq("full")]
    assert list(of_full["best"]) == ["c", "c"]
    assert list(of_full["model"]) == ["b", "a"]


def test_two_sets_of_weights_of_one_name_are_two_models() -> None:
    one, other = runs({"same": 0.0}), runs({"same": 0.0}, draw=1, fingerprint="tuned further")
    both = Comparison.of(
        pd.concat([one, other.assign(cell="2" + other["cell"])], ignore_index=True)
    )
    names = set(both.models["best"]) | set(both.models["model"])
    assert names == {"same weights of same", "same tuned further"}


@pytest.mark.parametrize(
    "change",
    [{"train_hash": "other"}, {"test_hash": "other"}, {"metric": "accuracy"}, {"precision": "16"}],
    ids=str,
)
def test_models_that_differ_in_more_are_not_compared(change: dict[str, str]) -> None:
    both = runs()
    at = both["model"].eq("large")
    both.loc[at, list(change)] = list(change.values())
    made = Comparison.of(both)
    assert made.models.empty
    assert "Models compared" not in write.markdown(made)
    assert 'id="models"' not in page(made)


def test_settings_at_one_place_are_compared_each_for_itself() -> None:
    """Two heads: the models stand the other way round with the second."""
    usual, other = runs(), runs({"small": 0.05, "large": 0.0}, head="prototype")
    both = pd.concat([usual, other.assign(cell="p" + other["cell"])], ignore_index=True)
    made = Comparison.of(both)
    of_full = made.models[made.models["method"].eq("full")].set_index("apart")
    assert dict(of_full["best"]) == {"head=classifier": "large", "head=prototype": "small"}
    said = between_models.sentences(made)
    assert any(" with full head=prototype small is ahead of large" in one for one in said)
    assert any(" with full head=classifier large is ahead of small" in one for one in said)


def test_heads_in_one_ranking_are_no_models() -> None:
    """--mix head: the method is named by its head, and each head's models are compared."""
    usual, other = runs(), runs({"small": 0.05, "large": 0.0}, head="prototype")
    both = pd.concat([usual, other.assign(cell="p" + other["cell"])], ignore_index=True)
    made = Comparison.of(both, mix=["head"])
    assert made.models["best"].ne(made.models["model"]).all()
    of_full = made.models[made.models["method"].str.startswith("full")].set_index("method")
    assert dict(of_full["best"]) == {"full": "large", "full head=prototype": "small"}
    assert Comparison.of(both[both["model"].eq("small")], mix=["head"]).models.empty
    assert Comparison.of(usual, mix=["model"]).models.empty


def test_what_was_asked_for_beyond_the_model_must_be_the_same() -> None:
    """A rate is each model's own; a batch size is not, nor is where the weights lie."""
    both = runs()
    large = both["model"].eq("large")
    both["overrides"] = np.where(large, "optim.lr=0.1 model.path=/large", "optim.lr=0.2")
    assert list(Comparison.of(both).models["method"]) == ["full", "bitfit"]
    both["overrides"] = np.where(large, "data.batch_size=64", "data.batch_size=8")
    assert Comparison.of(both).models.empty
    twice = both[large].assign(overrides="data.batch_size=8", cell=lambda rows: "8" + rows["cell"])
    found = Comparison.of(pd.concat([both, twice], ignore_index=True)).models
    assert list(found["method"]) == ["full data.batch_size=8", "bitfit data.batch_size=8"]


def test_a_model_on_other_rows_leaves_the_others_comparable() -> None:
    three = runs({"a": 0.0, "b": 0.05, "c": 0.1})
    three.loc[three["model"].eq("c"), "train_hash"] = "other"
    found = Comparison.of(three).models
    assert set(found["best"]) | set(found["model"]) == {"a", "b"}


def test_few_common_seeds_are_said_and_both_means_are_of_them() -> None:
    both = runs()
    alone = both[both["seed"].eq(0) | both["model"].eq("large")]
    made = Comparison.of(alone)
    full = made.models.iloc[0]
    assert (full["best"], full["seeds"]) == ("large", 1), "several seeds come first"
    assert full["difference"] == pytest.approx(full["best_mean"] - full["mean"])
    assert any(
        "1 seed only: too few to be sure of" in one for one in between_models.sentences(made)
    )


def test_rows_of_each_seed_are_compared_seed_by_seed() -> None:
    own = runs().assign(subset_seed=lambda rows: rows["seed"])
    own["train_hash"] = own["seed"].astype(str)
    assert len(Comparison.of(own).models) == 2
    own.loc[own["model"].eq("large"), "train_hash"] += " other"
    assert Comparison.of(own).models.empty


def test_a_model_that_learned_nothing_is_ahead_of_none() -> None:
    made = Comparison.of(runs(degenerate=True))
    assert made.models.empty


def test_equal_models_are_told_apart_in_one_of_twenty() -> None:
    """Of a method; each is a test of its own, as the table says."""
    apart = []
    for draw in range(150):
        made = Comparison.of(runs({"one": 0.0, "two": 0.0}, draw=draw, test_rows=None))
        apart += list(made.models["low"] > 0)
    assert np.mean(apart) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(apart))
