"""What is read after a race: levels, seeds that are not needed, marks, and what tuning cost."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grids
import pandas as pd
import pytest

import finegrid
from finegrid.errors import UserError
from finegrid.report import paper, tables, write
from finegrid.report.answer import answer
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.report.recommend import text
from finegrid.report.recommend.decide import Asked, decide
from finegrid.runs.layout import RACE
from finegrid.runs.record import Record

MEANS = {"full": 0.80, "bitfit": 0.798, "head": 0.70}
RANKING = {"task": "mrpc", "model": "tiny", "fraction": 1.0, "budget_unit": "epochs", "budget": 3.0}
HEADER = {"schema": 1, "question": "best", "alpha": 0.05, "margin": 0.01, "futility": 0.2,
          "max_seeds": 10, "looks": [3, 5, 7, 10]}  # fmt: skip
LEVELS = (0.0009, 0.01)


def runs(seeds: Mapping[str, int], **changes: object) -> list[Record]:
    """So many seeds of each method on one task."""
    return [
        grids.run(method, seed, MEANS[method] + ((seed * 7 + len(method) * 3) % 5 - 2) / 400,
                  cell=f"{method}-{seed}", **changes)
        for method, many in seeds.items()
        for seed in range(many)
    ]  # fmt: skip


def look(number: int, seeds: int, states: Mapping[str, str], decided: str = "") -> dict[str, Any]:
    """A line of a race."""
    methods = [
        {"method": name, "state": state, "cells": [f"{name}-{seed}" for seed in range(seeds)],
         "difference": 0.1, "low": 0.05, "high": 0.2, "chance": 1.0}
        for name, state in states.items()
    ]  # fmt: skip
    return {"ranking": RANKING, "look": number, "seeds": seeds, "level": LEVELS[number - 1],
            "leader": "full", "methods": methods, "decided": decided}  # fmt: skip


HEAD_OUT = look(1, 3, {"full": "live", "bitfit": "live", "head": "worse"})
LOOKS = (HEAD_OUT, look(2, 5, {"full": "live", "bitfit": "level"}, "not told apart"))


def raced(
    root: Path, looks: Sequence[object] = LOOKS, *, given: Sequence[Record] | None = None
) -> Path:
    """A sweep's directory after a race: head stopped at 3 seeds, the others at 5."""
    grids.written(root, given or runs({"full": 5, "bitfit": 5, "head": 3}), points=0)
    lines = map(json.dumps, (HEADER, *looks))
    (root / RACE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def compared(root: Path) -> Comparison:
    return Comparison.of(rankings.load([root]))


def test_columns_come_from_the_file_above_and_stay_in_the_table(tmp_path: Path) -> None:
    read = rankings.load([raced(tmp_path / "sweep")])
    assert read.groupby("method", observed=True).race_stopped.first().to_dict() == {
        "full": 5, "bitfit": 5, "head": 3,
    }  # fmt: skip
    assert set(read.race_level) == {LEVELS[1]}
    assert set(read.race_seeds) == {10}
    made = Comparison.of(read)
    list(write.write(made, tmp_path / "out", ["parquet"]))
    again = Comparison.of(rankings.load([tmp_path / "out"]))
    pd.testing.assert_frame_equal(again.cells, made.cells)
    assert answer(again).sentence == answer(made).sentence


def test_older_tables_and_runs_of_no_race_have_none(tmp_path: Path) -> None:
    grids.written(tmp_path / "runs", runs({"full": 3, "head": 3}))
    made = Comparison.of(rankings.load([tmp_path / "runs"]))
    assert made.cells[["race_level", "race_seeds", "stopped"]].isna().all(axis=None)
    old = made.runs.drop(columns=["race_level", "race_stopped", "race_seeds"])
    old.to_parquet(tmp_path / "runs.parquet")
    assert "race" not in answer(compared(tmp_path / "runs.parquet")).text()
    old.assign(race_level=2.0).to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(UserError, match=r"race_level holds 2.0"):
        rankings.load([tmp_path / "runs.parquet"])


@pytest.mark.parametrize(
    "content",
    ["{", '{"schema": 2}', "[1]", '{"schema": 1, "max_seeds": true}',
     json.dumps(HEADER) + '\n{"ranking": {}, "look": 1}', "[" * 100_000],
)  # fmt: skip
def test_a_file_that_no_race_wrote_is_a_note(tmp_path: Path, content: str) -> None:
    (raced(tmp_path) / RACE).write_text(content, encoding="utf-8")
    notes = compared(tmp_path).results.notes
    assert len([note for note in notes if "decisions of a race" in note]) == 1


def test_a_ranking_is_judged_at_the_level_of_its_last_look(tmp_path: Path) -> None:
    """bitfit is told apart from head at 5 %, and not at one in 10^12."""
    strict = [dict(HEAD_OUT, level=1e-12, decided="all seeds")]
    given = runs({"full": 3, "bitfit": 3, "head": 3})
    best = compared(raced(tmp_path / "strict", strict, given=given)).best
    assert best.loc[best.method.eq("head"), "tie"].item()
    grids.written(tmp_path / "usual", given)
    best = compared(tmp_path / "usual").best
    assert not best.loc[best.method.eq("head"), "tie"].item()


def test_recommend_and_page_use_that_level_too(tmp_path: Path) -> None:
    from finegrid.report.html import payload

    strict = [dict(HEAD_OUT, level=1e-12, decided="all seeds")]
    made = compared(raced(tmp_path, strict, given=runs({"full": 3, "bitfit": 3, "head": 3})))
    assert decide(made, Asked()).options["level"].sum() == 2
    (task,) = payload.choices(made.results, made.cells, made.draws, made.standings)
    assert {one["above"] for one in task["cells"]} == {"000"}  # type: ignore[attr-defined]


def test_stopped_methods_are_not_missing_and_marked(tmp_path: Path) -> None:
    made = compared(raced(tmp_path))
    assert not made.cells.missing.any()
    assert not any("missing:" in note for note in made.results.notes)
    assert any("head on mrpc at 100 % (3 seeds)" in note for note in made.results.notes)
    shown = tables.markdown(made.results, made.cells, made.best)
    assert "(3, 7 not needed: decided at 3 seeds)" in shown
    assert shown.count("‡: stopped early by a race") == 1
    assert "at 1\u00a0% after a race of up to 10 seeds" in shown
    (table,) = made.paper
    assert "‡" in paper.markdown(table)
    assert r"$^\ddagger$" in paper.latex(table)
    page = next(content for _, content in write.FORMATS["html"](made)).decode()
    assert "7 not needed: decided at 3 seeds" in page
    forest = re.search('<figure class="forest">.*?</figure>', page, re.DOTALL)
    assert forest
    assert forest[0].count("‡: stopped early by a race") == 1
    assert "at 1\u00a0% after a race of up to 10 seeds" in page


def test_missing_is_what_a_stopped_method_lacks_of_its_seeds(tmp_path: Path) -> None:
    made = compared(raced(tmp_path, given=runs({"full": 5, "bitfit": 5, "head": 2})))
    assert made.cells.set_index("method").missing.to_dict() == {"full": 0, "head": 1, "bitfit": 0}


def test_the_answer_names_the_race_and_asks_for_no_seed_that_it_spared(tmp_path: Path) -> None:
    said = answer(compared(raced(tmp_path)))
    assert "cannot be told apart from" in said.sentence
    assert "at 1\u00a0% after a race of up to 10 seeds" in said.sentence
    assert "seed=" not in said.command
    grids.written(tmp_path / "usual", runs({"full": 5, "bitfit": 5, "head": 5}))
    assert "seed=" in answer(compared(tmp_path / "usual")).command


def test_a_race_that_goes_on_is_continued(tmp_path: Path) -> None:
    made = compared(raced(tmp_path, [HEAD_OUT], given=runs({"full": 3, "bitfit": 3, "head": 3})))
    assert "seed=0,1,2,3,4,5,6,7,8,9" in answer(made).command


def test_who_was_stopped_while_others_went_on_does_not_lead(tmp_path: Path) -> None:
    """A mean over three lucky seeds would be the highest."""
    lucky = [grids.run("head", seed, 0.9, cell=f"head-{seed}") for seed in range(3)]
    made = compared(raced(tmp_path, given=[*runs({"full": 5, "bitfit": 5}), *lucky]))
    assert set(made.best.best) == {"full"}
    decision = decide(made, Asked())
    assert decision.choice == "full"
    assert "after a race of up to 10 seeds" in text.answer(decision).sentence


def test_more_seeds_than_declared_are_exploratory(tmp_path: Path) -> None:
    made = compared(raced(tmp_path, given=runs({"full": 12, "bitfit": 12, "head": 3})))
    assert any("exploratory: 10 declared, 12 run" in note for note in made.results.notes)
    (full,) = made.cells[made.cells.method.eq("full")].itertuples()
    assert full.stopped != full.stopped  # it has more


def test_compare_searches_and_races(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are those of the cells that were needed."""
    given: list[str] = []

    def swept(root: Path, arguments: Sequence[str], **_: object) -> list[str]:
        given.extend(arguments)
        return sorted(path.name for path in raced(root).iterdir() if path.is_dir())

    monkeypatch.setattr("finegrid.api.compare._swept", swept)
    place = tmp_path / "grid"
    results = finegrid.compare(list(MEANS), seeds=10, directory=place, tune=8, race="best")
    assert {"tune.trials=8", "race=best"} <= set(given)
    table = results.table().set_index("method")
    assert table.seeds.to_dict() == {"full": 5, "bitfit": 5, "head": 3}
    assert table.verdict.to_dict() == {"full": "best", "bitfit": "level", "head": ""}
    assert "after a race of up to 10 seeds" in results.answer()
    given.clear()
    finegrid.compare(["full"], directory=tmp_path / "usual")
    assert not [word for word in given if word.startswith(("tune", "race"))]


@pytest.mark.parametrize("wrong", [{"tune": -1}, {"tune": True}, {"race": "bst"}])
def test_compare_refuses_no_search_and_no_race(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"such as 8|did you mean 'best'"):
        finegrid.compare(["full"], directory=tmp_path, **wrong)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"full": (8, 12_000), "bitfit": (8, 12_000), "head": (8, 12_000)},
         "Rates were searched: 8 runs, 12,000 examples a method."),
        ({"full": (8, 12_000), "bitfit": (6, 9_000)},
         "Rates were searched, not at the same cost: full 8 runs, 12,000 examples; bitfit 6 runs,"
         " 9,000 examples. Not searched: head."),
        ({}, ""),
    ],
)  # fmt: skip
def test_every_table_says_what_tuning_cost(
    tmp_path: Path, costs: Mapping[str, tuple[int, int]], said: str
) -> None:
    for method in MEANS:
        many, examples = costs.get(method, (None, None))
        tuned = runs({method: 3}, tuning_runs=many, tuning_examples=examples)
        grids.written(tmp_path / method, tuned)
    made = compared(tmp_path)
    page = next(content for _, content in write.FORMATS["html"](made)).decode()
    shown = tables.markdown(made.results, made.cells, made.best)
    parts = [answer(made).sentence, shown, paper.markdown(made.paper[0]), page]
    parts.append(text.why(decide(made, Asked())))
    assert all((said or "Rates were searched") in part for part in parts) == bool(said)
