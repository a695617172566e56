"""Runs sent to W&B afterwards: the same as live ones, each once, whatever the network does."""

import json
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from commands import ENV, call, errors
from conftest import FACTS, ROOT, composed, run_cell
from omegaconf import OmegaConf
from test_tracking import items, offline_records
from wandb_server import Server, serving

from finegrid.errors import UserError
from finegrid.runs.layout import SYNCED
from finegrid.runs.record import Record, read
from finegrid.tracking import wandb_sync

TARGET = wandb_sync.Target("finegrid")
QUICK = wandb_sync.Patience(begin=10, end=10)
SCORES = {"validation": {"mean": 0.25}, "test": {"accuracy": 0.8, "f1": 0.9, "mean": 0.85}}


def write_run(root: Path, seed: int, status: str = "ok") -> Path:
    """The directory of a made-up cell with a curve of three lines."""
    place = root / f"builtin_paraphrase/tiny/bitfit/f0.3-s{seed}-{seed:012x}"
    (place / ".hydra").mkdir(parents=True)
    facts: dict[str, Any] = FACTS | {"method": "bitfit", "task": "builtin_paraphrase"}
    facts |= {"fraction": 0.3, "seed": seed, "cell": f"{seed:012x}", "overrides": []}
    facts |= {"status": status, "metric": "mean", "test": 0.85, "metrics": SCORES}
    Record(**facts).write(place)
    cfg = composed("method=bitfit", f"seed={seed}")
    OmegaConf.save(cfg, place / ".hydra/config.yaml")
    lines = [f"{step},{step / 10},{1 / step:.3f},0.{step}" for step in (10, 20, 30)]
    curve = "\n".join(["step,seconds,loss,validation", *lines, "40,4.0"])  # cut short
    (place / "curve.csv").write_text(curve, encoding="utf-8")
    return place


@pytest.fixture
def swept(tmp_path: Path) -> list[Path]:
    """A sweep of three cells, the last of which failed."""
    root = tmp_path / "sweep"
    return [write_run(root, 0), write_run(root, 1), write_run(root, 2, status="failed")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """W&B's stand-in, to which this process then talks."""
    import wandb

    wandb.teardown()
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.delenv("WANDB_MODE", raising=False)
        yield found
        wandb.teardown()


def sent(places: list[Path], patience: wandb_sync.Patience = QUICK) -> list[Path]:
    """Send what waits; where it went."""
    found = wandb_sync.send(
        wandb_sync.waiting(places, TARGET), TARGET, rate=1000, patience=patience
    )
    return [place for place, why in found if not why]


class TestOnline:
    """Against the stand-in, through W&B's own client."""

    def test_a_run_is_sent_whole(self, swept: list[Path], server: Server) -> None:
        assert sent(swept) == swept
        assert list(server.runs) == [read(place).cell for place in swept]
        run = server.runs[f"{1:012x}"]
        assert run.told["displayName"] == "bitfit-builtin_paraphrase-tiny-f0.3-s1"
        assert run.told["groupName"] == "sweep/bitfit-builtin_paraphrase"
        assert set(run.told["tags"]) == {"bitfit", "builtin_paraphrase", "tiny", "f0.3"}
        assert run.config["method"]["value"]["name"] == "bitfit"
        assert run.config["optim"]["value"]["lr"] > 0, "interpolations are resolved"
        assert [row["trainer/global_step"] for row in run.rows] == [10, 20, 30]
        assert [row["validation/mean"] for row in run.rows] == [0.1, 0.2, 0.3]
        assert (run.summary["test/f1"], run.summary["test"], run.summary["failed"]) == (
            0.9,
            0.85,
            0,
        )
        ends = [(run.exit_code, run.summary["status"]) for run in server.runs.values()]
        assert ends == [(0, "ok"), (0, "ok"), (1, "failed")]

    def test_what_was_sent_is_sent_again_only_if_it_changed(
        self, swept: list[Path], server: Server
    ) -> None:
        assert sent(swept[:2]) == swept[:2]
        assert sent(swept) == swept[2:]
        assert sent(swept) == []
        other = wandb_sync.Target("finegrid", "team")
        assert wandb_sync.waiting(swept, other) == swept
        replace(read(swept[0]), test=0.5).write(swept[0])
        assert sent(swept) == swept[:1]
        run = server.runs[f"{0:012x}"]
        assert run.summary["test"] == 0.5
        assert [row["trainer/global_step"] for row in run.rows] == [10, 20, 30], "rows come once"

    def test_it_tries_again(self, swept: list[Path], server: Server) -> None:
        server.failing["graphql"] = 1
        assert sent(swept[:1]) == swept[:1]
        assert len(server.runs[f"{0:012x}"].rows) == 3

    def test_a_lost_network_is_one_line_and_the_next_call_goes_on(
        self, swept: list[Path], server: Server
    ) -> None:
        sent(swept[:1])
        server.failing["stream"] = 1000
        short = replace(QUICK, end=1)
        with pytest.raises(
            UserError, match=r"cannot be reached: .*; 0 of 2 runs are thr"
        ) as caught:
            sent(swept, short)
        assert "\n" not in str(caught.value)
        assert wandb_sync.waiting(swept, TARGET) == swept[1:], "what was cut short is not marked"
        server.failing.clear()
        assert sent(swept) == swept[1:]
        assert [len(run.rows) for run in server.runs.values()] == [3, 3, 3]

    def test_files_come_along_if_asked_for(self, swept: list[Path], server: Server) -> None:
        target = replace(TARGET, files=("record.json", "nothing.txt"))
        list(wandb_sync.send(swept[:1], target, rate=1000, patience=QUICK))
        assert "record.json" in server.runs[f"{0:012x}"].files


@pytest.mark.slow
def test_a_run_sent_afterwards_is_the_one_sent_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "sweep/builtin_paraphrase/tiny/bitfit/f0.1-s0-0"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    short = ("data.fraction=0.1", "budget.epochs=1", "evaluations=2", "method=bitfit")
    run_cell(place, *short, "logger=wandb")
    assert [why for _, why in wandb_sync.send([place], TARGET, rate=1000)] == [""]
    live, after = (told(root) for root in (place, tmp_path / "wandb"))
    for name in ("run_id", "display_name", "job_type", "tags"):
        assert getattr(after["run"], name) == getattr(live["run"], name), name
    groups = [one["run"].run_group.partition("/")[2] for one in (live, after)]
    assert groups == ["bitfit-builtin_paraphrase"] * 2
    for kind in ("config", "summary"):
        ours, theirs = (
            {k: v for k, v in one[kind].items() if k[0] != "_"} for one in (after, live)
        )
        for one in (ours, theirs):  # steps between two validations are logged live alone
            for name in ("train/loss", "train/lr", "train/grad_norm"):
                one.pop(name, None)
        assert ours == theirs, kind
    assert after["exit"] == live["exit"] == 0


def told(root: Path) -> dict[str, Any]:
    """What the offline file below a directory says of its run."""
    (file,) = root.rglob("*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}}
    for entry in offline_records(file):
        kind = entry.WhichOneof("record_type")
        if kind in ("run", "config"):
            found["config"] |= items((entry.run.config if kind == "run" else entry.config).update)
        if kind == "run":
            found["run"] = entry.run
        if kind == "summary":
            found["summary"] |= items(entry.summary.update)
        if kind == "exit":
            found["exit"] = entry.exit.exit_code
    return found


def test_runs_are_spaced(swept: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_sync, "_upload", lambda *told: None)
    now = [0.0]
    monkeypatch.setattr(wandb_sync.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(wandb_sync.time, "sleep", lambda wait: now.append(now.pop() + wait))
    begun = [now[0] for _ in wandb_sync.send(swept, TARGET, rate=10)]
    assert begun == pytest.approx([0.0, 0.1, 0.2])


def test_a_damaged_run_does_not_hold_up_the_others(
    swept: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_sync, "_upload", lambda *told: None)
    (swept[0] / ".hydra/config.yaml").unlink()
    (swept[1] / ".hydra/config.yaml").write_text("a: {", encoding="utf-8")
    whys = [why for _, why in wandb_sync.send(swept, TARGET, rate=1000)]
    assert "holds no .hydra/config.yaml" in whys[0]
    assert "is not a readable config" in whys[1]
    assert whys[2] == ""
    assert wandb_sync.waiting(swept, TARGET) == swept[:2]


def test_a_single_run_belongs_to_no_sweep(swept: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "runs/2026-01-01/12-00-bitfit"
    alone.parent.mkdir(parents=True)
    swept[0].rename(alone)
    assert wandb_sync.stored(alone).group == "runs/bitfit-builtin_paraphrase"


class TestScript:
    """finegrid sync as users meet it."""

    def test_a_dry_run_names_the_runs_and_sends_nothing(
        self, swept: list[Path], tmp_path: Path
    ) -> None:
        result = call(
            str(tmp_path), str(tmp_path / "sweep"), "--project", "p", "--dry-run",
            command="sync",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        head, *lines = result.stdout.splitlines()
        assert head == "p: 3 of 3 runs to send"
        assert lines[2] == (
            f"{2:012x}  failed    sweep/bitfit-builtin_paraphrase  "
            "bitfit-builtin_paraphrase-tiny-f0.3-s2"
        )
        assert not list(tmp_path.rglob(SYNCED))

    def test_offline(self, swept: list[Path], tmp_path: Path) -> None:
        ENV.update(WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
        try:
            command = [str(tmp_path / "sweep"), "--project", "p", "--rate", "100/s"]
            results = [call(*command, command="sync") for _ in range(2)]
        finally:
            del ENV["WANDB_MODE"], ENV["WANDB_DIR"]
        assert [result.returncode for result in results] == [0, 0], results[0].stderr
        assert "p (offline): 3 of 3 runs to send" in results[0].stdout
        assert "p (offline): 0 of 3 runs to send" in results[1].stdout
        assert len(list(tmp_path.rglob("*.wandb"))) == 3

    def test_no_key_is_one_line(self, swept: list[Path], tmp_path: Path) -> None:
        ENV["HOME"] = str(tmp_path)
        result = call(str(tmp_path), "--project", "p", command="sync")
        ENV["HOME"] = os.environ["HOME"]
        assert result.returncode == 1
        assert "finegrid: W&B refuses: No API key configured" in result.stderr
        assert "0 of 3 runs are through" in result.stderr
        assert "Traceback" not in result.stderr

    def test_nothing_to_send_is_one_line(self, tmp_path: Path) -> None:
        result = call(str(tmp_path), "--project", "p", command="sync")
        assert result.returncode == 1
        assert errors(result) == [
            f"finegrid: no record.json below {tmp_path}; run a sweep, or name its directory"
        ]


def workspace(*args: str) -> dict[str, Any]:
    """The specification that finegrid workspace prints."""
    result = call(*args, "--dry-run", command="workspace")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_script_for_a_workspace_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError('none')", encoding="utf-8")
    before = ENV.get("PYTHONPATH")
    ENV["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), before]))
    result = call("--project", "p", "--dry-run", command="workspace")
    ENV.pop("PYTHONPATH") if before is None else ENV.update(PYTHONPATH=before)
    assert result.returncode == 1
    assert "pip install 'finegrid[workspaces]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_workspace_shows_scores_costs_and_failures() -> None:
    pytest.importorskip("wandb_workspaces", reason="pip install 'finegrid[workspaces]'")
    spec = workspace("--project", "p", "--entity", "me", "--task", "mrpc")
    section = spec["spec"]["section"]
    sections = {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}
    assert list(sections) == ["Scores", "Costs", "Failures"]
    text = json.dumps(sections)
    recorded = {item.name for item in fields(Record)}
    for name in ("test", "validation", "train_seconds", "params_delta", "peak_memory_bytes"):
        assert name in recorded
        assert f'"{name}"' in text or f":{name}" in text, name
    assert '"failed"' in text
    (runs,) = section["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["method.value.name", "data.value.fraction"]
    assert runs["filters"]["filters"][0]["key"] == {"section": "run", "name": "tags"}


def test_the_extra_names_the_version_that_was_tried() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'workspaces = ["wandb-workspaces==0.4.13"]' in text
