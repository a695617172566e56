"""Runs and comparisons from Python: finegrid.run, load, compare, Task, and what they refuse."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from commands import call
from conftest import composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_faults import wait_until_gone
from transformers import AutoModelForSequenceClassification

import finegrid
from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.runs.text import hydra_value
from finegrid.storage.paths import BUILTIN

SMALL: dict[str, Any] = {"experiment": "smoke", "trainer": "cpu", "trainer.threads": 1}
METHODS = ["head", "bitfit"]
TEAMS = {"billing": "refund the invoice", "support": "the app crashes", "parcels": "my box is late"}


def frame(rows: int = 90) -> pd.DataFrame:
    """Short texts of three teams."""
    teams = [list(TEAMS)[number % 3] for number in range(rows)]
    texts = [f"{TEAMS[team]} {number}" for number, team in enumerate(teams)]
    return pd.DataFrame({"message": texts, "team": teams, "day": 3})


def refused(doing: Callable[[], Any]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        doing()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- values as overrides --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "bitfit", "a/b2", "a.b-c", "", "it's", 'say "x"', "a b", " a ", "a\\", "a\\\\",
        "\\'", "\\\\'", "c:\\x\\'", "über", "日", "a,b", "[x]", "{a:b}", "a=b", "~x", "$x", "k(1)",
        "a\nb", "null", "True", "nan", "-inf", "12", "1e5", None, True, False, 3, -2.5, 1e-5,
        float("inf"), [1, "a b", None, True], ["null"], [["x"]], {"a": 1, "b": "c d"},
    ],
    ids=repr,
)  # fmt: skip
def test_hydra_reads_the_value_that_was_given(value: Any) -> None:
    read = OverridesParser.create().parse_override(f"key={hydra_value(value)}").value()
    assert (read, type(read)) == (value, type(value))


def test_values_of_other_types() -> None:
    values = [np.int64(3), np.float64(0.1), np.bool_(True), np.str_("a b"), Path("a/b"), (1, 2)]
    assert list(map(hydra_value, values)) == ["3", "0.1", "true", "'a b'", "a/b", "[1,2]"]


# --- tasks ----------------------------------------------------------------------------------------


def test_the_same_rows_are_the_same_file(tmp_path: Path) -> None:
    def task(rows: pd.DataFrame, **more: Any) -> finegrid.Task:
        how: Any = {"text": "message", "label": "team", "directory": tmp_path, **more}
        return finegrid.Task.from_frame(rows, **how)

    first = task(frame(), name="Our teams")
    assert task(frame().set_index("day"), name="Our teams") == first
    (file,) = tmp_path.iterdir()
    assert list(pd.read_parquet(file)) == ["message", "team"]
    assert task(frame(60), name="Our teams") != first
    both = task(frame(), test=frame(60), name="Our teams")
    assert len(list(tmp_path.iterdir())) == 2
    assert {word.partition("=")[0] for word in both.overrides} == {
        "task", "task.train", "task.test", "task.text", "task.label", "task.name",
    }  # fmt: skip


def test_a_task_takes_an_attribute_and_writes_its_column(tmp_path: Path) -> None:
    how: Any = {"text": "message", "label": "team", "attribute": "day"}
    task = finegrid.Task.from_frame(frame(), directory=tmp_path, **how)
    (file,) = tmp_path.iterdir()
    assert list(pd.read_parquet(file)) == ["message", "team", "day"]
    assert "task.attribute=day" in task.overrides
    assert "task.attribute=day" in finegrid.Task.from_file(file, **how).overrides


def test_a_task_takes_the_settings_of_prompts(tmp_path: Path) -> None:
    prompt = "Facts: {text}\nIt's 'so', \\ $x:"
    told: Any = {"template": prompt, "max_new_tokens": 7, "separator": " | ", "kind": "generation"}
    rows, where = frame(), tmp_path / "frames"
    rows.to_csv(tmp_path / "rows.csv", index=False)
    tasks = [
        finegrid.Task.from_frame(rows, text="message", label="team", directory=where, **told),
        finegrid.Task.from_file(tmp_path / "rows.csv", text="message", label="team", **told),
    ]
    for task in tasks:
        config: Any = RunConfig.of(composed("model=tiny_llama", *task.overrides))
        assert config.task.kind == "generation"
        assert (config.task.template, config.task.max_new_tokens) == (prompt, 7)
        assert config.model.separator == " | "


def test_what_is_no_task_is_refused_at_once(tmp_path: Path) -> None:
    def task(rows: pd.DataFrame, text: Any = "message", label: str = "team") -> finegrid.Task:
        return finegrid.Task.from_frame(rows, text=text, label=label, directory=tmp_path)

    line = refused(lambda: task(frame(), label="group"))
    assert line == "the frame has no column 'group'; it has message, team, day"
    assert "no column 'reply'" in refused(lambda: task(frame(), text=["message", "reply"]))
    mixed = frame().assign(message=[1, "a"] * 45)
    assert "message, team cannot be read" in refused(lambda: task(mixed))
    missing = tmp_path / "no.csv"
    line = refused(lambda: finegrid.Task.from_file(missing, text="a", label="b"))
    assert line == f"{missing}: no such file"


# --- one run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> finegrid.Run:
    """A run on a file of rows."""
    folder = tmp_path_factory.mktemp("teams")
    frame().to_csv(folder / "rows.csv", index=False)
    task = finegrid.Task.from_file(folder / "rows.csv", text="message", label="team", name="teams")
    more: Any = SMALL | {"data.fraction": 1.0}
    return finegrid.run(method="bitfit", task=task, directory=folder / "run", **more)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> finegrid.Run:
    """A run on two text columns."""
    folder = tmp_path_factory.mktemp("pairs") / "run"
    return finegrid.run(method="lora", seed=1, rank=4, directory=folder, **SMALL)


def test_a_run_is_the_run_of_the_command(pairs: finegrid.Run, tmp_path: Path) -> None:
    overrides = "method=lora seed=1 rank=4 task=builtin_paraphrase model=tiny experiment=smoke"
    where = f"hydra.run.dir={tmp_path}"
    result = call(*overrides.split(), "trainer=cpu", "trainer.threads=1", where, command="train")
    assert result.returncode == 0, result.stderr
    other = finegrid.load(tmp_path).record
    for field in ("cell", "test", "validation", "train_hash", "metrics", "params_delta"):
        assert getattr(pairs.record, field) == getattr(other, field), field


def test_a_finished_run_tells_what_it_was(pairs: finegrid.Run) -> None:
    again = finegrid.load(pairs.directory)
    assert again.record == pairs.record
    assert again.curve["step"].iloc[-1] == 2
    assert len(again.predictions) == pairs.record.test_rows
    assert again.answer().startswith("lora ")
    assert len(repr(again)) < 200 + len(str(pairs.directory))


def test_predicts_texts_pairs_and_frames(teams: finegrid.Run, pairs: finegrid.Run) -> None:
    texts = ["my box is late", "the app crashes"]
    made = teams.predict(texts)
    assert list(made) == ["prediction", *sorted(TEAMS)]
    assert np.allclose(made[sorted(TEAMS)].sum(axis=1), 1)
    assert list(made["prediction"]) == list(made[sorted(TEAMS)].idxmax(axis=1))
    rows = pd.DataFrame({"message": texts, "day": [object(), None]}, index=[7, 3])
    of_frame = teams.predict(rows)
    assert list(of_frame.index) == [7, 3]
    pd.testing.assert_frame_equal(of_frame.reset_index(drop=True), made)
    pd.testing.assert_frame_equal(teams.predict(pd.Series(texts)), made)  # type: ignore[arg-type]
    assert len(pairs.predict([("a b", "b a"), ("c", "d")])) == 2


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ("late", "put it into brackets"),
        ([], "no text"),
        (frame(0), "no text"),
        ([("a", "b")], r"row 1 must be a text \(message\), not \('a', 'b'\)"),
        (["a", 3], "row 2 must be a text"),
        (["a", " "], "the texts, row 2: column 'message' is empty"),
        (frame(3).drop(columns="message"), "no column 'message'; it has team, day"),
        (pd.DataFrame({"message": ["a", None]}), "row 2: column 'message' is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_texts_of_a_wrong_shape(teams: finegrid.Run, texts: Any, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        teams.predict(texts)
    assert "\n" not in str(caught.value)


def test_a_text_where_the_task_reads_pairs(pairs: finegrid.Run) -> None:
    assert "row 1 must be a pair of texts" in refused(lambda: pairs.predict(["a"]))


def test_exports_what_transformers_loads(teams: finegrid.Run, tmp_path: Path) -> None:
    path = teams.export(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(path)
    assert set(model.config.id2label.values()) == set(TEAMS)
    assert "exists" in refused(lambda: teams.export(path))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert str(tmp_path) in refused(lambda: finegrid.load(tmp_path))
    for values, why in (
        ({"method": "bitfitt"}, "unknown method=bitfitt; did you mean 'bitfit'"),
        ({"method": "full,bitfit"}, "unknown method=full,bitfit"),
        ({"method": ["full", "bitfit"]}, "finegrid.compare takes several"),
        ({"task": "bla"}, "unknown task=bla"),
        ({"model": "/no/such"}, "model=/no/such: no such folder"),
        ({"epoch": 3}, "unknown key epoch"),
        ({"epochs": "x"}, "budget.epochs=x must be a number"),
        ({"directory": file}, "is a file"),
    ):
        assert why in refused(lambda values=values: finegrid.run(**values))  # type: ignore[misc]


def test_a_model_is_named_by_its_folder(tmp_path: Path) -> None:
    more: Any = SMALL | {"steps": 1}
    model = str(BUILTIN / "tiny")
    run = finegrid.run(method="head", model=model, directory=tmp_path / "run", **more)
    assert run.record.status == "ok"


# --- comparisons ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> finegrid.Results:
    """Two methods, two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    return finegrid.compare(METHODS, seeds=2, directory=folder / "Ann's grid", **SMALL)


def test_a_comparison_answers(compared: finegrid.Results, tmp_path: Path) -> None:
    table = compared.table()
    assert sorted(table["method"]) == sorted(METHODS)
    assert set(table["seeds"]) == {2}
    assert {"score", "sd", "low", "high", "verdict", "params", "bytes", "seconds"} <= set(table)
    assert list(table["verdict"]).count("best") == 1
    assert table["score"].is_monotonic_decreasing
    assert any(method in compared.answer() for method in METHODS)
    page = compared.report(tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "bitfit" in page


def test_the_best_run_is_chosen_by_validation(compared: finegrid.Results) -> None:
    table, best = compared.table(), compared.best()
    leader = table.loc[table["verdict"].eq("best"), "method"].item()
    mine = compared.runs[compared.runs["method"].eq(leader)]
    assert best.record.method == leader
    assert best.record.validation == mine["validation"].max()
    assert len(best.predict([("a b", "b a")])) == 1


def test_the_same_comparison_runs_nothing(
    compared: finegrid.Results, capfd: pytest.CaptureFixture[str]
) -> None:
    def records() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in compared.directory.rglob("record.json")}

    before = records()
    assert len(before) == 4
    again = finegrid.compare(METHODS, seeds=[0, 1], directory=compared.directory, **SMALL)
    assert records() == before
    assert set(again.cells) == set(compared.cells)
    one = finegrid.compare(["head"], seeds=[1], directory=compared.directory, **SMALL)
    assert records() == before
    assert len(one.runs) == 1
    assert capfd.readouterr().err == ""  # no bar where nobody looks


def test_a_comparison_outside_the_main_thread(compared: finegrid.Results) -> None:
    made: list[finegrid.Results] = []

    def doing() -> None:
        made.append(finegrid.compare(METHODS, seeds=2, directory=compared.directory, **SMALL))

    thread = threading.Thread(target=doing)
    thread.start()
    thread.join()
    assert set(made[0].cells) == set(compared.cells)


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    def doing(methods: Any, **more: Any) -> finegrid.Results:
        return finegrid.compare(methods, directory=tmp_path / "grid", **more)

    assert "unknown method=bitfitt; did you mean" in refused(lambda: doing(["head", "bitfitt"]))
    assert "a list of methods' names" in refused(lambda: doing("head"))
    assert "a list of methods' names" in refused(lambda: doing([finegrid.methods.LoRA()]))
    assert "at least one method" in refused(lambda: doing([]))
    assert "at least one method" in refused(lambda: doing(["head"], seeds=0))
    assert not list(tmp_path.rglob("record.json"))


def test_cells_without_a_result_are_named_in_a_warning(tmp_path: Path) -> None:
    more: Any = SMALL | {"optim.lr": 1e30, "hydra/launcher": "basic"}
    with pytest.warns(UserWarning, match="1 of 1 cells have no result"):
        results = finegrid.compare(["full"], seeds=1, directory=tmp_path, **more)
    assert "No run has a score" in results.answer()
    assert "no run has a score" in refused(results.best)


@pytest.mark.slow
def test_a_sweep_ends_with_the_process_that_compares(tmp_path: Path) -> None:
    code = (
        "import sys, finegrid\n"
        "finegrid.compare(['full'], seeds=2, directory=sys.argv[1], epochs=1000, trainer='cpu')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=dict(os.environ))
    try:
        while not (begun := list(tmp_path.rglob("live.json"))):
            assert parent.poll() is None
            time.sleep(0.1)
        started = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.kill()
        parent.wait()
    assert len(started) > 2  # the sweep, its fork server, a job
    wait_until_gone(started)
    assert begun[0].with_name("record.json").exists() is False
