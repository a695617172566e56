"""A run's task-specific weights as one small safetensors file."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from finegrid import codec, surgery
from finegrid.errors import UserError
from finegrid.record import write_atomic

FILE = "delta.safetensors"
FORMAT = "finegrid-2"
MASKS = "masks"  # the one tensor that holds every mask, coded


@runtime_checkable
class Compact(Protocol):
    """An injected module that stores something smaller than what it trains.

    In eval mode it computes exactly what it stores: boolean tensors go to the file bit by bit,
    entropy-coded where that is smaller, all others as they are.
    """

    def compact(self) -> dict[str, Tensor]:
        """What to store, by names of its own."""

    def expand(self, state: dict[str, Tensor]) -> None:
        """Become the module that `compact` described."""


def state(model: nn.Module) -> dict[str, Tensor]:
    """What makes a model the task's: the compact modules' tensors, else what trains."""
    compacts = _compacts(model)
    found = {name: value.detach() for name, value in _plain(model, compacts).items()}
    for path, module in compacts.items():
        found |= {f"{path}.{key}": value.detach() for key, value in module.compact().items()}
    return found


def bound(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> float:
    """Bytes of a state's numbers in the stored precision, plus the entropy of its masks."""
    total = 0.0
    for value in tensors.values():
        if value.dtype == torch.bool:
            total += codec.entropy_bits(value.numel(), int(value.sum())) / 8
        else:
            total += value.numel() * dtype.itemsize
    return total


def round_to(model: nn.Module, dtype: torch.dtype) -> None:
    """Become the model that a file of this precision would give back."""
    compacts = _compacts(model)
    with torch.no_grad():
        for parameter in _plain(model, compacts).values():
            parameter.copy_(parameter.to(dtype))
        for module in compacts.values():
            stored = module.compact().items()
            module.expand({k: v if v.dtype == torch.bool else v.to(dtype) for k, v in stored})


def save(
    path: Path,
    model: nn.Module,
    *,
    method: str,
    fingerprint: str,
    labels: Sequence[str],
    dtype: torch.dtype = torch.float32,
) -> int:
    """Write exactly what the task needs, whole or not at all; returns the file's bytes."""
    tensors, masks = {}, {}
    for name, value in sorted(state(model).items()):
        if value.dtype == torch.bool:
            masks[name] = value.cpu().numpy()
        else:
            tensors[name] = value.to("cpu", dtype).contiguous()
    if masks:
        tensors[MASKS] = torch.frombuffer(bytearray(codec.encode_all(masks)), dtype=torch.uint8)
    about = {"format": FORMAT, "method": method, "fingerprint": fingerprint}
    text = json.dumps(about | {"labels": list(labels)}, sort_keys=True)
    write_atomic(path, serialise(tensors, metadata={"finegrid": text}))
    return path.stat().st_size


def load(path: Path, model: nn.Module, *, method: str, fingerprint: str) -> None:
    """Load a delta into a model that the same method was applied to.

    Raises:
        UserError: if the delta belongs to another method or backbone, or its tensors are not
            exactly the model's.
    """
    with _opened(path) as (about, file):
        _same(path, "method", about["method"], method)
        _same(path, "backbone fingerprint", about["fingerprint"], fingerprint)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if MASKS in tensors:
        tensors |= _masks(path, tensors.pop(MASKS))
    expected = state(model)
    for what, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise UserError(f"{path} {what} {len(names)} tensors, such as {min(names)}")
    compacts = _compacts(model)
    for module_path, module in compacts.items():
        prefix = f"{module_path}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        module.expand(own)
    with torch.no_grad():
        for name, parameter in _plain(model, compacts).items():
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


def _compacts(model: nn.Module) -> dict[str, Compact]:
    """Path -> every compact module that lies in no other."""
    found: dict[str, Compact] = {}
    for path, module in model.named_modules():
        if isinstance(module, Compact) and not path.startswith(tuple(f"{p}." for p in found)):
            found[path] = module
    return found


def _plain(model: nn.Module, compacts: Iterable[str]) -> dict[str, nn.Parameter]:
    """What trains outside the compact modules."""
    inside = tuple(f"{path}." for path in compacts)
    return {n: p for n, p in surgery.trainable(model).items() if not n.startswith(inside)}


def _masks(path: Path, content: Tensor) -> dict[str, Tensor]:
    try:
        masks = codec.decode_all(content.numpy().tobytes())
    except ValueError as error:
        raise UserError(f"{path} is not a readable delta: {error}") from error
    return {name: torch.from_numpy(mask) for name, mask in masks.items()}
