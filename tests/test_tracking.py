"""Weights & Biases: what was logged is on disk, and a failing logger changes nothing."""

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run_cell

from finegrid.runs.record import read

SHORT = ("data.fraction=0.1", "budget.epochs=1", "evaluations=2", "method=bitfit")
HEADER, BLOCK = 7, 32 * 1024


def offline_records(path: Path) -> Iterator[Any]:
    """The protobuf records of an offline run file (LevelDB log framing after a header)."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its process may not have written all of the file yet
    content = path.read_bytes()
    position, parts = HEADER, b""
    while position + 7 <= len(content):
        room = BLOCK - position % BLOCK
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def items(entries: Any) -> dict[str, Any]:
    """Key -> JSON value of a list of protobuf items."""
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json)
            for item in entries}  # fmt: skip


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A cell mirrored to W&B offline, and what its file holds."""
    directory = tmp_path_factory.mktemp("sweep") / "cell"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        run_cell(directory, *SHORT, "logger=wandb")
    (file,) = directory.rglob("*.wandb")
    return directory, list(offline_records(file))


class TestOffline:
    """What the offline file says."""

    def test_the_run_is_named_grouped_and_tagged(self, offline: tuple[Path, list[Any]]) -> None:
        directory, records = offline
        (run,) = {
            r.run.run_id: r.run for r in records if r.WhichOneof("record_type") == "run"
        }.values()
        record = read(directory)
        assert run.run_id == record.cell
        assert run.display_name == "bitfit-builtin_paraphrase-tiny-f0.1-s0"
        assert run.run_group == f"{directory.parent.name}/bitfit-builtin_paraphrase"
        assert run.job_type == "train"
        assert set(run.tags) == {"bitfit", "builtin_paraphrase", "tiny", "f0.1"}

    def test_the_config(self, offline: tuple[Path, list[Any]]) -> None:
        merged: dict[str, Any] = {}
        for entry in offline[1]:
            kind = entry.WhichOneof("record_type")
            source = {"config": entry.config, "run": entry.run.config}.get(kind)
            if source is not None:
                merged |= items(source.update)
        assert merged["method"]["name"] == "bitfit"
        assert merged["data"]["fraction"] == 0.1
        assert merged["optim"]["lr"] > 0

    def test_the_curve(self, offline: tuple[Path, list[Any]]) -> None:
        directory, records = offline
        told = [items(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
        rows = [row for row in told if "validation/mean" in row]
        curve = list(csv.DictReader((directory / "curve.csv").open(encoding="utf-8")))
        assert len(rows) == len(curve) == 2
        for row, line in zip(rows, curve, strict=True):
            assert row["trainer/global_step"] == int(line["step"])
            assert row["validation/mean"] == pytest.approx(float(line["validation"]), abs=1e-5)
        steps = {row["trainer/global_step"] for row in told if "train/loss" in row}
        assert len(steps) == min(50, read(directory).steps or 0)

    def test_the_final_scores_and_costs(self, offline: tuple[Path, list[Any]]) -> None:
        directory, records = offline
        summary: dict[str, Any] = {}
        for entry in records:
            if entry.WhichOneof("record_type") == "summary":
                summary |= items(entry.summary.update)
        record = read(directory)
        for name in ("test", "validation", "params_delta", "delta_bytes", "train_seconds"):
            assert summary[name] == pytest.approx(getattr(record, name)), name
        assert summary["test/f1"] == pytest.approx(record.metrics["test"]["f1"])

    def test_it_ended_well(self, offline: tuple[Path, list[Any]]) -> None:
        (end,) = [r.exit for r in offline[1] if r.WhichOneof("record_type") == "exit"]
        assert end.exit_code == 0


def test_a_failing_run_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(Exception, match=r"lower optim\.lr"):
        run_cell(
            tmp_path, "method=full", "optim.lr=1e30", "optim.clip=0", "logger=wandb", *SHORT[:3]
        )
    (file,) = tmp_path.rglob("*.wandb")
    (end,) = [r.exit for r in offline_records(file) if r.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cell without a logger."""
    directory = tmp_path_factory.mktemp("plain")
    run_cell(directory, *SHORT)
    return directory


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_failure_of_wandb_changes_nothing(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no disk, no network, no luck")

    if broken == "log":
        monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger.log_metrics", fail)
    else:
        monkeypatch.setattr(wandb, broken, fail)
    expected, found = read(plain), run_cell(tmp_path, *SHORT, "logger=wandb")
    monkeypatch.undo()
    wandb.finish()
    assert (found.status, found.test, found.cell) == ("ok", expected.test, expected.cell)
    ours, theirs = (place / "delta.safetensors" for place in (plain, tmp_path))
    assert ours.read_bytes() == theirs.read_bytes()
