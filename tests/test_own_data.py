"""`task=custom`: a user's own rows on every way through the program, whatever their labels."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import METHODS, composed, run_cell
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from safetensors.torch import load_file

from finegrid import delta, together
from finegrid.attempt import Request
from finegrid.export import export
from finegrid.inference import predict_file
from finegrid.record import Record, read
from finegrid.together import run_together

FUSING = [name for name in METHODS if composed(f"method={name}").method.get("fuses")]
SHORT = ("model=tiny", "trainer=cpu", "budget=steps", "budget.steps=2", "evaluations=1")
REGRESSION = ("task.kind=regression", "task.metrics=[pearson,spearman]")
KINDS = {  # -> number of rows and of classes (none: graded labels), what the task is told
    "two classes": (60, 2, ()),
    "three classes": (90, 3, ()),
    "sixty classes": (600, 60, ()),
    "graded": (60, None, REGRESSION),
}


def own_rows(path: Path, rows: int, classes: int | None, *, prefix: str = "team") -> Path:
    """A file whose texts tell their label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "reply", "team"])
        for i in range(rows):
            label = f"{i % 7 / 2}" if classes is None else f"{prefix} {i % classes}"
            writer.writerow([f"the dog sees cat {i}", f"it is number {i % (classes or 7)}", label])
    return path


def own_task(path: Path, *more: str) -> tuple[str, ...]:
    return (
        "task=custom", f"task.train='{path}'", "task.text=[message,reply]", "task.label=team", *more
    )  # fmt: skip


def request(directory: Path, *overrides: str) -> Request:
    """A cell of a sweep, with what Hydra would have left in its directory."""
    cfg = composed(*overrides)
    (directory / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, directory / ".hydra" / "config.yaml")
    return Request(cfg, directory, list(overrides), "sweep")


def fused(root: Path, lines: Sequence[Sequence[str]]) -> list[Record]:
    """Cells that share one pass."""
    run_together([request(root / str(n), *line) for n, line in enumerate(lines)], most=len(lines))
    return [read(root / str(n)) for n in range(len(lines))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_has_an_output_for_each_label(kind: str, tmp_path: Path) -> None:
    rows, classes, more = KINDS[kind]
    told = (*own_task(own_rows(tmp_path / "rows.csv", rows, classes), *more), *SHORT)
    lines = [(*told, "method=lora", "seed=0"), (*told, "method=head", "seed=1")]
    together = fused(tmp_path / "fused", lines)
    alone = [run_cell(tmp_path / f"alone{n}", *line) for n, line in enumerate(lines)]
    assert [(one.status, one.fused, one.error) for one in together] == [("ok", 2, None)] * 2
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert one.params_head == other.params_head == 129 * (classes or 1)
        assert one.validation == pytest.approx(other.validation, abs=1e-4)
        assert one.metrics["test"] == pytest.approx(other.metrics["test"], abs=1e-4)
        for directory in (tmp_path / "fused" / str(number), tmp_path / f"alone{number}"):
            _usable(directory, tmp_path / "rows.csv", rows, classes)


def _usable(directory: Path, file: Path, rows: int, classes: int | None) -> None:
    """Whether a run's labels are known where it is used."""
    labels = delta.metadata(directory / delta.FILE)["labels"]
    assert sorted(labels) == sorted(f"team {i}" for i in range(classes or 0))
    assert predict_file(directory, file, directory / "out.csv") == rows
    with (directory / "out.csv").open(encoding="utf-8") as written:
        header, first, *_ = csv.reader(written)
    assert header[3:] == ["prediction", *(f"score_{label}" for label in labels)]
    assert first[3] in labels if classes else float(first[3])
    export(directory, "merged", directory / "merged")


@pytest.mark.parametrize("kind", ["sixty classes", "graded"])
def test_every_method_that_fuses(kind: str, tmp_path: Path) -> None:
    rows, classes, more = KINDS[kind]
    told = (*own_task(own_rows(tmp_path / "rows.csv", rows, classes), *more), *SHORT)
    lines = [(*told, f"method={name}") for name in FUSING]
    found = fused(tmp_path, lines)
    assert [(one.status, one.fused, one.error) for one in found] == [
        ("ok", len(lines), None)
    ] * len(lines)
