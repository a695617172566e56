"""A run's record: what is written, when, and what of it is read again."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finegrid.errors import Diverged, UserError
from finegrid.runs import layout
from finegrid.runs.record import Record, cell_hash, read
from finegrid.training import scoring
from finegrid.training.session import RunSession

ASKED: dict[str, Any] = {
    "method": "head", "task": "mrpc", "model": "tiny", "fraction": 0.5, "budget_unit": "epochs",
    "budget": 3.0, "seed": 7, "protocol": "holdout", "overrides": ["method=head"],
}  # fmt: skip


def test_a_record_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Record(**ASKED, status="ok").write(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises((OSError, UserError), match="No space left"):
        Record(**ASKED, status="failed").write(tmp_path)
    assert read(tmp_path).status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == [layout.RECORD]


def test_no_record_holds_what_json_cannot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Record(**ASKED, test=float("nan")).write(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"of_a_later_version": 1}, None),
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"schema": None}, "schema None, this version reads 1"),
        ({"seed": -1}, "seed is -1, not a whole number from 0 on"),
    ],
    ids=str,
)
def test_what_of_a_record_is_read(change: dict[str, Any], says: str | None, tmp_path: Path) -> None:
    written = Record(**ASKED, status="ok")
    written.write(tmp_path)
    path = tmp_path / layout.RECORD
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    if says is None:
        assert read(tmp_path) == written
    else:
        with pytest.raises(UserError, match=says):
            read(tmp_path)


def test_the_order_of_settings_makes_no_other_cell() -> None:
    one = {"seed": 1, "optim": {"lr": 0.1, "warmup": 0.0}}
    same = {"optim": {"warmup": 0.0, "lr": 0.1}, "seed": 1}
    assert cell_hash(one) == cell_hash(same) != cell_hash(one | {"seed": 2})


@pytest.mark.parametrize(
    ("trial", "split", "score"), [(None, "test", "0.7500 of yes"), (3, "validation", "0.5000")]
)
def test_a_records_line_names_the_scores_that_count(
    trial: int | None, split: str, score: str
) -> None:
    record = Record(
        **ASKED, trial=trial, positive="yes", train_seconds=2.04,
        params_delta=10, params_pooler=20, params_head=30, params_total=240,
        metrics={"test": {"f1": 0.75}, "validation": {"accuracy": 0.5}},
    )  # fmt: skip
    value, _, positive = score.partition(" of ")
    name = f"f1 of {positive}" if positive else "accuracy"
    assert record.summary() == (
        f"head on mrpc (tiny, fraction 0.5, seed 7): {split} {name} {value}; trainable params: 60 "
        "|| all params: 240 || trainable%: 25.0000; 2.0 s of training"
    )


ENDS = {  # error, whether the run is still this process's -> status of the record, if written
    "ended": (None, True, "ok"),
    "failed": (RuntimeError("why"), True, "failed"),
    "diverged": (Diverged("nan"), True, "diverged"),
    "interrupted": (KeyboardInterrupt(), True, None),
    "taken over": (None, False, None),
    "taken over and failed": (RuntimeError("why"), False, None),
}


@pytest.mark.parametrize(("error", "owner", "status"), ENDS.values(), ids=ENDS)
def test_a_run_leaves_a_record_unless_it_was_stopped_or_taken_over(
    error: BaseException | None, owner: bool, status: str | None, tmp_path: Path
) -> None:
    record = Record(**ASKED, params_total=1, train_seconds=1.0)
    spec = SimpleNamespace(still_owner=lambda: owner)
    session: Any = SimpleNamespace(record=record, spec=spec, directory=tmp_path, logger=None)
    RunSession.end(session, error)
    written = (tmp_path / layout.RECORD).exists()
    assert written == (status is not None)
    if status is not None:
        assert read(tmp_path).status == status
        assert read(tmp_path).finished


def test_a_trial_predicts_no_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(scoring, "predict", lambda model, rows, **_: seen.append(rows))
    monkeypatch.setattr(scoring.device, "precision", lambda trainer: "32-true")
    for trial in (0, None):
        config = SimpleNamespace(trial=trial, trainer=None, data=SimpleNamespace(eval_batch_size=8))
        components: Any = SimpleNamespace(
            config=config, module=SimpleNamespace(model=None), encoded={"test": "rows"},
            splits=SimpleNamespace(test={"test": None}), task=None,
        )  # fmt: skip
        assert scoring._predict_tests(components).keys() == (set() if trial == 0 else {"test"})
    assert seen == ["rows"]
