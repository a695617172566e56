"""Exports give back the run's numbers in the other project's hands, or are refused in one line."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from commands import call
from conftest import METHODS, Runs, composed
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finegrid import __version__
from finegrid.config import RunConfig, bind_task
from finegrid.errors import UserError
from finegrid.export import TARGETS, adapters, card, check, export, export_run, layout
from finegrid.inference import Restored
from finegrid.models import backbone, surgery
from finegrid.runs.record import Record, read
from finegrid.training.components import build_method

FRONT = "prompt method.place=front"
FAMILY = ("lora", "lora_all", "rslora", "lora_plus", "lora_fa", "dora", "pissa", "vera", "randlora",
          "loha", "lokr", "hira", "fourierft", "miss", "oft", "adalora", "shira")  # fmt: skip
PEFT = (*FAMILY, "ia3", "layernorm", "prefix", "prefix method.reparametrization=8", FRONT)
ADAPTERS = ("houlsby", "pfeiffer", "parallel", "compacter")
MERGED = ("full", "bitfit", "sparse", "supermask", *FAMILY, "ia3", "dsee")


def fresh(method: str, *overrides: str) -> Restored:
    """A tuned tiny model, moved at random from where it starts, as if a run had ended there."""
    settings = ("model=tiny", "task=builtin_paraphrase", *overrides)
    cfg = composed(*f"method={method}".split(), *settings)
    config, task = RunConfig.of(cfg), bind_task(cfg.task)
    base = backbone.build(config.model, outputs=task.outputs, seed=0)
    build_method(RunConfig.of(cfg).method).tune(base, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in surgery.trainable(base.model).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    record = Record(
        cfg.method.name, task.name, "tiny", 1.0, "epochs", 1.0, 0, "holdout", [], metric="f1",
        test=0.5, metrics={"test": {"f1": 0.5}}, command="python train.py",
    )  # fmt: skip
    return Restored(config, record, task, base.model.eval(), backbone.tokenizer(config.model))


def verified(text: str) -> str:
    """How an export was checked, from what the command says."""
    return text.splitlines()[1].removeprefix("verified: ").partition(";")[0]


@pytest.mark.parametrize("method", MERGED)
def test_merged_is_a_plain_checkpoint(method: str, runs: Runs, tmp_path: Path) -> None:
    text = export(runs(f"method={method}"), "merged", tmp_path / "out")
    assert verified(text) == "loaded back with transformers"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("the cat").input_ids


@pytest.mark.parametrize("method", PEFT)
def test_peft_loads_its_files(method: str, runs: Runs, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    text = export(runs(f"method={method}"), "peft", tmp_path / "out")
    assert verified(text) == f"loaded back with peft {peft.__version__}"
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"].endswith("finegrid/data/builtin/tiny")
    assert "PeftModel.from_pretrained" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters_files_hold_the_run(method: str, runs: Runs, tmp_path: Path) -> None:
    export(runs(f"method={method}"), "adapters", tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    names = ["README.md", "adapter.safetensors", "adapter_config.json", "head_config.json"]
    assert files == [*names, "model_head.safetensors"]
    assert list(load_file(tmp_path / "out/model_head.safetensors")) == [
        "classifier.bias",
        "classifier.weight",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_exports_or_says_why_not(method: str, tmp_path: Path) -> None:
    run, known = fresh(method), {"merged": MERGED, "peft": PEFT, "adapters": ADAPTERS}
    for target in reversed(TARGETS):  # merging uses the model up
        why = refusal(run, target)
        if why:
            assert re.fullmatch(f"--to {target}, method {method}: .*; instead: .*", why)
            assert method not in known[target]
        else:
            export_run(run, target, tmp_path / target)


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_has_a_model_card_and_can_be_read_by_others(target: str, tmp_path: Path) -> None:
    method = {"merged": "bitfit", "peft": "lora", "adapters": "houlsby"}[target]
    run, out, before = fresh(method), tmp_path / "out", os.umask(0o022)
    try:
        export_run(run, target, out, scores={0: 0.5, 3: 0.6})
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    _, head, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["base_model"] == "builtin"
    assert about["library_name"] == {"merged": "transformers"}.get(target, target)
    assert about["tags"] == ["finegrid", method]
    (result,) = about["model-index"][0]["results"]
    assert result["dataset"]["name"] == "builtin_paraphrase"
    assert result["metrics"] == [{"name": "f1", "type": "f1", "value": 0.5}]
    assert "# license: name one" in head
    assert "over seeds 0, 3 0.5500 ± 0.0707" in text
    assert f"by finegrid {__version__}" in text
    assert "Command: `python train.py`" in text
    assert "not_equivalent, equivalent" in text


def test_a_card_knows_the_other_seeds_of_its_sweep(tmp_path: Path) -> None:
    for number, (seed, score, more) in enumerate(
        [(0, 0.5, []), (1, 0.6, []), (2, 0.9, ["budget.epochs=9"]), (3, None, [])]
    ):
        (tmp_path / str(number)).mkdir()
        overrides = ["method=lora", *more, f"seed={seed}"]
        replace(fresh("lora").record, seed=seed, test=score, overrides=overrides).write(
            tmp_path / str(number)
        )
    (tmp_path / "4").mkdir()
    (tmp_path / "4/record.json").write_text("{")
    assert card.siblings(tmp_path / "0", read(tmp_path / "0")) == {0: 0.5, 1: 0.6}


def refusal(run: Restored, target: str) -> str:
    """Why a run does not fit a target; empty if it does."""
    try:
        check(run, target)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("method", "target", "words"),
    [
        ("houlsby", "merged", "houlsby (Bottleneck) works on activations.*instead: --to adapters"),
        ("mam", "merged", "prefix (Prefix).*instead: predict with finegrid predict"),
        ("lora method.gated=true", "merged", "lora (GatedLowRank)"),
        ("lora method.gated=true", "peft", "lora (GatedLowRank)"),
        ("prompt", "peft", "only a run with method.place=front fits"),
        (f"{FRONT} method.deep=true", "peft", "method.deep=true"),
        ("prefix method.gated=true", "peft", "no gate"),
        ("bitfit", "peft", "is no norm"),
        ("bitfit_lora", "peft", "bias trains too.*instead: --to merged"),
        ("houlsby_layernorm", "adapters", "LayerNorm.weight trains too"),
        ("pfeiffer method.gated=true", "adapters", "pfeiffer (GatedBottleneck)"),
        ("lora", "adapters", "instead: --to merged or --to peft"),
        ("lora model.pretrained=false", "peft", "random weights.*instead: --to merged"),
        ("lora ++model.config.num_hidden_layers=2", "peft", "model.config (num_hidden_layers)"),
    ],
)
def test_refusals_name_what_does_not_fit(method: str, target: str, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        check(fresh(method), target)


@pytest.mark.parametrize(
    ("method", "target"), [("full", "merged"), ("lora", "peft"), ("houlsby", "adapters")]
)
def test_a_spoilt_export_leaves_nothing(
    method: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target == "peft":
        pytest.importorskip("peft")

    def spoil(model: torch.nn.Module) -> None:
        with torch.no_grad():
            next(iter(layout.head(model).values())).add_(1)

    write = layout.write_tensors
    monkeypatch.setattr(surgery, "merge", spoil)
    monkeypatch.setattr(
        layout, "write_tensors", lambda p, t: write(p, {k: v + 0.1 for k, v in t.items()})
    )
    with pytest.raises(UserError, match="logits differ from the run's by"):
        export_run(fresh(method), target, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_incomplete_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = layout.write_tensors
    monkeypatch.setattr(layout, "write_tensors", lambda p, t: write(p, dict(list(t.items())[1:])))
    with pytest.raises(UserError, match="not readable"):
        export_run(fresh("houlsby"), "adapters", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_texts_are_made_up_where_the_data_are_gone(tmp_path: Path) -> None:
    run = fresh("lora")
    run = replace(run, task=replace(run.task, path="files", train=str(tmp_path / "gone.csv")))
    assert "logits of 5 made-up texts" in export_run(run, "merged", tmp_path / "out")


def test_an_interpreter_without_the_library_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No module named 'adapters'"):
        export_run(fresh("houlsby"), "adapters", tmp_path / "out", python=sys.executable)
    with pytest.raises(UserError, match="does not run"):
        export_run(fresh("houlsby"), "adapters", tmp_path / "out", python="/no/python")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("width", range(1, 33))
def test_any_width_has_a_reduction_factor(width: int) -> None:
    assert int(32 // adapters._factor(32, width)) == width


def test_the_script(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [str(runs("method=bitfit")), "--to", "merged", "--out", str(out)]
    done = call(*command, command="export")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}\nverified: loaded back with transformers; logits of 16")
    again = call(*command, command="export")
    assert again.returncode == 1
    assert again.stderr.strip() == f"finegrid: {out} exists; remove it or choose another --out"
