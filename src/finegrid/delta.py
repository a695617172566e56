"""A run's task-specific weights as one small safetensors file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import nn

from finegrid import surgery
from finegrid.errors import UserError
from finegrid.record import write_atomic

FILE = "delta.safetensors"
FORMAT = "finegrid-1"


def save(
    path: Path, model: nn.Module, *, method: str, fingerprint: str, labels: Sequence[str]
) -> int:
    """Write exactly what trains (delta and head), whole or not at all; returns the file's bytes."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in surgery.trainable(model).items()
    }
    about = {"format": FORMAT, "method": method, "fingerprint": fingerprint}
    content = json.dumps(about | {"labels": list(labels)}, sort_keys=True)
    write_atomic(path, serialise(tensors, metadata={"finegrid": content}))
    return path.stat().st_size


def load(path: Path, model: nn.Module, *, method: str, fingerprint: str) -> None:
    """Load a delta into a model that the same method was applied to.

    Raises:
        UserError: if the delta belongs to another method or backbone, or its tensors are not
            exactly the model's trainable ones.
    """
    with _opened(path) as (about, file):
        _same(path, "method", about["method"], method)
        _same(path, "backbone fingerprint", about["fingerprint"], fingerprint)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = surgery.trainable(model)
    for what, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise UserError(f"{path} {what} {len(names)} tensors, such as {min(names)}")
    with torch.no_grad():
        for name, parameter in expected.items():
            if parameter.shape != tensors[name].shape:
                shapes = f"{tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
                raise UserError(f"{path}: {name} has shape {shapes}")
            parameter.copy_(tensors[name])


def metadata(path: Path) -> dict[str, Any]:
    """A delta file's format, method, backbone fingerprint and class names; reads no tensor."""
    with _opened(path) as (about, _):
        return about


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """(what the header says, the open file); what is not a readable delta is a `UserError`."""
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("finegrid", "{}"))
            if about.get("format") != FORMAT:
                raise UserError(f"{path} is not a finegrid delta")
            yield about, file
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable delta: {error}") from error


def _same(path: Path, what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(f"{path} was trained with {what} {found}, not {wanted}")
