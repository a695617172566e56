"""What every layout asks of a restored run: head, base model, what was injected, what trains."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor, nn

from finegrid import backbone, surgery
from finegrid.errors import UserError
from finegrid.inference import Restored

Inputs = dict[str, Tensor]  # input_ids, attention_mask and, where the model has them, token types


class Unfit(UserError):
    """A run that a layout has no place for; says what of the run."""


class Layout(Protocol):
    """Another project's files for one run."""

    def check(self, run: Restored) -> None:
        """Raise `Unfit` for a run without a place in this layout."""

    def write(self, run: Restored, folder: Path) -> None:
        """Write the files into an empty folder; the run's model may be used up by it."""

    def load_back(self, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
        """Logits of what a user gets from the files, and in words how they were loaded."""


def need(condition: bool, message: str) -> None:
    """Raise `Unfit(message)` unless the condition holds."""
    if not condition:
        raise Unfit(message)


def base_prefix(model: Any) -> str:
    """What the names of the encoder's tensors begin with."""
    return f"{model.base_model_prefix}."


def head(model: nn.Module) -> dict[str, Tensor]:
    """The tensors outside the encoder, by name."""
    prefix = base_prefix(model)
    return {
        name: value.contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(prefix)
    }


def injected(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> child of everything that the method injected."""
    return {
        f"{path}.{name}": site.get_submodule(name) for path, site, name in surgery.injected(model)
    }


def trained_in_place(model: nn.Module) -> list[str]:
    """Names of the encoder's own parameters that train."""
    prefix, inside = base_prefix(model), tuple(f"{path}." for path in injected(model))
    return [
        name
        for name in surgery.trainable(model)
        if name.startswith(prefix) and not name.startswith(inside)
    ]


def need_frozen(model: nn.Module) -> None:
    """Refuse a run that trains the encoder's own parameters besides what it injected."""
    for name in trained_in_place(model):
        raise Unfit(f"{name} trains too, and the files have no place for it")


def base_path(run: Restored) -> str:
    """Where the encoder comes from: a hub id, or the folder's full path."""
    found = backbone.locate(run.config.model)
    plain = run.config.model.path
    local = plain == "builtin" or Path(plain).is_dir()
    return str(Path(found).resolve()) if local else plain


def revision(run: Restored) -> str | None:
    """The commit of the encoder's hub repository, if it came from one."""
    return run.record.model_revision or None


def need_plain_base(run: Restored) -> None:
    """Refuse a run whose encoder is not simply what its path holds."""
    model = run.config.model
    need(model.pretrained, "its encoder started from random weights, which no path holds")
    changed = ", ".join(model.config)
    need(not model.config, f"its encoder was changed by model.config ({changed}) when it loaded")


def label_names(run: Restored) -> dict[int, str]:
    """Class names by number; a regression has one output, unnamed."""
    return dict(enumerate(run.task.labels or ["LABEL_0"]))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file for people to read too."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write fp32 tensors as safetensors."""
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
