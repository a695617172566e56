"""Export to the adapters library: adapter_config.json, adapter.safetensors and the head's files.

That library pins another transformers, so it is asked only where it is installed: in this
environment, or in the one whose interpreter `--python` names. Elsewhere the files are read back
into a copy of our own model.
"""

import copy
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finegrid.errors import UserError
from finegrid.export import layout, load_back
from finegrid.export.layout import Inputs, Unfit, need
from finegrid.export.verify import logits_from
from finegrid.inference import Restored
from finegrid.methods.compacter import KroneckerAdapter, Rule
from finegrid.methods.modules.adapter import ACTIVATIONS, Bottleneck
from finegrid.methods.parallel import ParallelBottleneck, Tap
from finegrid.models import backbone, surgery

VERSION = "adapters.1.3.0"  # whose fields these are
ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "electra")
DOUBLE = {"mh_adapter": True, "output_adapter": True, "original_ln_before": False}
SINGLE = {"mh_adapter": False, "output_adapter": True, "original_ln_before": False}
# what the child is called -> (the library's settings, the types of such children)
KINDS: dict[str, tuple[dict[str, Any], set[type]]] = {
    "houlsby": (DOUBLE, {Bottleneck}),
    "pfeiffer": (SINGLE | {"original_ln_before": True}, {Bottleneck}),
    "parallel": (SINGLE | {"is_parallel": True}, {ParallelBottleneck, Tap}),
    "compacter": (DOUBLE | {"phm_layer": True}, {KroneckerAdapter, Rule}),
}
COMMON = {
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "ln_before": False,
    "ln_after": False,
    "is_parallel": False,
    "scaling": 1.0,
    "use_gating": False,
    "dropout": 0.0,
    "phm_layer": False,
}
PHM = {"phm_rank": 1, "factorized_phm_W": True, "shared_W_phm": False, "learn_phm": True}
PHM |= {"shared_phm_rule": True, "factorized_phm_rule": False, "phm_bias": True}
USAGE = """```python
import adapters  # pip install adapters
import torch
from transformers import {auto_class}, AutoTokenizer

folder = {folder!r}  # wherever these files lie now
model = {auto_class}.from_pretrained({base!r}, {loading})
adapters.init(model)
model.load_adapter(folder, set_active=True, use_safetensors=True)
tokenizer = AutoTokenizer.from_pretrained({base!r})
with torch.inference_mode():
    logits = model.eval()(**{example}).logits
```
"""
PARTS = {"s": "W_left", "t": "W_right", "bias": "b"}  # of a product of Kronecker factors


class Adapters:
    """For houlsby, pfeiffer, parallel and compacter; `python` has the library, if it is given."""

    library = "adapters"

    def __init__(self, python: str | None = None) -> None:
        here = sys.executable if importlib.util.find_spec("adapters") else None
        self.python = python or here

    def check(self, run: Restored) -> None:
        """Refuse what the library's bottlenecks cannot say."""
        layout.need_plain_base(run)
        drawn = backbone.drawn_pooler(run.model)
        need(not drawn, "its pooler was drawn, and the library looks for it in the encoder's files")
        architecture = run.model.config.model_type  # type: ignore[union-attr]
        known = ", ".join(ARCHITECTURES)
        need(architecture in ARCHITECTURES, f"{architecture} is laid out differently than {known}")
        _kind(run.model)
        layout.need_frozen(run.model)

    def write(self, run: Restored, folder: Path) -> None:
        """Write configs and tensors of the adapter and of the head."""
        name, about = _name(run), _about(run)
        config = about | {"name": name, "config": _settings(run.model)}
        layout.write_json(folder / "adapter_config.json", config)
        tensors = {theirs: _folded(ours, x) for ours, theirs, x in _pairs(run.model, name)}
        layout.write_tensors(folder / "adapter.safetensors", tensors)
        numbers = {label: number for number, label in layout.label_names(run).items()}
        head = {"name": None, "config": None, "label2id": numbers, "num_labels": len(numbers)}
        layout.write_json(folder / "head_config.json", about | head)
        layout.write_tensors(folder / "model_head.safetensors", layout.head(run.model))

    def usage(self, run: Restored, folder: Path) -> str:
        """Python that loads the plain encoder and these files with the adapters library."""
        return USAGE.format(
            base=layout.base_path(run),
            auto_class=run.auto_class,
            folder=str(folder.resolve()),
            # transformers 4, which that library pins, has the older name
            loading=layout.loading(run).replace("dtype=", "torch_dtype="),
            example=layout.example(run),
        )

    def load_back(self, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
        """Logits from the library if there is one, else from a copy of our own model."""
        if self.python is not None:
            return _ask_library(self.python, run, folder, inputs)
        how = "read back into our own model, not with the adapters library (see --python)"
        return logits_from(_read_back(run, folder), inputs), how


def _kind(model: nn.Module) -> str:
    """What the children are called, all being of the types that go with it."""
    children = layout.injected(model)
    for path, child in children.items():
        kind = path.rpartition(".")[2]
        _, types = KINDS.get(kind, ({}, set()))
        fits = type(child) in types and kind == next(iter(children)).rpartition(".")[2]
        need(fits, f"the layout has no place for {path} ({type(child).__name__})")
    need(bool(children), "nothing is injected, so there is no adapter to write")
    return next(iter(children)).rpartition(".")[2]


def _settings(model: nn.Module) -> dict[str, Any]:
    """The library's configuration of the bottlenecks."""
    child: Any = next(x for x in layout.injected(model).values() if hasattr(x, "down"))
    kind = _kind(model)
    kronecker = isinstance(child, KroneckerAdapter)
    hidden, width = len(child.up.bias), len(child.down.bias)
    activation = next(k for k, v in ACTIVATIONS.items() if isinstance(child.activation, v))
    settings = COMMON | KINDS[kind][0] | {"non_linearity": activation}
    settings["reduction_factor"] = _factor(hidden, width)
    settings["scaling"] = float(getattr(child, "scaling", 1.0))
    found = {n for path in layout.injected(model) for n in re.findall(r"\.layer\.(\d+)\.", path)}
    count: int = model.config.num_hidden_layers  # type: ignore[union-attr,assignment]
    settings["leave_out"] = [n for n in range(count) if str(n) not in found]
    return settings | (PHM | {"phm_dim": len(child.down.s)} if kronecker else {})


def _factor(hidden: int, width: int) -> float:
    """A factor by which the library, which rounds down, arrives at this width."""
    return hidden // width if hidden % width == 0 else hidden / (width + 0.5)


def _about(run: Restored) -> dict[str, Any]:
    config: Any = run.model.config
    return {
        "hidden_size": config.hidden_size,
        "model_class": type(run.model).__name__,
        "model_name": layout.base_path(run),
        "model_type": config.model_type,
        "version": VERSION,
    }


def _name(run: Restored) -> str:
    """The adapter's name, a part of its tensors' names: the task's."""
    return re.sub(r"\W", "_", run.task.name)


def _pairs(model: nn.Module, name: str) -> list[tuple[str, str, nn.Parameter]]:
    """(our name, the library's, the tensor) of all that trains in the encoder."""
    prefix = layout.base_prefix(model)
    return [
        (ours, _theirs(ours, prefix, name), parameter)
        for ours, parameter in surgery.trainable(model).items()
        if ours.startswith(prefix)
    ]


def _theirs(ours: str, prefix: str, name: str) -> str:
    """The library keeps its bottlenecks at the end of a block, whichever side they work on."""
    if ours.endswith(".compacter.matrices"):  # shared by all layers
        return f"{prefix}shared_parameters.{name}.phm_rule"
    match = re.fullmatch(r"(.*\.layer\.\d+)(\.attention)?\..*\.(down|up)\.(\w+)", ours)
    if match is None:
        raise Unfit(f"the layout has no place for {ours}")
    layer, attention, projection, part = match.groups(default="")
    module = {"down": "adapter_down.0", "up": "adapter_up"}[projection]
    part = PARTS[part] if ".compacter." in ours else part
    return f"{layer}{attention}.output.adapters.{name}.{module}.{part}"


def _folded(ours: str, tensor: Tensor) -> Tensor:
    """The library's factors of rank one have an axis for the rank: n in 1 and n 1 out."""
    if ours.endswith(".s"):
        return tensor[:, :, None]
    return tensor[:, None] if ours.endswith(".t") else tensor


def _read_back(run: Restored, folder: Path) -> nn.Module:
    """A copy of the run's model that knows only what the files say.

    Raises:
        UserError: if they are not readable or lack a tensor.
    """
    model: Any = copy.deepcopy(run.model)
    name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["name"]
    try:
        stored = load_file(folder / "adapter.safetensors")
        head = load_file(folder / "model_head.safetensors")
        with torch.no_grad():
            for _, theirs, parameter in _pairs(model, name):
                parameter.copy_(stored.pop(theirs).view_as(parameter))
            for ours, value in layout.head(model).items():
                value.copy_(head.pop(ours))
    except (KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"the export is not readable: {error}") from error
    left = [*stored, *head]
    need(not left, f"the export holds the unknown {left[:1]}")
    return model  # type: ignore[no-any-return]


def _ask_library(python: str, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
    """Logits that the library gives in another interpreter.

    Raises:
        UserError: with the last line of what went wrong there.
    """
    with tempfile.TemporaryDirectory() as exchange:
        asked, answered = Path(exchange, "inputs.safetensors"), Path(exchange, "out.safetensors")
        layout.write_tensors(asked, inputs)
        base = backbone.locate(run.config.model)
        command: list[str | Path] = [python, load_back.__file__, base, folder, asked, answered]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(f"--python {python} does not run: {error}") from error
        if done.returncode:
            line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"--python {python}: the adapters library failed: {line}")
        version = done.stdout.strip().splitlines()[-1]
        return load_file(answered)["logits"], f"loaded back with {version} by {python}"
