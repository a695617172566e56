"""What cannot run is refused before a sweep begins, from settings and shapes alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call
from conftest import METHODS, ROOT, composed
from omegaconf import OmegaConf
from safetensors.torch import save_file

from finegrid.errors import UserError
from finegrid.grid import refusals
from finegrid.training.feasible import reason


@pytest.fixture(autouse=True)
def _forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEGRID_CACHE_DIR", str(tmp_path / "cache"))


def plain(*overrides: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
    config.pop("hydra", None)
    return config


def own(tmp_path: Path, **fields: Any) -> str:
    """A folder of a BERT without weights."""
    about = {"model_type": "bert", "hidden_size": 12, "num_hidden_layers": 1, **fields}
    (tmp_path / "config.json").write_text(json.dumps(about), encoding="utf-8")
    return f"model.path={tmp_path}"


REFUSED = {  # settings -> what is said of them
    "generation on an encoder": (("task=e2e_cleaned", "model=tiny"), "needs a causal decoder"),
    "likelihoods on an encoder": (
        ("task=arc_easy", "model=tiny", "task.headline=accuracy_norm"),
        "needs the likelihoods that a decoder gives",
    ),
    "like": (("model.recipes_of=tyni",), "model.recipes_of=tyni is unknown; did you mean 'tiny'"),
    "no biases": (("model=tiny_llama", "method=bitfit"), "has no biases to train"),
    "no such role": (("model=tiny", "method=ia3", "method.roles=[gate]"), "no role 'gate'"),
    "a rank": (("model=tiny", "method=lora", "method.rank=100000"), "method.rank=100000 must lie"),
    "a separator": (("model=tiny", "model.separator=x"), "model.separator is for decoders"),
    "a turn around a prompt": (
        ("task=arc_easy", "model=tiny_llama", "model.chat_template=own"),
        "is for tasks that label a text",
    ),
    "no rows": (("model=tiny", "data.rows=0"), "data.rows=0 scores a model without training"),
    "a model of the hub": (("model=gpt2", "method=supermask", "method.roles=[x]"), "no role 'x'"),
}


@pytest.mark.parametrize(("overrides", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_is_told_by_shapes(overrides: tuple[str, ...], says: str) -> None:
    base = () if overrides[0].startswith("task=") else ("task=builtin_paraphrase",)
    why = reason(plain(*base, *overrides))
    assert says in why
    assert "\n" not in why


def test_weights_without_the_head_that_a_pattern_reads(tmp_path: Path) -> None:
    where = own(tmp_path)
    save_file({"bert.embeddings.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    told = reason(plain("task=builtin_paraphrase", "model=tiny", where, "head=pattern"))
    assert "holds no language-model head" in told


BY_ATTRIBUTE = ("control_prefix", "debias_diff")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_run_on_tiny(method: str) -> None:
    why = reason(plain("task=builtin_paraphrase", "model=tiny", f"method={method}"))
    assert ("name its column" in why) if method in BY_ATTRIBUTE else not why


@pytest.mark.parametrize("method", BY_ATTRIBUTE)
def test_what_needs_an_attribute_can_run_where_there_is_one(method: str) -> None:
    assert not reason(plain("task=builtin_dialect", "model=tiny", f"method={method}"))


def test_a_model_of_which_nothing_is_here_is_left_to_its_run() -> None:
    where = ("model=tiny", "model.path=some/where", "model.architecture={}")
    assert not reason(plain("task=builtin_paraphrase", *where, "method=bitfit"))


def test_one_line_names_what_cannot_run_and_what_can() -> None:
    grid = [
        plain("task=builtin_paraphrase", f"model={model}", f"method={method}", f"seed={seed}")
        for model in ("tiny", "tiny_llama")
        for method in ("full", "bitfit", "lora", "bitfit_lora")
        for seed in (0, 1)
    ]
    with pytest.raises(UserError) as caught:
        refusals.check(grid)
    told = str(caught.value)
    assert told.startswith("model=tiny_llama method=bitfit,bitfit_lora: llama has no biases")
    assert told.endswith("Nothing was started; the rest can run without these: method=full,lora")
    assert "\n" not in told


def test_what_can_run_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = plain("task=builtin_paraphrase", "model=tiny", "method=lora")
    refusals.check([one])
    monkeypatch.setattr(refusals, "_reasons", lambda plains: pytest.fail("asked again"))
    refusals.check([one | {"seed": 3}])


def test_a_process_of_its_own_answers() -> None:
    asked = [
        plain("task=builtin_paraphrase", "model=tiny_llama", f"method={method}")
        for method in ("full", "bitfit")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "finegrid.training.feasible"],
        input=json.dumps(asked), capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    fine, bad = json.loads(done.stdout)
    assert (fine, "no biases" in bad) == ("", True)


def test_a_sweep_and_its_plan_refuse_alike(tmp_path: Path) -> None:
    sweep = ("task=builtin_paraphrase", "model=tiny_llama", "method=full,bitfit")
    where = f"hydra.sweep.dir={tmp_path}/sweep"
    planned = call(*sweep, where, command="plan")
    begun = call("-m", *sweep, where, "hydra/launcher=basic")
    for result in (planned, begun):
        assert result.returncode != 0
        assert "llama has no biases to train" in result.stderr
    assert not list((tmp_path / "sweep").rglob("record.json"))
