"""What others send is data: it can do nothing but be read, and what is wrong in it is one line."""

import io
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Runs, composed, run_cell, tuning_method
from grids import EVIL, grid, run, written
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from safetensors.torch import load_file, safe_open, save_file

from finegrid.analysis.weights import finished
from finegrid.config import RunConfig, register_resolvers
from finegrid.errors import UserError, is_name, slug
from finegrid.export import export
from finegrid.grid import eta, plan, status
from finegrid.inference import Restored, require_finite, restore
from finegrid.report import paper, tables
from finegrid.report.figures import curves
from finegrid.report.load import rankings, variants
from finegrid.report.stats import compare
from finegrid.runs import delta, identity, mask_codec, saved_config
from finegrid.runs.layout import PLANS, RESULTS
from finegrid.runs.layout import RECORD as FILE
from finegrid.runs.record import clear, read
from finegrid.tracking import wandb_sync

SMOKE = ("experiment=smoke", "method=bitfit", "model=tiny", "task=builtin_paraphrase")
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def trained(runs: Runs) -> Path:
    """One finished run of two steps."""
    return runs("method=bitfit")


@pytest.fixture
def received(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, for somebody to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def change_config(directory: Path, change: Change) -> None:
    path = directory / saved_config.FILE
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def change_record(directory: Path, **values: object) -> None:
    path = directory / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def set_in(*place: str, to: object) -> Change:
    def change(config: dict[str, Any]) -> None:
        for key in place[:-1]:
            config = config[key]
        config[place[-1]] = to

    return change


LOAD = {"_target_": "torch.load", "f": "extra.pt", "weights_only": False}
CONFIGS = {
    "nested target": (set_in("method", "roles", to=LOAD), "plain values"),
    "in a list": (set_in("method", "roles", to=["query", LOAD]), "plain values"),
    "beyond a module": (
        set_in("method", "_target_", to="finegrid.methods.lora.torch.hub.load"),
        "must be a class in finegrid.methods",
    ),
    "elsewhere": (set_in("method", "_target_", to="os.system"), "must be a class in"),
    "no method": (set_in("method", "_target_", to="finegrid.methods.lora.Update"), "no tuning"),
    "a function": (set_in("method", "_target_", to="finegrid.methods.base.overrides"), "no tuning"),
    "the base": (set_in("method", "_target_", to="finegrid.methods.base.TuningMethod"), "no tuni"),
    "no module": (set_in("method", "_target_", to="finegrid.methods.none.None"), "No module"),
    "target no text": (set_in("method", "_target_", to=["a"]), "must be a class"),
    "method no table": (set_in("method", to="lora"), "."),
    "partial": (set_in("method", "_partial_", to=True), "plain values"),
    "args": (set_in("method", "_args_", to=[1]), "plain values"),
    "member": (
        set_in("method", to={
            "name": "bitfit", "_target_": "finegrid.methods.compose.Compose",
            "recipe": {"lr": {"default": 0.1}}, "members": {"a": LOAD},
        }),
        "members.a._target_",
    ),
    "environment": (set_in("task", "label", to="${oc.env:HOME}"), "look outside"),
    "environment inside": (set_in("task", "label", to="a${oc.env:HOME}"), "look outside"),
    "composed name": (set_in("task", "label", to="${oc.${task.name}:HOME}"), "look outside"),
    "default of a look": (
        set_in("task", "label", to="${oc.select:none,${oc.env:HOME}}"), "look outside",
    ),
    "decode": (set_in("task", "label", to="${oc.decode:'1'}"), "look outside"),
    "circle": (set_in("task", "label", to="${task.label}"), "."),
    "nowhere": (set_in("task", "label", to="${none}"), "none"),
    "laughs": (
        lambda config: config.update(
            {f"x{n}": f"${{x{n - 1}}}" * 10 if n else "ha" * 50 for n in range(9)}
        ),
        "stands for too much",
    ),
    "climbing task": (set_in("task", "name", to="../../x"), "task.name"),
    "hidden method": (set_in("method", "name", to=".x"), "method.name"),
    "unknown argument": (set_in("method", "evil", to=1), "evil"),
    "another setting": (set_in("model", "max_length", to=6), "of another run"),
    "another seed": (set_in("seed", to=77), "seed"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_received_config_is_data(
    change: Change, says: str, received: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("code was run"))
    monkeypatch.setattr(torch.hub, "load", lambda *a, **k: pytest.fail("code was run"))
    change_config(received, change)
    if "another run" not in says:  # whoever means ill takes the hash out of the record too
        change_record(received, config_hash=None)
        change_config(received, set_in("optim", "lr", to=read(received).lr))
    with pytest.raises(UserError, match=says) as raised:
        restore(received)
    assert "\n" not in str(raised.value)


TEXTS = {
    "object": ("!!python/object/apply:os.system ['touch PWNED']", "not a readable config"),
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
    "deep": ("[" * 5000, "nested too deep"),
    "large": ("a: " + "x" * (1 << 19), "bytes"),
    "empty": ("", "not a run's config"),
    "no sections": ("{select: best, store: float32}", "not a run's config"),
    "a list": ("[1, 2]", "no table"),
    "no text": ("\x00", "not a readable config"),
}


@pytest.mark.parametrize(("text", "says"), TEXTS.values(), ids=TEXTS)
def test_a_received_yaml_is_bounded(text: str, says: str, received: Path) -> None:
    (received / saved_config.FILE).write_text(text)
    with pytest.raises(UserError, match=says):
        restore(received)


def test_references_within_a_config_are_followed() -> None:
    register_resolvers()
    plain = {
        "method": {"name": "m", "recipe": {"lr": {"default": 0.1}}}, "model": {"name": "x"},
        "data": {"root": saved_config.MACHINE, "fraction": "${oc.select:table.${task.name}.small}"},
        "task": {"name": "t"}, "table": {"t": {"small": 0.3}},
        "optim": {"lr": "${recipe:lr}", "head_lr": "${optim.lr}"},
    }  # fmt: skip
    found = saved_config.resolved(plain)
    assert (found.data.fraction, found.data.root) == (0.3, None)
    assert (found.optim.lr, found.optim.head_lr) == (0.1, 0.1)


def test_a_trained_run_is_restored(trained: Path) -> None:
    record = read(trained)
    assert record.delta_digest == delta.digest(trained / delta.FILE)
    assert record.config_hash
    assert restore(trained).logits((["a"], ["b"])).isfinite().all()


def test_records_of_0_6_are_restored(received: Path) -> None:
    values = json.loads((received / FILE).read_text())
    del values["config_hash"], values["delta_digest"]
    (received / FILE).write_text(json.dumps(values))
    restore(received)
    change_config(received, set_in("data", "fraction", to=0.5))
    with pytest.raises(UserError, match="differ in fraction"):
        restore(received)


class TestDelta:
    @pytest.mark.parametrize("at", [10, -1], ids=["header", "last"])
    def test_a_flipped_bit(self, received: Path, at: int) -> None:
        content = bytearray((received / delta.FILE).read_bytes())
        content[at] ^= 1
        (received / delta.FILE).write_bytes(content)
        for use in (restore, lambda place: export(place, "merged")):
            with pytest.raises(UserError, match=r"not what its run wrote|not a readable delta"):
                use(received)  # type: ignore[operator]

    @pytest.mark.parametrize("undigested", [True, False])
    def test_truncated_or_gone(self, received: Path, undigested: bool) -> None:
        if undigested:
            change_record(received, delta_digest=None)
        path = received / delta.FILE
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match=r"not a readable delta|not what its run"):
            restore(received)
        path.unlink()
        with pytest.raises(UserError, match="not a readable delta"):
            restore(received)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda value: value * float("nan"), "not finite"),
            (lambda value: value + float("inf"), "not finite"),
            (lambda value: value.to(torch.int64), "I64"),
            (lambda value: value.double(), "F64"),
            (lambda value: value.to(torch.bool), "BOOL"),
            (lambda value: value.new_zeros(0), "has shape"),
            (lambda value: value.new_zeros(3, *value.shape), "has shape"),
        ],
    )
    def test_other_numbers(
        self, change: Callable[[torch.Tensor], torch.Tensor], says: str, received: Path
    ) -> None:
        path = received / delta.FILE
        with safe_open(path, "pt") as file:
            about = file.metadata()
        tensors = load_file(path)
        name = min(tensors)
        save_file(tensors | {name: change(tensors[name])}, path, about)
        change_record(received, delta_digest=None)
        with pytest.raises(UserError, match=says):
            restore(received)

    @pytest.mark.parametrize(
        "about",
        ["[]", "{", "{}", '{"format": "finegrid-2"}',
         '{"format": "finegrid-2", "method": "bitfit", "fingerprint": "f", "labels": [1]}',
         '{"format": "finegrid-2", "method": 1, "fingerprint": "f", "labels": []}',
         '{"format": "finegrid-2", "method": "bitfit", "fingerprint": "f", "labels": 3}'],
    )  # fmt: skip
    def test_other_headers(self, about: str, received: Path) -> None:
        path = received / delta.FILE
        save_file(load_file(path), path, {"finegrid": about})
        change_record(received, delta_digest=None)
        with pytest.raises(UserError, match="delta"):
            restore(received)

    def test_masks_stand_for_no_more_than_the_model_has(self) -> None:
        content = mask_codec.encode_all({"a": np.zeros((1000, 1000), dtype=bool)})
        assert mask_codec.decode_all(content, 1_000_000)["a"].shape == (1000, 1000)
        with pytest.raises(ValueError, match="not a coded mask"):
            mask_codec.decode_all(content, 999_999)

    def test_logits_that_are_no_numbers(self, trained: Path) -> None:
        require_finite(torch.zeros(3, 2))
        with pytest.raises(UserError, match=r"1 of 3 rows \(row 2 first\)"):
            require_finite(torch.tensor([[0.0, 1], [0, float("nan")], [1, 1]]))
        restored = restore(trained)
        with torch.no_grad():
            next(restored.model.parameters()).fill_(1e38)
        with pytest.raises(UserError, match="no finite logits"):
            Restored.logits(restored, (["a cat"], ["a dog"]))


def fields(**values: object) -> bytes:
    return json.dumps(asdict(run("lora", 1, 0.8)) | values).encode()


RECORDS = {
    "empty": (b"", "Expecting value"),
    "half": (fields()[:200], "."),
    "binary": (bytes(range(256)), "codec"),
    "a list": (b"[]", "a list"),
    "null": (b"null", "NoneType"),
    "deep": (b"[" * 100_000, "too deep"),
    "other schema": (fields(schema=99), "schema 99"),
    "no schema": (b"{}", "schema None"),
    "lacks": (b'{"schema": 1, "method": "a"}', "lacks task"),
    "NaN": (fields(test=float("nan")), "NaN"),
    "infinity": (fields(train_seconds=float("inf")), "Infinity"),
    "too large": (fields(test=0.123).replace(b"0.123", b"1e999"), "test is inf"),
    "digits": (fields(seed=8).replace(b'"seed": 8', b'"seed": ' + b"8" * 5000), "digits"),
    "huge": (fields(steps=10**40), "steps"),
    "text as number": (fields(test="0.8"), "test is '0.8'"),
    "number as text": (fields(metric=3), "metric is 3"),
    "list as number": (fields(train_seconds=[[1]]), "train_seconds"),
    "flag as number": (fields(seed=True), "seed is True"),
    "null task": (fields(task=None), "task is None"),
    "null status": (fields(status=None), "status"),
    "list as status": (fields(status=["ok"]), "status"),
    "unknown status": (fields(status="fine"), "status"),
    "negative seed": (fields(seed=-1), "seed is -1"),
    "fraction below 0": (fields(fraction=-0.1), "fraction is -0.1"),
    "negative budget": (fields(budget=-1), "budget is -1"),
    "climbing task": (fields(task="../../x"), "task is"),
    "method of two": (fields(method="a/b"), "method is"),
    "markup": (fields(method=EVIL), "method is"),
    "hidden model": (fields(model=".x"), "model is"),
    "no name": (fields(method=""), "method is"),
    "long name": (fields(method="m" * 101), "method is"),
    "cell": (fields(cell="../x"), "cell is"),
    "surrogate": (fields(error="\ud800"), "error is"),
    "overrides text": (fields(overrides="a=b"), "overrides"),
    "overrides nested": (fields(overrides=[["a"]]), "overrides"),
    "metrics": (fields(metrics={"test": [1]}), "metrics"),
    "metric no number": (fields(metrics={"test": {"f1": None}}), "metrics"),
    "metric's name": (fields(metrics={"test": {EVIL: 1.0}}), "metrics"),
    "versions": (fields(versions=[1]), "versions"),
    "flag": (fields(degenerate="no"), "degenerate"),
}


@pytest.mark.parametrize(("content", "why"), RECORDS.values(), ids=RECORDS)
def test_one_bad_record_is_one_unreadable_row(content: bytes, why: str, tmp_path: Path) -> None:
    written(tmp_path, grid({"full": 0.8, "head": 0.7}, tasks=["mrpc"], fractions=[1.0], seeds=2))
    bad = tmp_path / "zzzz"
    bad.mkdir()
    (bad / FILE).write_bytes(content)
    runs = rankings.load([tmp_path])
    assert list(runs["status"]) == ["ok"] * 4 + ["unreadable"]
    assert pd.Series([runs["error"].iloc[-1]]).str.contains(why).all(), runs["error"].iloc[-1]
    found = rankings.gather(runs)
    assert len(found.runs) == 4
    assert "unreadable" in found.notes[0]
    assert "0.8" in tables.markdown(found, compare.cells(found), compare.against_best(found))
    with pytest.raises(UserError, match="not a readable record") as raised:
        read(bad)
    assert "\n" not in str(raised.value)
    assert status.outcome(bad).status == "unreadable"
    assert len(eta.past(tmp_path)) <= 4
    target = wandb_sync.Target("p")
    assert len(wandb_sync.waiting(wandb_sync.finished([tmp_path]), target)) == 5
    with pytest.raises(UserError, match="not a readable record"):
        wandb_sync.stored(bad)


def test_what_is_no_plain_file_is_unreadable(tmp_path: Path) -> None:
    written(tmp_path, grid({"full": 0.8}, tasks=["mrpc"], fractions=[1.0], seeds=1))
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / FILE)
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / FILE).open("wb") as file:
        file.truncate(100 << 20)
    runs = rankings.load([tmp_path])
    assert sorted(runs["status"]) == ["ok", *["unreadable"] * 3]
    assert list(finished([tmp_path])) == [tmp_path / "0000"]
    for name in ("folder", "pipe", "large"):
        assert status.outcome(tmp_path / name).status == "unreadable"
        assert len(wandb_sync.waiting([tmp_path / name], wandb_sync.Target("p"))) == 1


def test_one_bad_record_hides_no_good_one_from_the_analysis(tmp_path: Path) -> None:
    written(tmp_path, grid({"full": 0.8}, tasks=["mrpc"], fractions=[1.0], seeds=2))
    (tmp_path / "0000" / FILE).write_text("{")
    assert list(finished([tmp_path])) == [tmp_path / "0001"]


def test_a_directory_names_no_other_place(tmp_path: Path) -> None:
    written(tmp_path, [run("full", 0, 0.8)])
    bad = tmp_path / "..x" / "tiny" / "a b" / "f1-s1-x"
    bad.mkdir(parents=True)
    (bad / FILE).write_text("{")
    runs = rankings.load([tmp_path])
    assert runs.loc[runs.status.eq("unreadable"), ["task", "method"]].isna().all(axis=None)
    plans = tmp_path / PLANS
    plans.mkdir()
    for place in ("../../etc", "/etc"):
        (plans / "a.json").write_text(json.dumps({"cells": [place]}))
        with pytest.raises(UserError, match="no cell's directory"):
            plan.places(tmp_path)


NAMES = {
    "": False, ".": False, "..": False, ".x": False, "-x": False, "a/b": False, "a b": False,
    "a\n": False, "<b>": False, "=1": False, "é": True, "a.b_c-1": True, "x" * 100: True,
    "x" * 101: False, "1": True,
}  # fmt: skip


@pytest.mark.parametrize(("name", "good"), NAMES.items())
def test_names(name: str, good: bool) -> None:
    assert is_name(name) is good
    assert is_name(slug(name))


@pytest.mark.parametrize("name", ["../../x", "a/b", ".", "''", "a b"])
@pytest.mark.parametrize("group", ["task", "model", "method"])
def test_no_name_climbs_out(group: str, name: str) -> None:
    cfg = composed(*SMOKE, f"{group}.name='{name}'" if name != "''" else f"{group}.name=''",
                   "optim.lr=0.1", hydra=True)  # fmt: skip
    with pytest.raises(UserError, match=rf"{group}\.name"):
        RunConfig.of(cfg)
    assert ".." not in Path(str(cfg.hydra.run.dir)).parts
    GlobalHydra.instance().clear()


def test_a_live_config_makes_loggers_and_methods_alone(tmp_path: Path) -> None:
    for target in ("finegrid.tracking.SafeLogger", "finegrid.tracking.logging.FileHandler", "os.x"):
        with pytest.raises(UserError, match=r"logger\._target_"):
            run_cell(tmp_path / target, *SMOKE, f"+logger._target_={target}")
    with pytest.raises(UserError, match="evil"):
        tuning_method("method=bitfit", "+method.evil=1")


def test_a_new_run_takes_the_old_results_away(received: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run_cell(received, *SMOKE, "task=custom", "task.train=none.csv")
    assert read(received).status == "failed"
    assert not any((received / name).exists() for name in RESULTS if name != FILE)


def test_results_are_cleared_record_first(tmp_path: Path) -> None:
    for name in RESULTS:
        (tmp_path / name).write_text("")
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match="cannot be removed"):
        clear(tmp_path)


VALUES = {
    "model.path=a.csv": "full model.path=a.csv",
    "model.path='sp ace/rows.csv'": "full model.path='sp ace/rows.csv'",
    "model.path=sp ace/rows.csv": "full model.path='sp ace/rows.csv'",
    'model.path="b.csv"': "full model.path=b.csv",
    "+model.path=a=b,c.csv": "full model.path=a=b,c.csv",
    "model.path='a\nb'": r"full model.path='a\nb'",
    "model.path=it's": "full model.path=it's",
    "task.text=[a, b]": "full task.text='[a, b]'",
    "method.x=[a,b]": "full method.x=[a,b]",
    f"model.path={'x' * 70}": f"full model.path={'x' * 50}...",
}


@pytest.mark.parametrize(("override", "name"), VALUES.items())
def test_variants_are_named_from_the_list(override: str, name: str, tmp_path: Path) -> None:
    others = ["model.path=other.csv", "task.text=[c]", "seed=0"]
    runs = [
        run("full", 0, 0.8, overrides=["method=full", override, "seed=0"]),
        run("full", 0, 0.7, overrides=["method=full", *others]),
    ]
    found = rankings.results([written(tmp_path, runs)])
    methods = set(found.runs["method"])
    assert len(methods) == 2
    assert any(method.startswith(name) or name in method for method in methods), methods
    assert variants.listed(shlex.join(runs[0].overrides)) == runs[0].overrides


def test_overrides_of_0_6_are_read() -> None:
    assert variants.listed("method=full task.text=[a, b] x='a b'") == [
        "method=full", "task.text=[a, b]", "x='a b'",
    ]  # fmt: skip


HOSTILE = "a<img src=x>|**b**`c`[d](http://e)$f$\\_g_&"


def test_a_report_shows_texts_as_texts(tmp_path: Path) -> None:
    runs = [
        run("full", 0, 0.8),
        run("lora", 0, 0.7, overrides=[f"method.x={HOSTILE}"]),
        run("head", 0, 0.7, status="failed", error=f"\x1b[31m{HOSTILE}", test=None, metrics={}),
    ]
    found = rankings.results([written(tmp_path, runs)])
    cells, best = compare.cells(found), compare.against_best(found)
    text = tables.markdown(found, cells, best)
    assert "<img" not in text
    assert "](" not in text
    assert "\x1b" not in text
    assert text.count(r"\*\*b\*\*") >= 3
    rows = [line for line in text.splitlines() if line.startswith("| lora")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {3, 10}
    (table,) = paper.tables(found, cells, best)
    assert r"\textbackslash{}\_g\_\&" in paper.latex(table)
    assert "\n" not in paper.escaped("a\nb")


FORMULAS = {"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\t=x": "' =x",
            "\r\nx": " x", "a-b": "a-b"}  # fmt: skip


@pytest.mark.parametrize(("formula", "safe"), FORMULAS.items())
def test_no_cell_of_a_csv_is_a_formula(formula: str, safe: str) -> None:
    data = pd.DataFrame({"text": [formula, "plain", None], "n": [-1.5, 2, 3], formula: [1, 2, 3]})
    back = pd.read_csv(io.StringIO(tables.csv(data)), keep_default_na=False)
    assert list(back["text"])[:2] == [safe, "plain"]
    assert list(back["n"]) == [-1.5, 2, 3]
    assert back.columns[-1] == safe
    category = data.assign(text=data["text"].astype("category"))
    assert tables.csv(category) == tables.csv(data)


class TestParquet:
    @pytest.fixture
    def stored_runs(self, tmp_path: Path) -> pd.DataFrame:
        runs = grid({"full": 0.8, "head": 0.7}, tasks=["mrpc"], fractions=[1.0], seeds=3)
        return rankings.load([written(tmp_path / "runs", runs)])

    @pytest.mark.parametrize(
        ("column", "values", "says"),
        [
            ("test", ["a"] * 6, "column test holds"),
            ("seed", ["x", "y", "z"] * 2, "column seed"),
            ("method", [1, 2, 3, 4, 5, 6], "column method holds 1"),
            ("method", [[1]] * 6, "column method"),
            ("pretrained", ["yes"] * 6, "column pretrained"),
            ("overrides", [1.5] * 6, "column overrides"),
            ("status", [1] * 6, "column status"),
            ("train_seconds", [{"a": 1}] * 6, "column train_seconds"),
        ],
    )
    def test_a_column_of_another_kind(
        self, column: str, values: list[object], says: str, stored_runs: pd.DataFrame,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        path = tmp_path / "runs.parquet"
        stored_runs.assign(**{column: values}).to_parquet(path)
        with pytest.raises(UserError, match=says):
            rankings.load([path])

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("seed", float("nan")), ("seed", -1), ("seed", float("inf")), ("seed", 0.5),
            ("test", float("inf")), ("fraction", -0.1), ("fraction", float("nan")), ("budget", -1),
            ("task", None), ("task", "../x"), ("method", EVIL), ("status", "fine"),
            ("status", None), ("train_rows", -5),
        ],
    )  # fmt: skip
    def test_a_bad_row_is_unreadable(
        self, column: str, value: object, stored_runs: pd.DataFrame, tmp_path: Path
    ) -> None:
        path, runs = tmp_path / "runs.parquet", stored_runs.copy()
        runs[column] = runs[column].astype(object)
        runs.loc[0, column] = value
        if column not in ("task", "method", "status"):
            runs[column] = runs[column].astype(float)
        runs.to_parquet(path)
        found = rankings.load([path])
        assert list(found["status"]) == ["unreadable", *["ok"] * 5]
        assert column in found["error"].iloc[0]
        results = rankings.gather(found)
        assert results.runs["status"].eq("ok").sum() == 5
        assert compare.cells(results)["ok"].sum() == 5

    def test_columns_that_older_versions_lack(
        self, stored_runs: pd.DataFrame, tmp_path: Path
    ) -> None:
        path = tmp_path / "runs.parquet"
        needed = {
            *rankings.FIELDS,
            *rankings.RANKING[1:],
            "method",
            "seed",
            "status",
            "test",
            "metric",
        }
        stored_runs[sorted(needed)].to_parquet(path)
        results = rankings.results([path])
        assert compare.cells(results)["ok"].sum() == 6
        stored_runs.drop(columns="seed").to_parquet(path)
        with pytest.raises(UserError, match="lacks seed"):
            rankings.load([path])
        for content in (b"", b"PAR1", bytes(100)):
            path.write_bytes(content)
            with pytest.raises(UserError, match="not a readable parquet"):
                rankings.load([path])


def test_what_lies_beside_a_record_is_checked(tmp_path: Path) -> None:
    (tmp_path / curves.CURVE).write_text("step,seconds,validation\n1,1,0.5\n2,2,nan\n")
    assert curves.read(tmp_path) is None
    path = tmp_path / curves.DISTANCES
    runs = pd.DataFrame({"method": ["full"], "seed": [0], "directory": [str(tmp_path)]})
    for text in ("", "a,b\n1,2\n", "layer,kind,l2,l2_random\n0,query,x,1\n", "l2\n\x00"):
        path.write_text(text)
        assert curves.distances(runs).empty
    path.write_text("layer,kind,l2,l2_random\n0,query,1,2\n")
    assert len(curves.distances(runs)) == 1


def test_a_configs_hash_holds_wherever_the_files_lie(trained: Path) -> None:
    resolved: Any = OmegaConf.to_container(saved_config.config(trained), resolve=True)
    assert identity.config_hash(resolved) == read(trained).config_hash
    moved = resolved | {"model": resolved["model"] | {"path": "/elsewhere"}}
    assert identity.config_hash(moved) == read(trained).config_hash
