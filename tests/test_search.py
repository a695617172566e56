"""The search for learning rates that a sweep begins with: design, rungs, cells, what it writes."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from commands import call
from conftest import METHODS, ROOT, composed
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from scipy.stats import qmc
from test_report import record

from finegrid import recipes
from finegrid.config import MethodConfig, RunConfig, register_resolvers, to_plain
from finegrid.errors import UserError
from finegrid.grid.expand import Cell, cells
from finegrid.grid.known import Known
from finegrid.grid.search import MethodSearch, Search
from finegrid.grid.status import Outcome, Store, outcome, settled
from finegrid.report.load import rankings
from finegrid.runs import trials
from finegrid.runs.record import Record, read, read_fields
from finegrid.runs.text import given_overrides
from finegrid.tuning import design, halving, rungs, write_rungs
from finegrid.tuning.halving import Rung, Score

RATE = {"optim.lr": (0.1, 10.0)}
HEAD_ALONE = ("head", "mask_magnitude", "mask_random")  # what else they change does not train
# no rate makes up for their penalty
PENALISED = ("debias_diff", "diff_pruning", "diff_pruning_structured", "mask_l0")
TWO = {"optim.lr": (0.1, 10.0), "method.l0": (0.01, 100.0)}
OWN = {"optim.lr": 3e-4, "method.l0": 1.25e-7}


# --- the design


def test_trial_0_is_what_the_method_publishes_and_more_trials_keep_the_earlier() -> None:
    many = design.points(OWN, TWO, 16)
    assert many[0] == OWN
    for n in (1, 2, 4, 8):
        assert design.points(OWN, TWO, n) == many[:n]


def test_the_design_is_haltons_sequence_with_its_first_point_in_the_middle() -> None:
    halton = qmc.Halton(d=2, scramble=False).random(9)
    assert [design.position(k, 2) for k in range(8)] == pytest.approx(halton[1:, 0])
    assert [design.position(k, 3) for k in range(8)] == pytest.approx((halton[:8, 1] + 0.5) % 1)


def test_rates_are_log_uniform_within_the_space_and_widen_alike_at_both_ends() -> None:
    near = [point["optim.lr"] / 3e-4 for point in design.points(OWN, RATE, 7)]
    assert sorted(map(math.log10, near)) == pytest.approx(
        [-0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75], abs=2e-3
    )
    far = [point["optim.lr"] / 3e-4 for point in design.points(OWN, RATE, 7, widen=10)]
    assert [math.log10(one) for one in far] == pytest.approx(
        [2 * math.log10(one) for one in near], abs=4e-3
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_a_search_may_try(method: str) -> None:
    node = to_plain(composed(f"method={method}").method)
    assert isinstance(node["search"], dict), "explicit in its YAML"
    space = recipes.space(node)
    rate = "optim.head_lr" if method in HEAD_ALONE else "optim.lr"
    assert space[rate] == (0.1, 10.0), "the same for every method"
    assert set(space) - {rate} == ({"method.l0"} if method in PENALISED else set())
    assert "search" not in MethodConfig.of(node).decisive()


def test_a_method_of_the_users_needs_no_search() -> None:
    assert recipes.space({"name": "mine"}) == RATE
    argument = {"_target_": "finegrid.methods.head.Head", "search": 0.5}
    assert MethodConfig.of(argument).arguments == {"search": 0.5}, "its class may have its own"


BAD_SPACES = {
    "no rate": ({"method.rank": [0.5, 2]}, "must name optim.lr or optim.head_lr and at most"),
    "three": ({"optim.lr": [0.1, 10], "a": 1, "b": 2}, "at most one more option"),
    "unknown": ({"optim.lr": [0.1, 10], "method.rnk": [0.5, 2]}, "method.rnk, which is no number"),
    "text": ({"optim.lr": "wide"}, r"must be the lowest and the highest multiple"),
    "without 1": ({"optim.lr": [2, 10]}, r"such as \[0.1, 10\]"),
    "one end": ({"optim.lr": [0.1]}, r"such as \[0.1, 10\]"),
}


@pytest.mark.parametrize(("node", "message"), BAD_SPACES.values(), ids=BAD_SPACES)
def test_a_bad_space_is_one_line(node: dict[str, Any], message: str) -> None:
    method = to_plain(composed("method=lora").method) | {"search": node}
    with pytest.raises(UserError, match=message) as caught:
        MethodConfig.of(method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.trials=-1", "tune.trials=-1 is negative"),
        ("tune.widen=0.5", "tune.widen=0.5 must be at least 1"),
        ("tune.full=0", "tune.full=0 must be at least 1"),
        ("tune.per=[task]", "tune.per must name model"),
        ("tune.per=[model,seed]", "tune.per=seed is unknown"),
        ("+tune.trails=8", "unknown key tune.trails; did you mean 'trials'"),
    ],
)
def test_bad_settings_of_a_search_are_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        RunConfig.of(composed(override))


# --- the rungs


@pytest.mark.parametrize(
    ("n", "expected"),
    {
        1: (),
        2: ((2, 1),),
        3: ((3, 1 / 8), (2, 1)),
        4: ((4, 1 / 8), (2, 1)),
        5: ((5, 1 / 8), (3, 1 / 4), (2, 1)),
        8: ((8, 1 / 8), (4, 1 / 4), (2, 1)),
        16: ((16, 1 / 8), (8, 1 / 4), (2, 1)),
    }.items(),
)
def test_the_ladder(n: int, expected: tuple[tuple[int, float], ...]) -> None:
    assert halving.ladder(n) == tuple(Rung(*rung) for rung in expected)


@pytest.mark.parametrize(
    ("n", "full", "expected"),
    [
        (4, 4, ((4, 1),)),
        (4, 9, ((4, 1),)),
        (8, 4, ((8, 1 / 8), (4, 1))),
        (16, 4, ((16, 1 / 8), (8, 1 / 4), (4, 1))),
        (4, 1, ((4, 1 / 8), (2, 1 / 4), (1, 1))),
    ],
)
def test_more_trials_at_full_length_leave_out_rounds_that_would_drop_nothing(
    n: int, full: int, expected: tuple[tuple[int, float], ...]
) -> None:
    assert halving.ladder(n, full) == tuple(Rung(*rung) for rung in expected)


def test_eight_trials_cost_four_full_runs() -> None:
    assert sum(rung.trials * Fraction(rung.share) for rung in halving.ladder(8)) == 4


@pytest.mark.parametrize(
    ("unit", "budget", "share", "expected"),
    [
        ("epochs", 3, 1 / 8, 0.375), ("seconds", 60, 1 / 4, 15), ("steps", 100, 1 / 8, 12),
        ("steps", 3, 1 / 8, 1), ("examples", 5, 1 / 4, 1), ("tokens", 10, 1 / 4, 2),
        ("epochs", 3, 1, 3),
    ],
)  # fmt: skip
def test_a_rung_has_its_share_of_the_budget(
    unit: str, budget: float, share: float, expected: float
) -> None:
    assert halving.amount(unit, budget, share) == expected


def test_trials_enter_a_rung_by_how_they_ended_then_by_their_validation_loss() -> None:
    scores = [
        Score(0, "constant", 0.9, -0.1),
        Score(1, "failed", 0.0, -9.0),
        Score(2, "ok", 0.5, 0.2),
        Score(3, "ok", 0.7),
        Score(4, "constant", 0.9, -0.3),
    ]
    assert halving.survivors(scores, Rung(5, 0.25)) == [2, 3, 4, 0, 1]
    assert halving.winner(scores) == 3, "at full length the score decides"


def test_a_trials_loss_is_the_mean_over_tasks_whatever_their_scales() -> None:
    losses = ((0.5, 0.25), (4.0, 2.0))
    runs = [
        [record("lora", 0, 0.5, validation=0.5, validation_loss=loss) for loss in pair]
        for pair in losses
    ]
    below, above = (rungs.scored(0, pair).loss for pair in runs)
    assert below == pytest.approx(math.log(0.5 * 0.25) / 2)
    assert above == pytest.approx(math.log(4.0 * 2.0) / 2)
    assert rungs.scored(0, [*runs[0], record("lora", 0, 0.5, validation=0.5)]).loss is None
    zero = record("lora", 0, 0.5, validation=0.5, validation_loss=0.0)
    assert rungs.scored(0, [zero]).loss == pytest.approx(math.log(1e-12))


def test_without_losses_the_best_scores_enter_and_failed_and_constant_trials_lose() -> None:
    scores = [
        Score(0, "constant", 0.9),
        Score(1, "failed", 0.0),
        Score(2, "ok", 0.5),
        Score(3, "ok", 0.7),
        Score(4, "ok", -0.1),
    ]
    assert halving.survivors(scores, Rung(3, 0.25)) == [3, 2, 4]
    assert halving.winner(scores) == 3
    assert halving.winner(scores[:2]) == 0, "a constant one is better than none"
    assert halving.winner([scores[1]]) is None


def test_of_equal_trials_the_nearest_to_the_published_rate_wins() -> None:
    same = [Score(trial, "ok", 0.5) for trial in range(8)]
    assert halving.winner(same) == 0
    assert set(halving.survivors(same, Rung(3, 0.25))) == {0, 4, 5}, "the inner ones"


# --- the cells


class Memory(Store):
    """A sweep's directory whose records a function makes up."""

    def __init__(self, root: Path, end: Callable[[Cell], dict[str, Any]]) -> None:
        super().__init__(root)
        self.end, self.records = end, dict[str, Record]()

    def record(self, cell: Cell) -> Record | None:
        return self.records.get(cell.key)

    def ended(self, cell: Cell) -> Outcome | None:
        return Outcome(self.records[cell.key].status) if cell.key in self.records else None

    def run(self, todo: Sequence[Cell]) -> None:
        for cell in todo:
            facts = {"status": "ok", "metric": "f1", "train_rows": 320, "degenerate": False}
            facts |= {"epochs": cell.facts["budget"]} | self.end(cell)
            self.records[cell.key] = Record(
                **cell.facts | facts, overrides=list(cell.overrides), started="2026"
            )


def near(best: Mapping[str, float]) -> Callable[[Cell], dict[str, Any]]:
    """Validation scores that fall with the distance from a method's best rate."""
    return lambda cell: {
        "validation": 1 - abs(math.log10(cell.facts["lr"] / best[cell.facts["method"]]))
    }


Searches = Callable[..., tuple[Search, list[Cell], "Memory"]]
BEST = {"lora": 1e-3, "bitfit": 3e-2, "full": 1e-3, "diff_pruning": 1e-3}
NEAR = near(BEST)


@cache
def _composed(given: tuple[str, ...]) -> tuple[Search, list[Cell]]:
    """The search of a command line and its cells; composing them takes long."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), job_name="train", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", list(given), RunMode.MULTIRUN)
        task = given_overrides(config.hydra)
        base = cells(loader, config, task)
        return Search.of(loader, config, task, base, Store(Path())), base


@pytest.fixture
def searches(tmp_path: Path) -> Searches:
    """Makes the search of a command line, its cells and where its records are made up."""

    def make(
        *given: str, end: Callable[[Cell], dict[str, Any]] = NEAR
    ) -> tuple[Search, list[Cell], Memory]:
        search, base = _composed(given)
        store = Memory(tmp_path, end)
        fresh = [MethodSearch(s.name, s.cells, s.makers, store) for s in search.searches]
        return Search(fresh, store), base, store

    return make


def finish(search: Search, store: Memory, *, at_once: int | None = None) -> list[list[Cell]]:
    """Run a search to its end, and return the cells of each wave."""
    waves = []
    while todo := [cell for cell in search.needed(store.ended) if not store.ended(cell)]:
        waves.append(todo[:at_once])
        store.run(waves[-1])
    return waves


def fields(wave: Sequence[Cell], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(cell.facts[name] for name in names) for cell in wave]


def test_a_search_from_its_first_trial_to_the_cells_of_the_comparison(searches: Searches) -> None:
    search, base, store = searches(
        "method=lora,bitfit", "seed=0,1", "tune.trials=8", "data.fraction=0.1,0.3,1.0"
    )
    assert all(search.tuned(cell, store.ended) is None for cell in base)
    waves = finish(search, store)
    assert [len(wave) for wave in waves] == [16, 8, 4]
    assert search.most == 28
    for wave, budget in zip(waves, (0.625, 1.25, 5.0), strict=True):
        assert set(fields(wave, "fraction", "seed", "budget")) == {(0.3, 100, budget)}
        assert all(cell.config["store"] == "none" for cell in wave)
        count = {m: sum(c.facts["method"] == m for c in wave) for m in ("lora", "bitfit")}
        assert count["lora"] == count["bitfit"], "equal effort"
    rates = {(c.facts["method"], c.facts["trial"]): c.facts["lr"] for c in waves[0]}
    published = {m: composed(f"method={m}").optim.lr for m in ("lora", "bitfit")}
    assert {m: rates[m, 0] for m in published} == published

    tuned = [search.tuned(cell, store.ended) for cell in base]
    assert None not in tuned
    found = {cell.facts["method"]: cell.facts["lr"] for cell in tuned if cell}
    assert found["bitfit"] == published["bitfit"]
    assert found["lora"] == min((c.facts["lr"] for c in waves[0] if c.facts["method"] == "lora"),
                                key=lambda lr: abs(math.log10(lr / BEST["lora"])))  # fmt: skip
    for one, cell in zip(base, tuned, strict=True):
        assert cell
        alike = {**one.facts, "cell": cell.key, "lr": cell.facts["lr"]}
        assert cell.facts == alike | {"tuning_runs": 14, "tuning_examples": 4 * 5 * 320}
        assert "tune.runs=14" in cell.overrides
        if cell.facts["lr"] == one.facts["lr"]:
            assert cell.key == one.key, "an untuned cell that is there counts"


def test_more_trials_later_keep_the_earlier(searches: Searches) -> None:
    few, _, store = searches("method=lora,bitfit", "tune.trials=4")
    first = {cell.key for wave in finish(few, store) for cell in wave if cell.facts["budget"] < 1}
    many, *_ = searches("method=lora,bitfit", "tune.trials=8")
    assert first < {cell.key for cell in many.needed(store.ended)}


def test_one_search_serves_seeds_that_train_on_rows_of_their_own(searches: Searches) -> None:
    own = ("method=lora", "seed=0,1", "data.subset_seed=${seed}", "tune.trials=4")
    search, base, store = searches(*own)
    assert {cell.config["data"]["subset_seed"] for cell in base} == {0, 1}
    trials = [cell for wave in finish(search, store) for cell in wave]
    assert len(trials) == search.most
    assert {cell.config["data"]["subset_seed"] for cell in trials} == {100}
    assert len(rungs.results(store.records.values())) == 1


def test_trials_that_all_run_in_full_take_up_those_of_a_search_that_let_two(
    searches: Searches,
) -> None:
    few, _, store = searches("method=lora,bitfit", "tune.trials=4")
    waves = finish(few, store)
    all_full, base, _ = searches("method=lora,bitfit", "tune.trials=4", "tune.full=4")
    for search in all_full.searches:
        search.store = store
    assert not any(all_full.tuned(cell, store.ended) for cell in base)
    (more,) = finish(all_full, store)
    assert sorted(fields([*waves[1], *more], "method", "trial")) == [
        (method, trial) for method in ("bitfit", "lora") for trial in range(4)
    ]
    assert set(fields(more, "budget")) == {(5.0,)}
    tuned = [search for cell in base if (search := all_full.tuned(cell, store.ended))]
    assert {cell.facts["tuning_runs"] for cell in tuned} == {4}
    results = rungs.results(store.records.values())
    assert [[len(rung) for rung in result.rungs] for result in results] == [[4, 4]] * 2
    assert all(result.complete for result in results)
    assert "Rates found by successive halving" in write_rungs.markdown(results)
    lost = [r for r in store.records.values() if r.cell != more[-1].key]
    assert [result.complete for result in rungs.results(lost, unequal=True)].count(False) == 1


def test_a_search_killed_anywhere_and_in_any_order_asks_for_the_same_cells(
    searches: Searches,
) -> None:
    search, base, store = searches("method=lora,bitfit", "tune.trials=8")
    wanted = {cell.key for wave in finish(search, store) for cell in wave}
    chosen = [one.key for cell in base if (one := search.tuned(cell, store.ended))]
    for lost in range(0, len(wanted), 3):
        again, base, other = searches("method=lora,bitfit", "tune.trials=8")
        other.records = {k: r for n, (k, r) in enumerate(store.records.items()) if n != lost}
        finish(again, other, at_once=1)
        assert other.records.keys() == wanted
        keys = [one.key for cell in base if (one := again.tuned(cell, other.ended))]
        assert keys == chosen


def test_tasks_models_and_variants_are_searched_each_for_itself(searches: Searches) -> None:
    given = ("method=lora", "method.rank=2,8", "task=builtin_paraphrase,builtin_similarity")
    end = near({"lora": 1e-3})
    search, base, store = searches(*given, "tune.trials=3", end=end)
    assert search.most == 2 * 2 * 5
    finish(search, store)
    assert len({search.tuned(cell, store.ended).key for cell in base}) == 4  # type: ignore[union-attr]
    shared, base, store = searches(*given, "tune.trials=3", "tune.per=[model]", end=end)
    assert len(shared.searches) == 2
    assert shared.most == 2 * 2 * 5, "every trial runs on both tasks"
    assert sorted(fields(finish(shared, store)[0], "trial"))[:4] == [(0,)] * 4


def test_a_fraction_may_have_a_rate_for_itself(searches: Searches) -> None:
    given = ("method=lora", "data.fraction=0.1,0.5", "tune.trials=2")
    middle, *_ = searches(*given)
    assert set(fields(middle.needed(lambda cell: None), "fraction")) == {(0.1,)}
    each, *_ = searches(*given, "tune.per=[task,model,fraction]")
    assert sorted(fields(each.needed(lambda cell: None), "fraction")) == [(0.1,)] * 2 + [(0.5,)] * 2


def test_a_second_option_is_searched_together_with_the_rate(searches: Searches) -> None:
    search, base, store = searches("method=diff_pruning,lora", "tune.trials=4")
    first = finish(search, store)[0]
    penalties = {cell.config["method"].get("l0") for cell in first}
    assert len(penalties - {None}) == 4
    (tuned,) = [
        c for b in base if (c := search.tuned(b, store.ended)) and "l0" in c.config["method"]
    ]
    won = next(c for c in first if c.facts["lr"] == tuned.facts["lr"])
    assert tuned.config["method"]["l0"] == won.config["method"]["l0"]
    assert "tune.chosen=[optim.lr,method.l0]" in tuned.overrides


def test_what_trains_the_head_alone_is_searched_by_the_heads_rate(searches: Searches) -> None:
    def end(cell: Cell) -> dict[str, Any]:
        return {"validation": cell.config["optim"]["head_lr"]}

    search, base, store = searches("method=head,lora", "tune.trials=4", end=end)
    published = composed("method=head").optim
    (wave, _) = finish(search, store)
    tried = {c.config["optim"]["head_lr"] for c in wave if c.facts["method"] == "head"}
    assert len(tried) == 4
    assert published.head_lr in tried
    assert {c.facts["lr"] for c in wave if c.facts["method"] == "head"} == {published.lr}
    tuned = {c.facts["method"]: c for b in base if (c := search.tuned(b, store.ended))}
    assert tuned["head"].config["optim"]["head_lr"] == max(tried)
    assert tuned["lora"].config["optim"]["head_lr"] == published.head_lr, "alike for the others"
    assert any(f"head: optim.head_lr={max(tried):g} (" in line for line in search.summary())
    search.conclude()
    rates = yaml.safe_load((store.root / "tuned/tiny.yaml").read_text(encoding="utf-8"))
    assert rates["lr"]["head"] == {"builtin_paraphrase": published.lr}
    assert rates["options"]["head"] == {"optim.head_lr": {"builtin_paraphrase": max(tried)}}
    given = ("tuned=tiny", f"hydra.searchpath=[file://{store.root}]")
    again = [composed(f"method={method}", *given).optim for method in ("head", "lora")]
    assert [one.head_lr for one in again] == [max(tried), published.head_lr]
    assert again[0].lr == published.lr, "what goes with it is there"


def test_one_trial_is_the_published_rate(searches: Searches) -> None:
    search, base, store = searches("method=lora", "tune.trials=1")
    assert (search.needed(store.ended), search.most) == ([], 0)
    assert [search.tuned(cell, store.ended) for cell in base] == base


def test_a_method_whose_trials_all_fail_keeps_its_published_rate_and_says_so(
    searches: Searches,
) -> None:
    def end(cell: Cell) -> dict[str, Any]:
        bad = cell.facts["method"] == "lora"
        return {"status": "diverged"} if bad else near(BEST)(cell)

    search, base, store = searches("method=lora,bitfit", "tune.trials=4", end=end)
    finish(search, store)
    tuned = {c.facts["method"]: c for b in base if (c := search.tuned(b, store.ended))}
    assert tuned["lora"].facts["lr"] == composed("method=lora").optim.lr
    search.conclude()
    text = (store.root / "tuned/tiny.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)["lr"]) == ["bitfit"]
    assert "4 of 4 trials failed" in text
    (line,) = [line for line in search.summary() if "no rate found" in line]
    assert "lora (builtin_paraphrase)" in line


def test_a_search_that_saw_one_prediction_alone_says_that_it_told_nothing(
    searches: Searches,
) -> None:
    def end(cell: Cell) -> dict[str, Any]:
        return near(BEST)(cell) | {"degenerate": cell.facts["method"] == "lora"}

    search, base, store = searches("method=lora,bitfit", "tune.trials=4", end=end)
    finish(search, store)
    tuned = {c.facts["method"]: c for b in base if (c := search.tuned(b, store.ended))}
    assert set(tuned) == {"lora", "bitfit"}
    search.conclude()
    (line,) = [line for line in search.summary() if "not told apart" in line]
    assert line.startswith("  lora (builtin_paraphrase): one prediction for all rows")
    text = (store.root / "tuned/tiny.yaml").read_text(encoding="utf-8")
    assert text.count("raise the budget") == 1


REFUSED = {
    "rate": (["optim.lr=1e-3,1e-4"], "leave out either it or optim.lr="),
    "trial": (["trial=1"], "leave out either it or trial=1"),
    "kinds": (
        ["hydra.sweeper.grids=[{seed:1,tune.trials:4},{seed:2,tune.trials:8}]"],
        r"tune.\* must be the same for all cells",
    ),
}


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_search_is_to_find_cannot_be_given(
    searches: Searches, more: list[str], message: str
) -> None:
    trials = [] if "grids" in more[0] else ["tune.trials=4"]
    with pytest.raises(UserError, match=message) as caught:
        searches("method=lora", *trials, *more)
    assert "\n" not in str(caught.value)


def test_a_trial_run_again_by_its_own_overrides_is_the_same_cell(searches: Searches) -> None:
    search, _, store = searches("method=diff_pruning", "tune.trials=2")
    (first, _) = search.needed(store.ended)
    again, base, _ = searches(*first.overrides)
    assert [cell.key for cell in base] == [first.key]
    assert again.needed(store.ended) == []


# --- what it writes


def test_the_rates_serve_as_an_option_of_tuned(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"builtin_paraphrase": 3e-3, "builtin_similarity": 1e-4}

    def end(cell: Cell) -> dict[str, Any]:
        return near(dict.fromkeys(BEST, best[cell.facts["task"]]))(cell)

    given = ("method=lora,diff_pruning", f"task={','.join(best)}", "tune.trials=8")
    search, base, store = searches(*given, end=end)
    finish(search, store)
    search.conclude()
    text = (store.root / "tuned/tiny.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert {m: set(of_task) for m, of_task in values["lr"].items()} == {
        "diff_pruning": set(best), "lora": set(best),
    }  # fmt: skip
    assert "the search took 14 runs, 6,400 examples a method and task" in text
    assert "| 0.625 epochs | 1.25 epochs | 5 epochs |" in text
    assert "optim.lr at the edge of what was tried: more trials or tune.widen=3 reach" in text
    where = f"hydra.searchpath=[file://{store.root}]"
    for task in best:
        one = next(c for b in base if (c := search.tuned(b, store.ended))
                   and (c.facts["method"], c.facts["task"]) == ("lora", task))  # fmt: skip
        assert (
            composed("method=lora", f"task={task}", "tuned=tiny", where).optim.lr == one.facts["lr"]
        )
    lacks = composed("method=lora", "task=builtin_acceptability", "tuned=tiny", where)
    with pytest.raises(UserError, match=r"no lr of lora for task builtin_acceptability \(it has"):
        RunConfig.of(lacks)
    alone = composed("method=diff_pruning", "task=builtin_similarity", "tuned=tiny", where)
    with pytest.raises(UserError, match=r"chose method.l0=\S+ for diff_pruning together with its"):
        RunConfig.of(alone)


def test_finegrid_tune_reads_the_trials_of_a_search_rung_by_rung(
    searches: Searches, tmp_path: Path
) -> None:
    search, _, store = searches("method=lora,bitfit", "tune.trials=8")
    finish(search, store)
    for number, one in enumerate(store.records.values()):
        (tmp_path / f"runs/{number}").mkdir(parents=True)
        one.write(tmp_path / f"runs/{number}")
    search.conclude()
    out = tmp_path / "conf/tuned/again.yaml"
    result = call(str(tmp_path / "runs"), "--out", str(out), command="tune")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("0.625 epochs") == 1
    rates = yaml.safe_load((store.root / "tuned/tiny.yaml").read_text(encoding="utf-8"))["lr"]
    assert yaml.safe_load(out.read_text(encoding="utf-8"))["lr"] == rates


def test_rates_found_for_other_tasks_in_the_same_directory_stay(searches: Searches) -> None:
    one, other = "builtin_similarity", "builtin_acceptability"
    expected: dict[str, float] = {}
    for number, (task, best) in enumerate(((one, 1e-3), (other, 1e-3), (one, 3e-4))):
        given = ("method=lora", "tune.trials=4", f"task={task}", f"budget.epochs={number + 2}")
        search, base, store = searches(*given, end=near({"lora": best}))
        finish(search, store)
        for key, made in store.records.items():
            (store.root / f"{number}/{key}").mkdir(parents=True)
            made.write(store.root / f"{number}/{key}")
        search.conclude()
        rates = yaml.safe_load((store.root / "tuned/tiny.yaml").read_text(encoding="utf-8"))["lr"]
        tuned = search.tuned(base[0], store.ended)
        assert tuned is not None
        expected[task] = tuned.facts["lr"]
        assert rates["lora"] == expected, "the last search of a task counts"


def test_unequal_numbers_of_trials_are_refused(searches: Searches) -> None:
    search, _, store = searches("method=lora,bitfit", "tune.trials=4")
    finish(search, store)
    fewer = [r for r in store.records.values() if (r.method, r.trial) != ("bitfit", 3)]
    with pytest.raises(UserError, match=r"bitfit 3 \+ 2, the others 4 \+ 2"):
        rungs.results(fewer)
    assert len(rungs.results(fewer, unequal=True)) == 2


def test_rates_are_said_to_be_found_once_the_search_has_ended(searches: Searches) -> None:
    search, _, store = searches("method=lora,bitfit", "tune.trials=4")
    store.run(search.needed(store.ended))
    first, *_ = write_rungs.summary(rungs.results(store.records.values()), "x.yaml")
    assert first.startswith("the search has not ended, see x.yaml; the search took 4 runs")
    finish(search, store)
    first, *_ = write_rungs.summary(rungs.results(store.records.values()), "x.yaml")
    assert first.startswith("rates found, see x.yaml; the search took 6 runs")


def test_constant_and_diverged_trials_show_and_lose(searches: Searches) -> None:
    def end(cell: Cell) -> dict[str, Any]:
        if cell.facts["trial"] == 0:
            return {"validation": 0.99, "degenerate": True}
        return {"status": "diverged"} if cell.facts["trial"] == 1 else near(BEST)(cell)

    search, _, store = searches("method=lora,bitfit", "tune.trials=4", end=end)
    finish(search, store)
    result, _ = rungs.results(store.records.values())
    assert result.chosen is not None
    assert result.chosen.trial in (2, 3)
    text = write_rungs.markdown([result])
    assert "0.003: 0.9900 constant" in text
    assert "0.000949: diverged" in text
    assert "1 of 4 trials failed at first; 1 of 4 trials constant at first" in text


def test_short_trials_that_are_alike_do_not_say_that_the_rate_makes_no_difference(
    searches: Searches,
) -> None:
    def end(cell: Cell) -> dict[str, Any]:
        short = cell.facts["budget"] < 5
        return {"validation": 0.7, "degenerate": True} if short else near(BEST)(cell)

    search, _, store = searches("method=lora", "tune.trials=4", end=end)
    finish(search, store)
    text = write_rungs.markdown(rungs.results(store.records.values()))
    assert "4 of 4 trials constant at first" in text
    assert "no difference" not in text


def test_a_method_searched_in_several_ways_is_in_no_overlay(searches: Searches) -> None:
    search, _, store = searches("method=lora", "method.rank=2,8", "tune.trials=2")
    finish(search, store)
    results = rungs.results(store.records.values())
    assert {result.method for result in results} == {"lora method.rank=2", "lora method.rank=8"}
    text = write_rungs.overlay(results, "x", "command")
    assert text.startswith("# x: rates for tiny, found by trials at full length")
    assert yaml.safe_load(text)["lr"] == {}
    assert "searched in several ways: lora" in text


# --- through a sweep, and in a report

SWEEP = (
    "-m", "hydra/launcher=basic", "experiment=smoke", "method=head,bitfit", "seed=0,1",
    "budget.steps=8", "data.fraction=0.02", "data.validation_max=32", "tune.trials=3",
    "report=false",
)  # fmt: skip


def test_a_sweep_searches_compares_and_fills_holes(tmp_path: Path) -> None:
    given = (*SWEEP, f"hydra.sweep.dir={tmp_path}")
    result = call(*given)
    assert result.returncode == 0, result.stderr
    assert "14 cells in" in result.stdout
    records = {path: read(path.parent) for path in tmp_path.rglob("record.json")}
    trials = {path for path, one in records.items() if one.trial is not None}
    assert len(trials) == 10
    assert sorted(records[path].budget for path in trials) == [1.0] * 6 + [8.0] * 4
    assert {records[path].test for path in trials} == {None}
    compared = [one for path, one in records.items() if path not in trials]
    ((runs, seen),) = {(one.tuning_runs, one.tuning_examples) for one in compared}
    assert f"the search took {runs} runs, {seen} examples a method and task" in result.stdout
    assert (runs, seen) == (5, sum(rungs.examples(records[path]) for path in trials) / 2)
    rates = (tmp_path / "tuned/tiny.yaml").read_text(encoding="utf-8")

    for path in sorted(trials)[::3]:
        path.unlink()
    assert call(*given).returncode == 0
    assert set(tmp_path.rglob("record.json")) == records.keys(), "the same cells"
    assert (tmp_path / "tuned/tiny.yaml").read_text(encoding="utf-8") == rates

    kept, again = tmp_path / "kept", tmp_path / "again"
    assert (
        call(str(tmp_path), f"--out={kept}", "--format=parquet", command="report").returncode == 0
    )
    tables = {call(str(each), command="tune").stdout for each in (tmp_path, kept)}
    assert len(tables) == 1, "of the sweep and of its report"
    assert "best rate" in tables.pop()
    for given_again in (kept, kept / "runs.parquet"):
        result = call(*SWEEP, f"hydra.sweep.dir={again}", f"known=[{given_again}]")
        assert "14 ok (known)" in result.stdout, "the search's trials too"
        assert not list(again.rglob("record.json"))
    (kept / "trials.jsonl").write_text('{"schema": 1}\n', encoding="utf-8")
    result = call(*SWEEP, f"hydra.sweep.dir={again}", f"known=[{kept}]")
    assert result.returncode != 0
    assert "trials.jsonl, line 1: not a readable record: " in result.stderr


@pytest.mark.parametrize("statuses", [("failed", "ok"), ("ok", "failed")])
def test_a_trial_that_failed_once_does_not_hide_its_result(
    tmp_path: Path, statuses: tuple[str, str]
) -> None:
    texts = []
    for status in statuses:
        (tmp_path / status).mkdir()
        record("lora", 0, None, status=status, trial=3, cell="same").write(tmp_path / status)
        texts.append(json.dumps(read_fields(tmp_path / status)))
    (tmp_path / "trials.jsonl").write_text("\n".join(texts), encoding="utf-8")
    assert trials.read(tmp_path / "trials.jsonl")["same"].status == "ok"


def test_what_holds_no_trials_is_said(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").touch()
    for place, message in (
        (tmp_path, "trials.jsonl holds no trial"),
        (tmp_path / "typo", f"no such directory: {tmp_path / 'typo'}"),
    ):
        result = call(str(place), command="tune")
        assert result.returncode == 1
        assert message in result.stderr


def test_known_cells_carry_what_the_search_of_this_sweep_took(searches: Searches) -> None:
    search, base, store = searches("method=lora,bitfit", "tune.trials=4")
    finish(search, store)
    tuned = [cell for one in base if (cell := search.tuned(one, store.ended))]
    for compared, expected in ((tuned, [6, 6]), (base, [14, 3])):
        keys = [cell.key for cell in compared]
        table = pd.DataFrame({"cell": [*keys, "other"], "tuning_runs": [14.0, 3.0, 9.0]})
        (rows,) = Store(store.root, Known((table,), hashes=frozenset(keys))).given(compared)
        assert list(rows["tuning_runs"]) == expected, "without a search, what they came with"


def test_a_trial_that_diverged_is_no_hole_and_not_run_again(tmp_path: Path) -> None:
    for trial, again in ((3, False), (None, True)):
        record("lora", 0, None, status="diverged", trial=trial).write(tmp_path)
        found = outcome(tmp_path)
        assert found.fine is not again
        assert settled(found, retry="failed", before=found.version) is not again
        assert not settled(found, retry="all", before=found.version)
    record("lora", 0, None, status="failed", trial=3).write(tmp_path)
    assert not outcome(tmp_path).fine, "what a machine did may go better next time"


def test_what_a_search_chose_makes_no_variants_in_a_report(tmp_path: Path) -> None:
    chosen = ["tune.chosen=[optim.lr,method.l0]", "tune.runs=14", "tune.trials=8"]
    runs = [
        record("full", 0, 0.8, task=task, lr=lr, overrides=[*chosen, f"method.l0={lr}"])
        for task, lr in (("mrpc", 1e-3), ("rte", 3e-3))
    ]
    runs.append(record("full", 0, 0.8, lr=4e-4))
    for number, one in enumerate(runs):
        (tmp_path / str(number)).mkdir()
        one.write(tmp_path / str(number))
    names = rankings.results([tmp_path]).runs["method"]
    assert sorted(set(names)) == ["full", "full optim.lr=0.0004"], "an untuned one shows its rate"
