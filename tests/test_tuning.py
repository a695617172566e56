"""Fair tuning: equal trials over each method's own rates, the choice among them, its use."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml
from commands import call
from conftest import composed, run_cell
from test_report import record

from finegrid.errors import UserError
from finegrid.report.load import rankings
from finegrid.runs.record import Record, read
from finegrid.tuning import search, write

FACTORS = [1, 0.3, 3]


def trial(
    method: str, lr: float, validation: float | None, seed: int = 100, **changes: object
) -> Record:
    """A trial's record, or that of a diverged one where there is no score."""
    status = "diverged" if validation is None else "ok"
    values = {"lr": lr, "trial": 0, "validation": validation, "status": status, "metric": "f1"}
    return record(method, seed, None, **(values | changes))


LORA = [trial("lora", 3e-3, 0.7), trial("lora", 1e-3, 0.8), trial("lora", 3e-4, 0.6)]
BITFIT = [trial("bitfit", 1e-2, 0.5), trial("bitfit", 3e-2, 0.9), trial("bitfit", 3e-3, 0.4)]


@pytest.mark.parametrize("method", ["full", "bitfit", "lora", "mask_threshold"])
def test_every_method_gets_the_same_factors_of_its_own_rate(method: str) -> None:
    own = composed(f"method={method}", "model=minilm")
    tried = [
        composed("experiment=tune", f"method={method}", "model=minilm", f"trial={number}")
        for number in range(3)
    ]
    rates = [cfg.optim.lr for cfg in tried]
    assert rates == pytest.approx([own.optim.lr * factor for factor in FACTORS], rel=5e-3)
    assert {cfg.optim.head_lr for cfg in tried} == {own.optim.head_lr}
    assert {cfg.seed for cfg in tried} == {100}


def test_a_sweep_tries_every_method_that_needs_no_attribute_unless_told_otherwise() -> None:
    params = composed("experiment=tune", hydra=True).hydra.sweeper.params
    every = "glob(*, exclude=[control_prefix,debias_diff])"
    assert dict(params) == {"method": every, "trial": "0,1,2"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished trial."""
    directory = tmp_path_factory.mktemp("trial") / "run"
    run_cell(directory, "experiment=smoke", "trial=1", "seed=100")
    return directory


def test_a_trial_is_scored_on_validation_alone(scored: Path) -> None:
    found = read(scored)
    assert (found.status, found.trial) == ("ok", 1)
    assert found.validation is not None
    assert (found.test, found.test_last) == (None, None)
    assert found.degenerate in (True, False), "of the validation rows"
    assert set(found.metrics) == {"validation"}
    assert not (scored / "predictions.parquet").exists()
    assert "validation" in found.summary()


def test_a_trial_is_no_row_of_a_report(scored: Path) -> None:
    with pytest.raises(UserError, match=r"tuning trials; finegrid tune reads them"):
        rankings.load([scored])


def test_the_best_mean_over_tasks_and_seeds_wins() -> None:
    scores = {1e-3: (0.9, 0.1, 0.9, 0.1), 3e-3: (0.6, 0.6, 0.5, 0.5)}
    cells = [("mrpc", 100), ("rte", 100), ("mrpc", 101), ("rte", 101)]
    runs = [
        trial("lora", lr, score, task=task, seed=seed)
        for lr, values in scores.items()
        for score, (task, seed) in zip(values, cells, strict=True)
    ]
    (tried,) = search.search(runs).values()
    chosen = search.best(tried)
    assert chosen is not None
    assert (chosen.lr, chosen.score) == (3e-3, pytest.approx(0.55))
    assert chosen.spread == pytest.approx(stdev([0.6, 0.5]))


def test_the_test_score_is_never_read() -> None:
    tempting = [replace(run, test=1 - (run.validation or 0)) for run in LORA]
    chosen = search.best(search.search(tempting)["lora"])
    assert chosen is not None
    assert chosen.lr == 1e-3


def test_a_diverged_trial_counts_and_shows_but_never_wins() -> None:
    runs = [*BITFIT, trial("lora", 3e-3, None), trial("lora", 1e-3, -0.1), LORA[2]]
    found = search.search(runs)
    text = write.markdown(found)
    assert "0.003: diverged" in text
    assert "1 of 3 trials failed" in text
    chosen = search.best(found["lora"])
    assert chosen is not None
    assert chosen.lr == 3e-4
    low = search.search([trial("lora", 3e-3, None), trial("lora", 1e-3, -0.1)])["lora"]
    assert search.best(low) == low[0], "a finished run below zero is better than none"


def test_a_method_without_a_finished_trial_is_left_out() -> None:
    failed = [replace(run, status="failed", validation=None, metric=None) for run in LORA]
    found = search.search([*BITFIT, *failed])
    assert "every run failed" in write.markdown(found)
    assert list(yaml.safe_load(write.overlay(found, "x", "command"))["lr"]) == ["bitfit"]


def test_a_retry_replaces_a_failure() -> None:
    retried = search.search([trial("lora", 1e-3, None, started="2026-02-01"), LORA[1]])
    assert [one.score for one in retried["lora"]] == [0.8]


def test_the_edge_and_a_rate_that_does_not_matter_are_named() -> None:
    head = [trial("head", lr, 0.5) for lr in (3e-4, 1e-3, 3e-3)]
    edge = [trial("full", lr, lr) for lr in (1e-5, 3e-5, 1e-4)]
    lines = write.markdown(search.search([*head, *edge, *LORA])).splitlines()
    row = {method: next(x for x in lines if x.startswith(f"| {method} ")) for method in
           ("head", "full", "lora")}  # fmt: skip
    assert "at the edge" in row["full"]
    assert "at the edge" not in row["lora"]
    assert "no difference" in row["head"]
    assert "| 0.001 " in row["head"], "equal ones: the middle, the method's own"


REFUSED = {
    "unequal": ([*LORA, *BITFIT[:2]], r"unequal numbers of trials: bitfit 2, the others 3"),
    "models": ([*LORA, *[replace(r, model="minilm") for r in BITFIT]], "mix model: minilm and ti"),
    "budgets": ([*LORA, *[replace(r, budget=5.0) for r in BITFIT]], "mix budget: 3.0 and 5.0"),
    "protocols": ([*LORA, *[replace(r, protocol="dev") for r in BITFIT]], "mix protocol: dev and"),
    "rows": ([replace(LORA[0], train_hash="a"), replace(LORA[1], train_hash="b")],
             "mix train_hash of mrpc: a and b"),
    "settings": ([replace(LORA[0], overrides=["optim.warmup=0", "trainer.threads=1"]), *LORA[1:]],
                 r"mix settings: none and optim\.warmup=0;"),
    "variants": ([replace(LORA[0], overrides=["method.rank=4"]), *LORA[1:], *BITFIT],
                 r"mix settings of lora: none and method\.rank=4"),
    "missing": ([*LORA, trial("lora", 3e-3, 0.7, seed=101)],
                "lora at 0.0003 has no run on mrpc with seed 101"),
    "no rate": ([replace(LORA[0], lr=None)], "a run of lora has no lr on record"),
}  # fmt: skip


@pytest.mark.parametrize(("runs", "message"), REFUSED.values(), ids=REFUSED)
def test_unfair_comparisons_are_refused(runs: list[Record], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        search.search(runs)
    assert "\n" not in str(caught.value)


def test_unequal_numbers_can_be_compared_all_the_same() -> None:
    found = search.search([*LORA, *BITFIT[:2]], unequal=True)
    assert "2 to 3 trials each" in write.markdown(found)


def test_what_is_no_part_of_the_search_may_differ() -> None:
    own = ["experiment=tune", "method=lora", "trial=1", "trainer.threads=1", "logger=csv"]
    runs = [replace(LORA[0], overrides=own), replace(LORA[1], overrides=["experiment=tune"])]
    assert len(search.search(runs)["lora"]) == 2


@pytest.mark.parametrize("scores", [[0.3], [0.5, 0.5], [0.9, 0.1, 0.4], [0.2, 0.7, 0.7, 0.0, 0.6]])
def test_the_expected_best_is_the_mean_over_all_draws(scores: list[float]) -> None:
    for n in range(1, len(scores) + 1):
        draws = list(combinations(scores, n))
        assert search.expected_best(scores, n) == pytest.approx(fmean(map(max, draws)))
    assert search.expected_best(scores, len(scores)) == pytest.approx(max(scores))


@pytest.mark.parametrize("n", [0, 3])
def test_no_expectation_beyond_the_trials(n: int) -> None:
    with pytest.raises(UserError, match=f"n={n} must be one of 1 to 2"):
        search.expected_best([0.1, 0.2], n)


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """Two methods' trials on disk."""
    for number, run in enumerate([*LORA, *BITFIT]):
        (tmp_path / f"sweep/{number}").mkdir(parents=True)
        replace(run, command="python train.py experiment=tune").write(tmp_path / f"sweep/{number}")
    return tmp_path


def test_from_records_to_a_run_with_the_tuned_rate(searched: Path) -> None:
    """The script's file is an option of the group `tuned`, and what it lacks is an error."""
    out = searched / "conf/tuned/mine.yaml"
    result = call(str(searched / "sweep"), "--out", str(out), command="tune")
    assert result.returncode == 0, result.stderr
    assert "| n = 1 " in result.stdout
    text = out.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {
        "name": "mine", "model": "tiny", "lr": {"bitfit": 0.03, "lora": 0.001},
    }  # fmt: skip
    assert f"by: finegrid tune {searched / 'sweep'}" in text
    assert "of: python train.py experiment=tune" in text
    where = f"hydra.searchpath=[file://{searched / 'conf'}]"
    rates = {
        "bitfit": composed("tuned=mine", where).optim.lr,
        "refined": composed("tuned=mine", "trial=2", where).optim.lr,
        "given": composed("tuned=mine", "optim.lr=0.5", "method=full", where).optim.lr,
    }
    assert rates == {"bitfit": 0.03, "refined": 0.09, "given": 0.5}
    for override, message in {
        "method=full": "tuned=mine has no lr for method full (it has: bitfit, lora)",
        "model=minilm": "tuned=mine was tuned for model tiny, not for minilm",
    }.items():
        result = call("tuned=mine", override, where, f"hydra.run.dir={searched / 'run'}")
        assert result.returncode == 1
        assert f"finegrid: {message}" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (searched / "run/record.json").exists()


BAD = {
    "beyond": (["trial=7"], "trial=7 must be one of 0 to 4: see tune.factors"),
    "negative": (["trial=-1"], "trial=-1 must be one of 0 to 4"),
    "no number": (["trial=x"], "trial=x must be one of 0 to 4"),
    "two rates": (
        ["trial=1", "optim.lr=1e-3"],
        "trial=1 chooses the learning rate; leave out either it or optim.lr",
    ),
    "overlay": (["tuned=nothing"], "unknown tuned=nothing; (available: "),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    result = call(*overrides, f"hydra.run.dir={tmp_path}")
    assert result.returncode == 1
    assert f"finegrid: {message}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("record.json"))


def test_help_lists_overlays_once_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finegrid.commands import catalogue

    assert ("tuned=\n" in catalogue.help_text()) == bool(catalogue.options("tuned"))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/mine.yaml").write_text("# mine: rates for tiny\n", encoding="utf-8")
    monkeypatch.setattr(catalogue, "CONF", tmp_path)
    assert "tuned=\n  mine  rates for tiny" in catalogue.help_text()
