"""Races: levels of the looks, what a look decides, and that records alone decide it."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grids
import numpy as np
import pytest
from scipy import special

from finegrid.errors import UserError
from finegrid.grid.expand import Cell
from finegrid.grid.race.config import RaceConfig
from finegrid.grid.race.decide import Decision, Rule, Standing, chances, decide
from finegrid.grid.race.levels import levels, looks
from finegrid.grid.race.race import Race
from finegrid.grid.stages import RANKING, Ended, Entry
from finegrid.grid.status import ENDED, Outcome, Store
from finegrid.report.load.rankings import load
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Known
from finegrid.report.stats.shrunken_variance import spreads
from finegrid.report.stats.simultaneous import pairs

SEEDS = 10
FACTS = dict.fromkeys(RANKING) | {
    "task": "mrpc", "model": "tiny", "fraction": 1.0, "budget_unit": "epochs", "budget": 3.0,
}  # fmt: skip
WORLD = {"full": 0.80, "bitfit": 0.797, "lora": 0.795, "head": 0.60}


def test_levels_are_those_of_published_tables() -> None:
    """Lan and DeMets' spending of O'Brien and Fleming's type: ldbounds' bounds, two-sided 5 %."""
    bounds = [-special.ndtri(level / 2) for level in levels(0.05, (1, 2, 3, 4))]
    assert bounds == pytest.approx([4.333, 2.963, 2.359, 2.014], abs=1e-3)
    bounds = [-special.ndtri(level / 2) for level in levels(0.05, (1, 2, 3, 4, 5))]
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)
    assert levels(0.05, (2,)) == pytest.approx([0.05])


def test_looks_are_at_30_50_70_and_100_per_cent() -> None:
    assert looks(10) == (3, 5, 7, 10)
    assert looks(5) == (2, 3, 4, 5)
    assert (looks(2), looks(3)) == ((2,), (2, 3))
    with pytest.raises(UserError, match="at least 2 seeds"):
        looks(1)


def known(means: Mapping[str, float], seeds: int, spread: float = 0.01) -> dict[str, Known]:
    """Scores that stray by the seed, alike in no two methods."""
    rng = np.random.default_rng(3)
    luck = spread * rng.normal(size=(len(means), SEEDS))
    return {
        name: Known(Scores(tuple(range(seeds)), (mean + row)[:seeds], rows=10**6, of_rows=1e-8), {})
        for (name, mean), row in zip(means.items(), luck, strict=True)
    }


def rule(question: str = "best", **changes: Any) -> Rule:
    return Rule(**{"question": question, "alpha": 0.05, "margin": 0.01, "futility": 0.2,
                   "looks": looks(SEEDS)} | changes)  # fmt: skip


def play(
    asked: Rule, means: Mapping[str, float], spread: float = 0.01
) -> tuple[str, dict[str, str]]:
    """How a race ends, and each method's state with the seeds that it took."""
    standings: Mapping[str, Standing] = {name: Standing() for name in means}
    stops: dict[str, str] = {}
    for look, seeds in enumerate(asked.looks):
        decision = decide(asked, look, known(means, seeds, spread), standings)
        standings = decision.standings
        for name, one in standings.items():
            if one.state != "live":
                stops.setdefault(name, f"{one.state} {seeds}")
        if decision.decided:
            return f"{decision.decided} {seeds} {decision.leader}", stops
    raise AssertionError("the last look decides")


def test_one_clearly_best_decides_early() -> None:
    end, stops = play(rule(), {"full": 0.9, "bitfit": 0.7, "head": 0.5})
    assert end == "best 3 full" or end == "best 5 full"
    assert {stop.split()[0] for stop in stops.values()} == {"worse"}


def test_within_the_margin_is_equal_only_when_shown() -> None:
    close = {"full": 0.8, "bitfit": 0.8, "lora": 0.8}
    end, stops = play(rule(futility=0.0), close, spread=0.001)
    assert end.startswith("equal")
    assert {stop.split()[0] for stop in stops.values()} == {"equal"}
    end, stops = play(rule(futility=0.0), close, spread=0.05)
    assert end.startswith("all seeds")
    assert stops == {}


def test_what_is_hopeless_is_not_told_apart() -> None:
    end, stops = play(rule(), {"full": 0.8, "bitfit": 0.8, "lora": 0.8}, spread=0.05)
    assert end.startswith("not told apart 5")
    assert set(stops.values()) == {"level 5"}


def test_a_table_goes_on_for_pairs_that_do_not_concern_the_leader() -> None:
    means = {"full": 0.9, "bitfit": 0.7, "lora": 0.68, "head": 0.5}
    best, table = (play(rule(question, margin=0.0), means)[1] for question in ("best", "table"))
    assert int(best["lora"].split()[1]) < int(table["lora"].split()[1])
    assert table["bitfit"].startswith("worse")


def test_a_stopped_method_stays_so_and_never_leads_again() -> None:
    cells = known({"full": 0.8, "bitfit": 0.95}, 5)
    before = {"full": Standing(), "bitfit": Standing("level", 0.01)}
    decision = decide(rule(), 1, cells, before)
    assert decision.leader == "full"
    assert decision.standings["bitfit"] is before["bitfit"]


def test_what_learned_nothing_never_leads_and_what_has_no_score_stops() -> None:
    cells = known({"full": 0.8, "bitfit": 0.95}, 3)
    constant = Known(cells["bitfit"].scores, {}, learned=False)
    before = dict.fromkeys(("full", "bitfit", "head"), Standing())
    decision = decide(rule(), 0, {"full": cells["full"], "bitfit": constant}, before)
    assert decision.leader == "full"
    assert decision.standings["head"].state == "unscored"
    none = decide(rule(), 0, {}, before)
    assert (none.leader, none.decided) == ("", "not told apart")
    only = {name: Known(cell.scores, {}, learned=False) for name, cell in cells.items()}
    assert decide(rule(), 0, only, before).leader == ""
    assert decide(rule(), 3, only, before).decided == "nothing learned"


def test_where_nothing_has_learned_the_hopeless_stop() -> None:
    """Methods that predict one class each would otherwise run all their seeds for nothing."""

    def look(means: Mapping[str, float], spread: float) -> Decision:
        cells = known(means, 3, spread)
        still = {name: Known(cell.scores, {}, learned=False) for name, cell in cells.items()}
        return decide(rule(), 0, still, dict.fromkeys(cells, Standing()))

    constant = look({"bitfit": 0.75, "lora": 0.75, "head": 0.75}, 0.0)
    assert (constant.decided, constant.leader) == ("nothing learned", "")
    assert {one.state for one in constant.standings.values()} == {"live", "equal"}
    hopeful = look({"bitfit": 0.75, "lora": 0.72, "head": 0.75}, 0.01)
    assert "lora" in hopeful.live


def test_chance_of_rows_does_not_shrink_with_seeds() -> None:
    """A difference that seeds alone would soon tell apart is hopeless beside a small test set."""
    cells = [cell.scores for cell in known({"full": 0.82, "bitfit": 0.80}, 3).values()]
    small = [Scores(one.seeds, one.values, rows=100, of_rows=4e-4) for one in cells]
    many, few = (
        chances(pairs(scores, spreads(scores)), rule(), 0)[0, 1] for scores in (cells, small)
    )
    assert many > 0.5 > 0.2 > few
    assert chances(pairs(cells, spreads(cells)), rule(), 3)[0, 1] == 0


class World:
    """A sweep's directory and a comparison over it; its runs end when a test says so."""

    def __init__(self, root: Path, means: Mapping[str, float] = WORLD) -> None:
        self.root, self.means = root, means
        self.cells = [Cell(f"{at:02d}{seed:02d}".rjust(12, "a"), (), f"{method}/{seed}",
                           FACTS | {"method": method, "seed": seed}, {})
                      for at, method in enumerate(means) for seed in range(SEEDS)]  # fmt: skip
        self.entries = [Entry("mrpc", cell.facts["method"], cell.facts["seed"], cell)
                        for cell in self.cells]  # fmt: skip

    def end(self, cell: Cell, **changes: object) -> None:
        """Write a cell's record."""
        method, seed = cell.facts["method"], cell.facts["seed"]
        luck = np.random.default_rng([seed, len(method)]).normal(0, 0.008)
        directory = Store(self.root).path(cell)
        directory.mkdir(parents=True, exist_ok=True)
        grids.run(method, seed, self.means[method] + luck, cell=cell.key, **changes).write(
            directory
        )

    def race(self, **changes: Any) -> Race:
        config = {"question": "best", "alpha": 0.05, "margin": 0.01, "futility": 0.2}
        given = RaceConfig(**config | {"max_seeds": None} | changes)
        return Race.of(given, range(SEEDS), Store(self.root))

    def ended(self) -> Ended:
        store = Store(self.root)

        def of(cell: Cell) -> Outcome | None:
            outcome = store.outcome(cell)
            return outcome if outcome.status in ENDED else None

        return of

    def todo(self, race: Race) -> list[Cell]:
        """The needed cells that have not ended."""
        ended = self.ended()
        return [cell for cell in race.needed(self.entries, ended) if ended(cell) is None]

    def run(self, race: Race, **changes: object) -> list[str]:
        """Run what is needed until nothing is; the lines of the race's file."""
        while todo := self.todo(race):
            for cell in todo:
                self.end(cell, **changes)
        return self.lines(race)

    def lines(self, race: Race) -> list[str]:
        race.conclude()
        return (self.root / "race.jsonl").read_text().splitlines()

    def ran(self) -> set[str]:
        return {cell.key for cell in self.cells if Store(self.root).outcome(cell).status in ENDED}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], set[str]]:
    """What an undisturbed race writes, and the cells that it runs."""
    world = World(tmp_path_factory.mktemp("usual"))
    return world.run(world.race()), world.ran()


def test_a_race_stops_what_is_out_and_says_why(world: World) -> None:
    race = world.race()
    header, *lines = map(json.loads, world.run(race))
    assert header["looks"] == [3, 5, 7, 10]
    assert [line["look"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["decided"]
    assert lines[0]["ranking"] == FACTS
    assert [line["level"] for line in lines] == pytest.approx(
        levels(0.05, (3, 5, 7, 10))[: len(lines)], rel=1e-5
    )
    last = {one["method"]: one for one in lines[-1]["methods"]}
    assert last["head"]["state"] == "worse"
    assert last["head"]["low"] > 0
    out = next(line["seeds"] for line in lines if line["methods"][-1]["state"] == "worse")
    assert len(last["head"]["cells"]) == out < SEEDS
    spared = race.spared()
    assert spared[Store(world.root).place(world.cells[-1])] == f"decided at {out} seeds"
    assert len(spared) + len(world.ran()) == len(world.cells)


@pytest.mark.parametrize("seed", range(2))
def test_any_order_and_any_restart_come_to_the_same(
    world: World, usual: tuple[list[str], set[str]], seed: int
) -> None:
    race, order = world.race(), random.Random(seed)
    while todo := world.todo(race):
        for cell in order.sample(todo, order.randint(1, len(todo))):
            world.end(cell)
        race = world.race() if order.random() < 0.5 else race
    assert (world.lines(race), world.ran()) == usual


def test_cells_that_lie_there_already_change_nothing(
    world: World, usual: tuple[list[str], set[str]]
) -> None:
    for cell in world.cells:
        world.end(cell)
    race = world.race()
    assert world.todo(race) == []
    assert world.lines(race) == usual[0]


def test_what_is_needed_only_grows(world: World) -> None:
    race, order, before = world.race(), random.Random(0), set[str]()
    while True:
        needed = {cell.key for cell in race.needed(world.entries, world.ended())}
        assert before <= needed
        before = needed
        if not (todo := world.todo(race)):
            break
        world.end(order.choice(todo))


def test_failed_runs_end_a_look_and_have_no_score(world: World) -> None:
    """All of a method: it stops; some of one: it is judged by the others."""
    race = world.race()
    failed: dict[str, object] = {"status": "failed", "test": None, "metrics": {}, "error": "no"}
    while todo := world.todo(race):
        for cell in todo:
            bad = cell.facts["method"] == "lora" or cell.key == world.cells[0].key
            world.end(cell, **(failed if bad else {}))
    _, first, *_ = map(json.loads, world.lines(race))
    states = {one["method"]: one["state"] for one in first["methods"]}
    assert states["lora"] == "unscored"
    assert first["seeds"] == 3
    assert not any(key in world.ran() for key in keys(world, "lora")[3:])


def keys(world: World, method: str) -> list[str]:
    return [cell.key for cell in world.cells if cell.facts["method"] == method]


def test_no_look_while_a_rate_is_not_known(world: World) -> None:
    race = world.race()
    waiting = [
        Entry(one.ranking, one.method, one.seed, None) if one.method == "lora" else one
        for one in world.entries
    ]
    for _ in range(2):
        needed = race.needed(waiting, world.ended())
        assert {cell.facts["seed"] for cell in needed} == {0, 1, 2}
        assert {cell.facts["method"] for cell in needed} == {"full", "bitfit", "head"}
        for cell in needed:
            world.end(cell)
    assert world.todo(race)


def test_a_method_alone_runs_all_its_seeds(tmp_path: Path) -> None:
    alone = World(tmp_path, {"full": 0.8})
    race = alone.race()
    assert len(race.needed(alone.entries, alone.ended())) == SEEDS
    race.conclude()
    assert not (tmp_path / "race.jsonl").exists()


def test_another_number_of_seeds_later_is_remembered(world: World) -> None:
    """Declared 20, given 10: the looks are those of 20."""
    race = world.race(max_seeds=20)
    header, *lines = map(json.loads, world.run(race))
    assert header["looks"] == [6, 10, 14, 20]
    assert header["declared"] == [20]
    assert {line["seeds"] for line in lines} <= {6, 10}
    header, *lines = map(json.loads, world.run(world.race()))
    assert (header["max_seeds"], header["declared"]) == (10, [10, 20])
    assert lines[0]["declared"] == [20, 10]
    assert set(load([world.root])["race_seeds"].dropna()) == {10}


def test_other_sweeps_of_the_directory_keep_their_lines(world: World) -> None:
    theirs = {"method": "full", "state": "live", "cells": ["f" * 12]}
    foreign = {"ranking": FACTS | {"task": "cola"}, "look": 1, "methods": [theirs], "declared": [5]}
    (world.root / "race.jsonl").write_text(f'{{"schema": 1}}\n{json.dumps(foreign)}\n')
    assert json.loads(world.run(world.race())[1]) == foreign
    (world.root / "race.jsonl").write_text("[]\nnothing\n")
    with pytest.raises(UserError, match=r"race\.jsonl is not what a race writes"):
        world.race().conclude()


def test_seeds_that_make_no_race_are_refused(tmp_path: Path) -> None:
    config = RaceConfig("best", 0.05, 0.01, 0.2, None)
    with pytest.raises(UserError, match="at least two seeds"):
        Race.of(config, [3, 3], Store(tmp_path))
    config = RaceConfig("best", 0.05, 0.01, 0.2, 5)
    with pytest.raises(UserError, match="fewer than the 10 seeds"):
        Race.of(config, range(10), Store(tmp_path))
