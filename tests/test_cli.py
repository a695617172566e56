"""The command line as users meet it: help, clear errors, exit codes, sweeps, kills."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ENV, call, errors
from conftest import METHODS, MODELS, ROOT, TASKS

from finegrid.commands.ending import after_sweep
from finegrid.grid.status import Store
from finegrid.runs.record import read


def test_help_lists_every_option_without_torch() -> None:
    result = call("--help", imports=True)
    assert result.returncode == 0
    heavy = {"torch", "transformers", "pytorch_lightning"}
    assert not heavy & {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    for name in (*METHODS, *TASKS, *MODELS, "demo", "reproduce/lora2021"):
        lines = [line for line in result.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert lines, f"{name} is not listed"
        assert len(lines[0].split()) > 3, f"{name} has no description"


BAD = {
    "method": ("method=bitfti", "unknown method=bitfti; did you mean 'bitfit'"),
    "task": ("task=mprc", "unknown task=mprc; did you mean 'mrpc'"),
    "model": ("model=bert_base", "unknown model=bert_base; did you mean 'bert-base'"),
    "experiment": (
        "experiment=reproduce/lora",
        "unknown experiment=reproduce/lora; did you mean 'repro",
    ),
    "key": ("optim.lrr=1", "unknown key optim.lrr; did you mean 'optim.lr'"),
    "group": ("metod=full", "unknown key metod; did you mean 'method'"),
    "added key": ("+optim.foo=1", "unknown key optim.foo"),
    "unit": ("budget.steps=3", "budget=steps budget.steps=<amount>"),
    "two methods": ("method=[bitfit,lora]", "names several methods; compose them in a file"),
    "store": ("store=float16", "store=float16 is unknown; did you mean 'bfloat16'"),
    "fraction": ("data.fraction=0", "data.fraction=0 must lie in (0, 1]"),
    "big fraction": ("data.fraction=1.1", "must lie in (0, 1]"),
    "budget": ("budget.epochs=0", "budget.epochs=0 must be above 0"),
    "type": ("optim.lr=abc", "optim.lr: Value 'abc'"),
    "sweep": ("method=full,head", "'method=full,head'; add -m to run a cell for each value"),
    "launcher": ("hydra/launcher=baic", "unknown hydra/launcher=baic; did you mean 'basic'"),
    "no GPU": ("trainer=gpu", "torch sees no CUDA device; use trainer=auto"),
    "infinite": ("optim.lr=inf", "optim.lr=inf is no finite number"),
    "seed": ("seed=99999999999999999999", "must be an integer of at least 0, below 2^53"),
    "split seed": ("data.split_seed=-1", "data.split_seed=-1 must be at least 0"),
    "threads": ("trainer.threads=-1", "trainer.threads=-1 must be at least 1"),
    "metric twice": ("task.metrics=[f1,f1]", "task.metrics=['f1', 'f1'] names one of them twice"),
    "label as text": ("task.text=[sentence1,label]", "column label is both task.text and task.lab"),
    "syntax": ("optim.lr=[", "cannot parse an override: no viable alternative at input '['"),
}


def refused(*args: str) -> str:
    """The one line with which train.py ends, and its exit code is 1."""
    result = call(*args)
    assert result.returncode == 1
    (line,) = errors(result)
    return line


@pytest.mark.parametrize(("override", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_before_any_work(tmp_path: Path, override: str, message: str) -> None:
    if override == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert message in refused(override, f"hydra.run.dir={tmp_path / 'run'}")
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("what", ["type", "sweep"])
def test_a_process_ends_with_that_line_alone(what: str, tmp_path: Path) -> None:
    override, message = BAD[what]
    result = call(override, f"hydra.run.dir={tmp_path / 'run'}", process=True)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(errors(result)) == 1


BAD_METHODS = {  # what only the method and the model can tell
    "prompt": (
        "method=prompt method.length=70",
        "70, but tiny has 64 positions; let these be",
    ),
    "density": ("method=sparse method.density=2", "method.density=2 must lie in (0, 1]"),
    "rank": ("method=lora method.rank=0", "method.rank=0 must lie in [1, 128]"),
    "role": ("method=lora method.roles=[querry]", "bert has no role 'querry' (roles found: "),
    "layer": ("method=layers method.layers=[7]", "is no choice among the 3 layers of bert"),
}


@pytest.mark.parametrize(("override", "message"), BAD_METHODS.values(), ids=BAD_METHODS)
def test_a_method_that_does_not_fit_is_one_line_before_training(
    tmp_path: Path, override: str, message: str
) -> None:
    assert message in refused(*override.split(" "), f"hydra.run.dir={tmp_path}")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert (record["status"], record["steps"]) == ("failed", None)
    assert message in record["error"]
    assert "\n" not in record["error"]


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of three cells, one of which fails."""
    directory = tmp_path_factory.mktemp("sweep")
    result = call(
        "-m", "method=head,bitfit", "data.fraction=0.0001,0.1", "budget.epochs=1",
        "evaluations=1", f"hydra.sweep.dir={directory}",
    )  # fmt: skip
    return directory, result


@pytest.mark.slow
class TestSweep:
    """A Hydra multirun with a failing half."""

    def test_a_failing_cell_does_not_stop_the_others(
        self, sweep: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        directory, result = sweep
        records = [read(path.parent) for path in directory.rglob("record.json")]
        assert sorted((r.method, r.fraction, r.status) for r in records) == [
            ("bitfit", 0.0001, "failed"), ("bitfit", 0.1, "ok"),
            ("head", 0.0001, "failed"), ("head", 0.1, "ok"),
        ]  # fmt: skip
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert "4/4 cells" in result.stderr
        assert "2 so far" in result.stderr, "failures are named as they happen"
        assert "leaves a class empty" in result.stderr or "none of class" in result.stderr

    def test_it_ends_with_the_answer_the_page_and_what_is_next(
        self, sweep: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        directory, result = sweep
        counts, *_, report, command = result.stdout.strip().splitlines()
        assert "4 cells in" in counts
        assert " on builtin_paraphrase (10 % of the data, 1 epoch, 1 seed): " in result.stdout
        assert report == f"report: {directory}/report/report.html"
        assert (directory / "report/report.html").is_file()
        assert command.startswith("next: finegrid sweep method=head,bitfit data.fraction=")
        assert f"hydra.sweep.dir={directory}" in command

    def test_a_report_that_fails_costs_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        after_sweep(Store(tmp_path), [])
        told = capsys.readouterr()
        assert told.err.startswith(f"no answer: no record.json below {tmp_path}")
        assert told.out == ""

    def test_its_table(self, sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        result = call(str(sweep[0]), command="report")
        assert result.returncode == 0
        assert "builtin_paraphrase, tiny: mean" in result.stdout
        assert "none (0, 1 failed)" in result.stdout
        bitfit = next(read(p.parent) for p in sweep[0].rglob("record.json")
                      if "bitfit/f0.1-" in str(p))  # fmt: skip
        assert f"{bitfit.test:.4f} ± ? (1)" in result.stdout

    def test_predict_script(
        self, sweep: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        run = next(path.parent for path in sweep[0].rglob("delta.safetensors"))
        rows = tmp_path / "rows.csv"
        rows.write_text("sentence1,sentence2\nthe dog sleeps .,a dog sleeps .\n", encoding="utf-8")
        result = call(str(run), "--input", str(rows), command="predict")
        assert result.returncode == 0, result.stderr
        out = (tmp_path / "rows.predictions.csv").read_text(encoding="utf-8")
        assert out.splitlines()[0].split(",")[2] == '"prediction"'
        assert len(out.splitlines()) == 2


def test_report_of_nothing_is_one_line(tmp_path: Path) -> None:
    result = call(str(tmp_path), command="report", process=True)
    assert result.returncode == 1
    assert "no record.json below" in result.stderr
    assert "Traceback" not in result.stderr


def test_predict_from_no_run_is_one_line(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("sentence1,sentence2\na,b\n", encoding="utf-8")
    result = call(str(tmp_path), "--input", str(rows), command="predict")
    assert result.returncode == 1
    assert len(errors(result)) == 1
    assert "holds no record.json" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_killed_run_leaves_no_record(tmp_path: Path, how: signal.Signals, code: int) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "method=full", "budget.epochs=500",
               "evaluations=500", f"hydra.run.dir={tmp_path / 'run'}"]  # fmt: skip
    process = subprocess.Popen(command, env=ENV, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    curve = tmp_path / "run/curve.csv"
    while not (curve.exists() and curve.read_text(encoding="utf-8").count("\n") > 1):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(how)
    _, told = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in told
    assert not (tmp_path / "run/record.json").exists()
    assert not (tmp_path / "run/delta.safetensors").exists()
