"""The answer's sentence, the rule for curves that still rise, and the command that comes next."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grids import grid, run, written

from finegrid.report import rising
from finegrid.report.answer import Answer, answer, markdown
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.runs.record import Record

FULL_COSTS = {"full": 0.80, "bitfit": 0.70, "head": 0.60}


def answered(root: Path, runs: Sequence[Record], *, points: int = 0) -> Answer:
    """The answer to runs on disk."""
    return answer(Comparison.of(rankings.load([written(root, runs, points=points)])))


def seeds_of(method: str, score: float, *, seeds: int = 4, **changes: object) -> list[Record]:
    """Runs of one method that wobble a little."""
    return [run(method, seed, score + (seed % 3 - 1) / 500, **changes) for seed in range(seeds)]


def test_a_clear_leader(tmp_path: Path) -> None:
    runs = [one for name, score in FULL_COSTS.items() for one in seeds_of(name, score)]
    said = answered(tmp_path, runs)
    assert said.sentence == (
        "full is the best on mrpc (100\u00a0% of the data, 3\u00a0epochs, 4 seeds): f1 0.7995, "
        "told apart from every other method."
    )
    assert said.rising == ""
    assert said.command.startswith("finegrid predict "), "nothing is left to measure"
    assert said.text().splitlines()[-1] == f"next: {said.command}"
    assert "\u00a0" not in said.text()


def test_a_cheaper_method_is_level(tmp_path: Path) -> None:
    said = answered(tmp_path, grid(tasks=["mrpc"], fractions=[1.0]))
    assert said.sentence.startswith("full leads on mrpc (")
    assert "but cannot be told apart from bitfit" in said.sentence
    assert "Of these bitfit stores least (9.1\u00a0kB, not 2\u00a0MB)" in said.sentence
    assert "seed=0,1,2,3,4,5,6,7" in said.command, "more seeds may tell level methods apart"
    assert said.command.startswith("finegrid sweep method=full,head,bitfit,ia3,lora ")


def test_markdown_begins_with_the_answer(tmp_path: Path) -> None:
    """Of all rows in a sentence, of half of them in a table; what others wrote stays text."""
    runs = grid({"full": 0.8, "head": 0.7, "<b>": 0.6}, tasks=["mrpc"])
    made = Comparison.of(rankings.load([written(tmp_path, runs)]))
    head, lead, table = markdown(made).strip().split("\n\n")
    assert head == "## Answer"
    assert lead.startswith(f"**{answer(made).sentence.split(' (')[0]} (")
    assert "is best with probability" in lead
    assert "would often be missed." in lead
    (row,) = table.splitlines()[2:]
    assert [cell.strip() for cell in row.split("|")][1] == "30\u00a0%"
    assert "<b>" not in lead + table


def test_no_method_trains_quicker_by_less_than_is_shown(tmp_path: Path) -> None:
    runs = [replace(one, train_seconds=10 + one.method.count("l") / 100)
            for one in grid(tasks=["mrpc"], fractions=[1.0])]  # fmt: skip
    said = answered(tmp_path, runs).sentence
    assert "stores least" in said
    assert "quickest" not in said


def test_nothing_beats_the_majority_class(tmp_path: Path) -> None:
    runs = [
        one
        for name in ("full", "head")
        for one in seeds_of(name, 0.6838, metric="accuracy", degenerate=True)
    ]
    said = answered(tmp_path, runs)
    assert said.sentence.startswith("No method learned anything on mrpc (")
    assert "none is better than the majority class (0.6" in said.sentence
    assert "budget.epochs=6" in said.command


@pytest.mark.parametrize(
    ("metric", "score", "learned"),
    [
        ("exact_match", 0.0, False), ("bleu", 0.0, False), ("rouge_l", 0.0, False),
        ("accuracy", 0.0, False), ("f1", 0.0, False), ("micro_f1", 0.0, False),
        ("matthews", 0.0, False), ("exact_match", 1 / 300, False), ("exact_match", 0.1, True),
    ],
)  # fmt: skip
def test_what_scores_nothing_does_not_lead_though_no_constant_is_known(
    tmp_path: Path, metric: str, score: float, learned: bool
) -> None:
    """Predictions differ by row, so that no run shows what a constant scores; 300 test rows."""
    metrics = {"test": {metric: score}}
    changes = {"metric": metric, "metrics": metrics, "degenerate": False, "test_rows": 300}
    runs = [run(name, seed, score, **changes) for name in FULL_COSTS for seed in range(3)]
    said = answered(tmp_path, runs)
    assert said.sentence.startswith("No method learned anything on mrpc (") != learned
    assert said.sentence.startswith("All 3 methods have the same mean on mrpc (") == learned
    wrong = ("leads", "is the best", *(() if learned else FULL_COSTS))  # who stores least is fine
    assert not [words for words in wrong if words in said.sentence]


def test_those_that_learned_nothing_are_named(tmp_path: Path) -> None:
    runs = seeds_of("full", 0.9, metric="accuracy")
    runs += seeds_of("head", 0.68, metric="accuracy", degenerate=True)
    said = answered(tmp_path, runs)
    assert "No better than the majority class: head." in said.sentence
    assert "accuracy 0.8995 (the majority class scores 0.6" in said.sentence


def test_one_method_is_compared_next(tmp_path: Path) -> None:
    said = answered(tmp_path, seeds_of("bitfit", 0.8, seeds=1))
    assert said.sentence.startswith("bitfit is the only method with a score on mrpc (")
    assert said.sentence.endswith("1 seed only: too few to be sure of.")
    assert said.command == "finegrid sweep method=bitfit,head,full seed=0,1,2"


def test_all_failed(tmp_path: Path) -> None:
    bad = {"test": None, "status": "failed", "error": "no memory"}
    said = answered(tmp_path, seeds_of("full", 0.8, **bad))
    assert said.sentence == (
        "No run has a score, so there is no answer: 4 failed. The first says: no memory"
    )


def test_some_failed(tmp_path: Path) -> None:
    runs = [*seeds_of("full", 0.8), *seeds_of("head", 0.6)]
    runs[-1] = replace(runs[-1], status="failed", test=None)
    assert "1 of 8 runs have no score." in answered(tmp_path, runs).sentence


def test_regression_speaks_of_the_mean(tmp_path: Path) -> None:
    runs = seeds_of("full", 0.8, metric="pearson") + seeds_of("head", 0.5, metric="pearson")
    runs = [replace(one, metrics={"test": {"pearson": one.test or 0.0}}) for one in runs]
    assert "pearson 0.7995 (the mean scores 0.0000)" in answered(tmp_path, runs).sentence


def test_several_tasks(tmp_path: Path) -> None:
    said = answered(tmp_path, grid(fractions=[1.0]))
    assert said.sentence.startswith("Best, or not told apart from the best, on all 2 tasks: full")
    assert "stores least" in said.sentence


def test_too_few_seeds(tmp_path: Path) -> None:
    said = answered(tmp_path, seeds_of("full", 0.8, seeds=2) + seeds_of("head", 0.6, seeds=2))
    assert "2 seeds only: too few to be sure of." in said.sentence
    assert said.command == "finegrid sweep method=full,head seed=0,1,2"


def test_the_demo_leads_to_ones_own_rows(tmp_path: Path) -> None:
    runs = [replace(one, overrides=[*one.overrides, "experiment=demo"]) for one in grid()]
    assert "task.train=rows.csv" in answered(tmp_path, runs).command


def test_methods_with_arguments_of_their_own_are_repeated_alone(tmp_path: Path) -> None:
    """One product of all overrides would run what nobody asked for."""
    told = {"lora": ["method.rank=4", "optim.lr=0.01"], "full": ["optim.lr=0.001"]}
    runs = [
        replace(one, overrides=[*one.overrides, *told[one.method]])
        for one in grid({"full": 0.8, "lora": 0.798}, tasks=["mrpc"], fractions=[1.0])
    ]
    command = answered(tmp_path, runs).command
    assert command == "finegrid sweep method=full seed=0,1,2,3,4,5,6,7 optim.lr=0.001"


def curves(root: Path, lines: Sequence[Sequence[float]]) -> float | None:
    """The gain of seeds with these validation scores."""
    runs = seeds_of("full", 0.8, seeds=len(lines))
    frame = rankings.load([written(root, runs, points=0)])
    for directory, line in zip(frame["directory"], lines, strict=True):
        rows = [f"{10 * at},{at},1.0,{value:.5f}" for at, value in enumerate(line, start=1)]
        text = "\n".join(["step,seconds,loss,validation", *rows])
        (Path(str(directory)) / "curve.csv").write_text(text, encoding="utf-8")
    return rising.gain(frame)


def test_curves_that_rise_to_the_end(tmp_path: Path) -> None:
    steep = [[0.5, 0.6, 0.7, 0.75, 0.80 + seed / 100] for seed in range(3)]
    assert curves(tmp_path / "steep", steep) == pytest.approx(0.11)
    saturated = [[0.5, 0.7, 0.79, 0.80, 0.7921] for _ in range(3)]
    assert curves(tmp_path / "saturated", saturated) is None, "0.2 points are worth no budget"
    torn = [[0.5, 0.6, 0.7, 0.7, last] for last in (0.9, 0.6, 0.75)]
    assert curves(tmp_path / "torn", torn) is None, "seeds disagree"
    assert curves(tmp_path / "few", steep[:2]) is None, "two seeds are too few"


def test_flat_curves_seldom_rise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = [curves(tmp_path / str(at), 0.8 + 0.02 * rng.normal(size=(3, 5))) for at in range(60)]
    assert sum(gain is not None for gain in noisy) <= 3


def test_without_curves_every_seed_must_have_ended_at_its_best(tmp_path: Path) -> None:
    runs = seeds_of("full", 0.8, best_step=40)
    frame = rankings.load([written(tmp_path, runs, points=0)])
    gain = rising.gain(frame)
    assert gain is not None
    assert gain != gain
    frame.loc[0, "best_step"] = 30
    assert rising.gain(frame) is None


def test_a_rising_leader_asks_for_more_budget(tmp_path: Path) -> None:
    runs = [*seeds_of("full", 0.8, best_step=40), *seeds_of("head", 0.6)]
    said = answered(tmp_path, runs)
    assert said.rising == (
        "Validation still rose in the last third of the budget: full; a larger budget may change "
        "the answer."
    )
    assert said.command == "finegrid sweep method=full,head seed=0,1,2,3 budget.epochs=6"
