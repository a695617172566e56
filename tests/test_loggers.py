"""Loggers of single steps: the same points in each of them, alone and in a shared pass."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_cell
from test_together import request

from finegrid.errors import UserError
from finegrid.runs.record import read
from finegrid.strategies.fused_trainer import run_together

SHORT = ("method=bitfit", "data.fraction=0.1", "evaluations=2", "budget=steps")
STEP = ("train/loss", "train/lr", "train/grad_norm")
Points = dict[int, dict[str, float]]  # step -> name -> value


def of_csv(directory: Path) -> Points:
    with (directory / "csv/metrics.csv").open(encoding="utf-8") as file:
        lines = [{k: float(v) for k, v in line.items() if v} for line in csv.DictReader(file)]
    return {int(line["step"]): line for line in lines if "train/loss" in line}


def of_tensorboard(directory: Path) -> Points:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(directory / "tensorboard")).Reload()
    found: Points = {}
    for name in STEP:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def of_mlflow(directory: Path) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{directory.parent}/mlruns")
    (experiment,) = client.search_experiments(filter_string="name = 'finegrid'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["method/name"] == "bitfit"
    assert run.data.tags["cell"] == read(directory).cell
    found: Points = {}
    for name in STEP:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault(metric.step, {})[name] = metric.value
    return found


READERS: dict[str, Callable[[Path], Points]] = {
    "csv": of_csv,
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
}


@pytest.mark.parametrize("name", READERS)
def test_every_logger_gets_loss_rate_and_gradient_norm(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "csv":
        pytest.importorskip(name, reason="the extra `loggers` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the one store that needs no database
    more = [f"logger.tracking_uri=file:{tmp_path}/mlruns"] if name == "mlflow" else []
    directory = tmp_path / "run"
    run_cell(directory, *SHORT, "budget.steps=6", "log_every=2", f"logger={name}", *more)
    found = READERS[name](directory)
    assert sorted(found) == [2, 4, 6]
    for point in found.values():
        assert point["train/loss"] > 0
        assert point["train/grad_norm"] > 0
    rates = [point["train/lr"] for point in found.values()]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


@pytest.mark.parametrize(("steps", "points"), [(5, 5), (120, 50)])
def test_a_run_has_about_50_points(steps: int, points: int, tmp_path: Path) -> None:
    run_cell(tmp_path, *SHORT, f"budget.steps={steps}", "logger=csv", "method=head")
    found = of_csv(tmp_path)
    assert len(found) == points
    assert max(found) == steps


def test_the_norm_is_that_before_clipping_also_where_nothing_is_clipped(tmp_path: Path) -> None:
    for clip in ("1e9", "0", "1e-3"):
        run_cell(tmp_path / clip, *SHORT, "budget.steps=1", "logger=csv", f"optim.clip={clip}")
    never, off, always = (of_csv(tmp_path / clip)[1] for clip in ("1e9", "0", "1e-3"))
    assert never["train/grad_norm"] == pytest.approx(off["train/grad_norm"])
    assert never["train/grad_norm"] == pytest.approx(always["train/grad_norm"])


def test_logging_changes_no_result(tmp_path: Path) -> None:
    plain = run_cell(tmp_path / "plain", *SHORT, "budget.steps=5")
    logged = run_cell(tmp_path / "logged", *SHORT, "budget.steps=5", "log_every=1", "logger=csv")
    assert (logged.cell, logged.metrics) == (plain.cell, plain.metrics)
    ours, theirs = (tmp_path / name / "delta.safetensors" for name in ("plain", "logged"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_runs_that_share_a_pass_log_what_they_log_alone(tmp_path: Path) -> None:
    lines = [
        (f"method={name}", "data.fraction=0.05", "budget=steps", "budget.steps=6", "log_every=3")
        for name in ("bitfit", "lora")
    ]
    shared = [(*line, "logger=csv") for line in lines]
    run_together([request(tmp_path / str(n), *line) for n, line in enumerate(shared)], most=2)
    for number, line in enumerate(shared):
        run_cell(tmp_path / f"alone{number}", *line)
        fused, alone = of_csv(tmp_path / str(number)), of_csv(tmp_path / f"alone{number}")
        assert sorted(fused) == sorted(alone) == [3, 6]
        for step, point in alone.items():
            assert fused[step] == pytest.approx(point, rel=1e-3)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_that_is_not_installed_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finegrid.tracking.loggers.find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"logger={name} needs .*finegrid\[loggers\]"):
        run_cell(tmp_path, *SHORT, "budget.steps=1", f"logger={name}")
    assert "finegrid[loggers]" in str(read(tmp_path).error)
