"""`layers` of any method: in which layers it works, alone and as a member of a composition."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import METHODS, ROOT, composed, tuning_method
from hydra import compose, initialize_config_dir
from test_counts import BERT_BASE, on_meta
from test_export import fresh as restored
from test_identity import cell
from test_methods import encoded_for, fresh, steps

from finegrid.api import naming
from finegrid.config import OWN_LAYERS, MethodConfig, RunConfig, register_resolvers, to_plain
from finegrid.errors import UserError
from finegrid.export import export_run
from finegrid.methods.compose import Compose
from finegrid.methods.houlsby import Houlsby
from finegrid.methods.layernorm import LayerNorm
from finegrid.methods.lora import LoRA
from finegrid.models import surgery
from finegrid.runs import delta
from finegrid.training.components import build_method, check_settings
from finegrid.training.cost import count_parameters
from finegrid.training.module import logits_of

NO_LAYERS = {  # methods that cannot work in one layer, and what they say
    "full": r"changes layers \[0, 2\] too",
    "two_stage": r"changes layers \[0, 2\] too",
    "head": "changes nothing in these layers",
    "lisa": "active_layers=2 must lie in",
    "prompt": "changes nothing in these layers",
}
OWN = [name for name in METHODS if composed(f"method={name}").method.get("layers", 0) != 0]
EVERY = [name for name in METHODS if name not in OWN]


@pytest.mark.parametrize("name", [name for name in EVERY if name not in NO_LAYERS])
def test_a_method_changes_its_layers_alone(name: str) -> None:
    """On a model of three; what lies in none of them is outside the choice."""
    base = fresh()
    tuning_method(f"method={name}", "+method.layers=[1]").tune(base, seed=0)
    touched = [path for path, *_ in surgery.injected(base.model)]
    touched += surgery.trainable(base.model.base_model)
    layers = {part for path in touched for part in path.split(".") if part.isdecimal()}
    assert "1" in layers
    inside = [path for path in touched if ".layer." in f".{path}" or path.startswith("layer.")]
    assert not [path for path in inside if "layer.0." in path or "layer.2." in path]


@pytest.mark.parametrize(("name", "why"), NO_LAYERS.items())
def test_a_method_that_one_layer_does_not_do_for_says_so(name: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        tuning_method(f"method={name}", "+method.layers=[1]").tune(fresh(), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", ["[]", "[3]", "[-4]", "[0.5]", "[a]", "3", "top-4", "true"])
def test_layers_that_the_model_lacks_are_refused_before_it_is_loaded(layers: str) -> None:
    for name in ("lora", "mam"):
        key = "+method.layers" if name == "lora" else "+method.members.prefix.layers"
        config = RunConfig.of(composed(f"method={name}", "model=tiny", f"{key}={layers}"))
        with pytest.raises(UserError, match=r"method\.layers=.* is no choice among") as caught:
            check_settings(config)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lora", "vera", "bitfit_lora", "mam", "layernorm"])
def test_null_layers_leave_a_cell_as_it_was(name: str) -> None:
    assert cell(f"method={name}", "+method.layers=null") == cell(f"method={name}")
    assert cell(f"method={name}", "+method.layers=[0]") != cell(f"method={name}")


def test_where_layers_were_an_option_before_null_is_still_a_part_of_the_hash() -> None:
    for name in OWN:
        method = MethodConfig.of(to_plain(composed(f"method={name}").method))
        assert method.target.split(".")[2] in OWN_LAYERS
        assert "layers" in method.decisive()


@pytest.mark.parametrize("name", ["lora", "houlsby", "prefix", "oft"])
def test_counts_on_bert_base(name: str) -> None:
    """A third of the layers, a third of the numbers."""
    network, sites = on_meta("bert-base")
    with torch.device("meta"):
        tuning_method(f"method={name}", "+method.layers=top-4").apply(network.base_model, sites)
    assert count_parameters(network, sites)["params_delta"] == BERT_BASE[name][0] // 3


def test_a_composition_gives_each_layer_a_method_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "conf/method"
    folder.mkdir(parents=True)
    (folder / "two_groups.yaml").write_text(
        "defaults: [lora@members.lora, houlsby@members.houlsby, _self_]\n"
        "name: two_groups\n"
        "_target_: finegrid.methods.compose.Compose\n"
        "members: {lora: {layers: [0]}, houlsby: {layers: [1]}}\n"
        "recipe: {lr: {default: 1e-3}}\n"
    )
    register_resolvers()
    search = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["method=two_groups", "model=tiny", search])
    config = RunConfig.of(cfg)
    method, _ = check_settings(config)
    base = fresh()
    method.tune(base, seed=0)
    of_layer = {
        path.partition("layer.")[2][0]: name for path, _, name in surgery.injected(base.model)
    }
    assert of_layer == {"0": "lora", "1": "houlsby"}
    _trained_and_loaded_again(base, config.method, tmp_path)


def _trained_and_loaded_again(base: Any, config: MethodConfig, folder: Path) -> None:
    for _ in steps(base, encoded_for("tiny"), method=None):
        pass
    path = folder / "delta.safetensors"
    about = {"method": "m", "fingerprint": base.fingerprint}
    delta.save(path, base.model, labels=[], **about)
    again = fresh(seed=3)
    build_method(config).tune(again, seed=3)
    delta.load(path, again.model, **about)
    batch = encoded_for("tiny").batch(range(4))
    with torch.inference_mode():
        ours, theirs = (logits_of(x.model.eval(), batch) for x in (base, again))
    assert torch.equal(ours, theirs)


def test_members_of_a_restricted_composition_stay_within_its_layers() -> None:
    base = fresh()
    whole = Compose(members={"lora": LoRA(), "norm": LayerNorm(layers=[2])}, layers=[1, 2])
    whole.tune(base, seed=0)
    names = surgery.trainable(base.model.base_model)
    assert {name.split("layer.")[1][0] for name in names if "lora" in name} == {"1", "2"}
    assert {name.split("layer.")[1][0] for name in names if "LayerNorm" in name} == {"2"}
    with pytest.raises(UserError, match=r"method\.layers=\[0\]"):
        Compose(members={"lora": LoRA(layers=[0])}, layers=[1]).tune(fresh(), seed=0)


def test_an_instance_tells_its_layers() -> None:
    config, made = naming.resolved(Houlsby(layers=[0]), {})
    assert config.arguments["layers"] == [0] == made.site_layers
    config, made = naming.resolved("layernorm", {"layers": "top-1"})
    assert config.arguments == {"layers": "top-1"}
    assert made.site_layers == "top-1"
    assert "layers" not in naming.resolved(LoRA(), {})[0].arguments


def test_exports_know_the_layers(tmp_path: Path) -> None:
    for method, target in (("lora", "merged"), ("dora", "peft"), ("houlsby", "adapters")):
        if target == "peft":
            pytest.importorskip("peft")
        export_run(restored(f"{method} +method.layers=[0,2]"), target, tmp_path / target)
    about = json.loads((tmp_path / "adapters/adapter_config.json").read_text(encoding="utf-8"))
    assert about["config"]["leave_out"] == [1]
    with pytest.raises(UserError, match="peft has a prefix of its own in every layer"):
        export_run(restored("prefix +method.layers=[1]"), "peft", tmp_path / "prefix")
