"""Our methods compute what the reference libraries compute: same weights, same numbers.

The adapters library cannot be installed beside our transformers; what it computes is recorded in
tests/golden by scripts/make_golden.py. The peft library runs here, if it is installed. In both
cases every tensor that it trains in the backbone has its counterpart in ours and the other way
round, drawn at random, and logits and gradients agree.
"""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import ROOT, tuning_method
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from finegrid.methods.loreft import Subspace
from finegrid.models import surgery
from finegrid.models.sites import Sites

Tensors = dict[str, Tensor]


def read(name: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """A golden file: its tensors by group, and the configuration that it was made with."""
    groups: dict[str, Tensors] = {}
    with safe_open(ROOT / f"tests/golden/{name}.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            group, _, rest = key.partition("/")
            groups.setdefault(group, {})[rest] = file.get_tensor(key)
        return groups, json.loads(file.metadata()["about"])["config"]


def plain() -> tuple[PreTrainedModel, Tensors]:
    """The golden backbone, frozen and without dropout, and a batch with labels and padding."""
    groups, architecture = read("backbone")
    config = AutoConfig.for_model("bert", **architecture)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.load_state_dict(groups["model"])
    surgery.freeze(model.base_model)
    return model, groups["input"]


def tuned(model: PreTrainedModel, *overrides: str) -> dict[str, nn.Parameter]:
    """Apply a method as its YAML says; what it trains, by name in the whole model."""
    tuning_method(*overrides).apply(model.base_model, Sites.of(model))
    prefix = model.base_model_prefix
    return {f"{prefix}.{name}": p for name, p in surgery.trainable(model.base_model).items()}


def compare(
    ours: PreTrainedModel, batch: Tensors, gradients: Callable[[str], Tensor], logits: Tensor
) -> None:
    """Forward and backward with ours; logits and the gradient of all that trains must agree."""
    output = ours(**batch)
    output.loss.backward()
    close(output.logits, logits, "logits")
    for name, parameter in surgery.trainable(ours.base_model).items():
        assert parameter.grad is not None, name
        close(parameter.grad, gradients(f"{ours.base_model_prefix}.{name}"), name)


def close(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Equal up to what the order of sums does to fp32."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=lambda text: f"{name}: {text}")


# --- adapters ------------------------------------------------------------------------------------

ADAPTERS = {
    "double_seq_bn": "houlsby",
    "seq_bn": "pfeiffer",
    "par_bn": "parallel",
    "compacter": "compacter",
}
PHM = {"s": "W_left", "t": "W_right", "bias": "b"}  # a Compacter's own parts


def in_adapters(name: str) -> str:
    """The adapters library's name for one of our tensors; it puts them all at a block's end."""
    if name == "bert.compacter.matrices":  # shared by all layers
        return "bert.shared_parameters.golden.phm_rule"
    found = re.fullmatch(r"bert\.encoder\.layer\.(\d+)(\.attention)?\..*\.(down|up)\.(\w+)", name)
    assert found, name
    layer, attention, projection, part = found.groups(default="")
    module = {"down": "adapter_down.0", "up": "adapter_up"}[projection]
    part = PHM[part] if ".compacter." in name else part
    return f"bert.encoder.layer.{layer}{attention}.output.adapters.golden.{module}.{part}"


def golden(name: str, theirs: Tensors) -> Tensor:
    """Theirs in our layout; their factors of rank one have an axis for the rank."""
    value = theirs[in_adapters(name)]
    return value.flatten(1) if name.endswith((".s", ".t")) else value


@pytest.mark.parametrize(("theirs", "ours"), ADAPTERS.items(), ids=ADAPTERS)
def test_adapters_library(theirs: str, ours: str) -> None:
    groups, config = read(theirs)
    model, batch = plain()
    with torch.no_grad():
        close(model(**batch).logits, groups["output"]["logits_before"], "backbone")
    factor = f"method.reduction_factor={config['reduction_factor']}"
    parameters = tuned(model, f"method={ours}", factor)
    assert sorted(map(in_adapters, parameters)) == sorted(groups["adapter"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(golden(name, groups["adapter"]))
    gradients = groups["gradient"]
    compare(model, batch, lambda name: golden(name, gradients), groups["output"]["logits"])


REFT = {"basis": "projection.weight", "target.weight": "learned_source.weight"}
REFT |= {"target.bias": "learned_source.bias"}


def in_reft(name: str) -> str:
    """The adapters library's name of a part of an intervention."""
    layer, _, rest = name.partition(".loreft.units.")
    number, _, part = rest.partition(".")
    return f"{layer}.reft_layer.refts.golden.units.{number}.{REFT[part]}"


def test_loreft_of_the_adapters_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """First and last tokens, each end with an intervention; R's gradient is that of R itself."""
    groups, config = read("loreft")
    model, batch = plain()
    ends = (
        f"method.first={config['prefix_positions']}",
        f"method.last={config['suffix_positions']}",
    )
    parameters = tuned(
        model, "method=loreft", f"method.rank={config['r']}", *ends, "method.tied=false"
    )
    assert sorted(map(in_reft, parameters)) == sorted(groups["adapter"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(groups["adapter"][in_reft(name)])
    rotations: dict[int, Tensor] = {}
    plainly = Subspace.rotation

    def kept(unit: Subspace) -> Tensor:
        rotation = plainly(unit)
        rotation.retain_grad()
        rotations[id(unit.basis)] = rotation
        return rotation

    monkeypatch.setattr(Subspace, "rotation", kept)
    output = model(**batch)
    output.loss.backward()
    close(output.logits, groups["output"]["logits"], "logits")
    for name, parameter in parameters.items():
        value = rotations.get(id(parameter), parameter)
        assert value.grad is not None, name
        close(value.grad, groups["gradient"][in_reft(name)], name)


# --- peft ----------------------------------------------------------------------------------------


LENGTH = 3  # of a prefix, of a prompt
FEED_FORWARD = r".*layer\.\d+\.output\.dense"  # not the attention's output.dense

Find = Callable[[str, Tensors], Tensor]


@dataclass(frozen=True)
class Twin:
    """One of our methods and the peft configuration that means the same."""

    ours: tuple[str, ...]
    theirs: dict[str, Any]
    find: Find  # (our name, peft's tensors by name) -> the one that is ours, in our layout
    positions: Tensor | None = None  # for peft's forward alone


def lora(name: str, theirs: Tensors) -> Tensor:
    """Both keep two matrices at the Linear."""
    site, _, part = name.partition(".lora.")
    return theirs[f"base_model.model.{site}.lora_{part.upper()}.default.weight"]


def ia3(name: str, theirs: Tensors) -> Tensor:
    """peft's vector is a column after a Linear and a row before it."""
    site, _, _ = name.partition(".ia3.")
    return theirs[f"base_model.model.{site}.ia3_l.default"].flatten()


def layernorm(name: str, theirs: Tensors) -> Tensor:
    """peft keeps a tuned copy of each norm below the norm."""
    norm, _, part = name.rpartition(".")
    return theirs[f"base_model.model.{norm}.ln_tuning_layers.default.{part}"]


def prefix(name: str, theirs: Tensors) -> Tensor:
    """peft keeps one row for each position: key and value of layer 0, of layer 1, and so on."""
    found = re.fullmatch(r".*layer\.(\d+)\..*\.prefix\.(key|value)", name)
    assert found, name
    layer, part = int(found[1]), ("key", "value").index(found[2])
    rows = theirs["prompt_encoder.default.embedding.weight"]
    return rows.view(LENGTH, -1, 2, 32)[:, layer, part]


def prompt(name: str, theirs: Tensors) -> Tensor:
    """Both keep one vector for each position."""
    assert name.endswith(".prompt.vectors")
    return theirs["prompt_encoder.default.embedding.weight"]


TWINS = {
    "lora": Twin(
        ("method=lora", "method.rank=4", "method.alpha=12"),
        {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["query", "value"]},
        lora,
    ),
    "ia3": Twin(
        ("method=ia3",),
        {
            "peft_type": "IA3",
            "target_modules": rf"(.*\.(key|value)|{FEED_FORWARD})",
            "feedforward_modules": FEED_FORWARD,
        },
        ia3,
    ),
    "layernorm": Twin(
        ("method=layernorm",),
        {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]},
        layernorm,
    ),
    # peft counts a prefix as positions, so that the text starts at position 3; we do not
    "prefix": Twin(
        ("method=prefix", f"method.length={LENGTH}"),
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": LENGTH},
        prefix,
        positions=torch.arange(9).expand(2, -1) - LENGTH,
    ),
    "prompt": Twin(
        ("method=prompt", f"method.length={LENGTH}", "method.place=front"),
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": LENGTH},
        prompt,
    ),
}


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft says so of every LayerNorm
@pytest.mark.parametrize("name", TWINS)
def test_peft_library(name: str) -> None:
    peft = pytest.importorskip("peft")
    twin = TWINS[name]
    model, batch = plain()
    config = peft.get_peft_config(twin.theirs | {"task_type": "SEQ_CLS"})
    torch.manual_seed(0)  # for peft's own start and the noise on it
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    trained = {
        key: parameter
        for key, parameter in theirs.named_parameters()
        if parameter.requires_grad and ".classifier." not in key
    }
    parameters = tuned(model, *twin.ours)
    assert count(parameters) == count(trained)
    with torch.no_grad():
        for value in trained.values():
            value += torch.randn_like(value) * 0.2
        for key, value in parameters.items():
            value.copy_(twin.find(key, trained))
    output = theirs(**batch, position_ids=twin.positions)
    output.loss.backward()
    gradients = {key: value.grad for key, value in trained.items()}
    compare(model, batch, lambda key: twin.find(key, gradients), output.logits)


def count(parameters: dict[str, nn.Parameter]) -> int:
    """How many numbers train."""
    return sum(value.numel() for value in parameters.values())
