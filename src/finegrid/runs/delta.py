"""A run's task-specific weights as one small safetensors file."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from safetensors.torch import save_file
from torch import Tensor, nn

from finegrid.errors import UserError
from finegrid.models import surgery
from finegrid.runs import layout, mask_codec
from finegrid.storage.files import flush, whole

FILE = layout.DELTA
FORMAT = "finegrid-2"
MASKS = "masks"  # the one tensor that holds every mask, coded
VALUES = "attribute_values"  # key of the header: what `task.attribute` said of training rows


@runtime_checkable
class DeltaModule(Protocol):
    """An injected module that stores something smaller than what it trains.

    In eval mode its output is exactly that of the stored tensors: boolean tensors are stored bit
    by bit, entropy-coded where that is smaller, all others as they are. Beside a boolean one, of
    which there is one at most, the others have as many rows as it marks.
    """

    def to_delta(self) -> dict[str, Tensor]:
        """Name -> tensor to store; names are unique within the module."""

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load the tensors that `to_delta` returned."""


def state(model: nn.Module) -> dict[str, Tensor]:
    """What makes a model the task's: the delta modules' tensors, else what trains."""
    modules = _delta_modules(model)
    found = {name: value.detach() for name, value in _plain(model, modules).items()}
    for path, module in modules.items():
        found |= {f"{path}.{key}": value.detach() for key, value in module.to_delta().items()}
    return found


def bound(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> float:
    """Bytes of a state's numbers in the stored precision, plus the entropy of its masks."""
    total = 0.0
    for value in tensors.values():
        if value.dtype == torch.bool:
            total += mask_codec.entropy_bits(value.numel(), int(value.sum())) / 8
        else:
            total += value.numel() * dtype.itemsize
    return total


def round_to(model: nn.Module, dtype: torch.dtype) -> None:
    """Become the model that a file of this precision would give back."""
    modules = _delta_modules(model)
    with torch.no_grad():
        for parameter in _plain(model, modules).values():
            parameter.copy_(parameter.to(dtype))
        for module in modules.values():
            stored = module.to_delta().items()
            module.from_delta({k: v if v.dtype == torch.bool else v.to(dtype) for k, v in stored})


def save(
    path: Path | None,
    model: nn.Module,
    *,
    method: str,
    fingerprint: str,
    labels: Sequence[str],
    dtype: torch.dtype = torch.float32,
    more: Mapping[str, Any] | None = None,
) -> int:
    """Write exactly what the task needs, whole or not at all; returns the file's bytes.

    `more` is plain data for the header, of a file that no run's config lies beside.
    Without a path nothing is written, and the bytes are those that the file would have.
    """
    tensors, masks = {}, {}
    for name, value in sorted(state(model).items()):
        if value.dtype == torch.bool:
            masks[name] = value.cpu().numpy()
        else:
            tensors[name] = value.to("cpu", dtype).contiguous()
    if masks:
        tensors[MASKS] = torch.frombuffer(
            bytearray(mask_codec.encode_all(masks)), dtype=torch.uint8
        )
    about = {"format": FORMAT, "method": method, "fingerprint": fingerprint}
    text = json.dumps({**(more or {}), **about, "labels": list(labels)}, sort_keys=True)
    if path is None:
        return len(serialise(tensors, metadata={"finegrid": text}))
    with whole(path) as draft:
        save_file(tensors, draft, metadata={"finegrid": text})  # without a copy of what it writes
        flush(draft)
    return path.stat().st_size


def digest(path: Path) -> str:
    """The sha256 of a file, as its record holds it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> None:
    """Refuse a file that is not the one its record was written with.

    Raises:
        UserError: if a bit of it differs, or it cannot be read.
    """
    try:
        found = digest(path)
    except OSError as error:
        raise UserError(f"{path} is not a readable delta: {error.strerror}") from error
    if found != expected:
        raise UserError(
            f"{path} is not what its run wrote: damaged, or of another run; copy it anew"
        )


def load(
    path: Path,
    model: nn.Module,
    *,
    method: str,
    fingerprint: str,
    recall: Callable[[Collection[str]], None] | None = None,
) -> None:
    """Load a delta into a model that the same method was applied to.

    `recall` is first told the names of the tensors, below the base model, of a method that may have
    chosen among them.

    Raises:
        UserError: if the delta belongs to another method or backbone, or its tensors are not
            exactly the model's, of finite numbers.
    """
    with _opened(path) as (about, file):
        _same(path, "method", about["method"], method)
        _same(path, "backbone fingerprint", about["fingerprint"], fingerprint)
        names = set(file.keys())
        _numbers(path, {name: file.get_slice(name).get_dtype() for name in names - {MASKS}})
        tensors = {name: file.get_tensor(name) for name in names}
    if recall is not None:
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        recall({name.removeprefix(prefix) for name in names if name.startswith(prefix)})
    expected = state(model)
    if MASKS in tensors:
        most = sum(value.numel() for value in expected.values() if value.dtype == torch.bool)
        tensors |= _masks(path, tensors.pop(MASKS), most)
    for what, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise UserError(f"{path} {what} {len(names)} tensors, such as {min(names)}")
    for name, value in tensors.items():
        if (value.dtype == torch.bool) != (expected[name].dtype == torch.bool):
            raise UserError(f"{path}: {name} holds {value.dtype}, not {expected[name].dtype}")
        if not value.isfinite().all():
            raise UserError(f"{path}: {name} holds numbers that are not finite")
    _fill(path, model, tensors)


def _numbers(path: Path, found: dict[str, str]) -> None:
    """Refuse what no delta is stored as, such as whole numbers."""
    for name, dtype in sorted(found.items()):
        if dtype not in ("F32", "BF16"):
            raise UserError(f"{path}: {name} holds {dtype}, not float32 or bfloat16")


def _fill(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give each delta module its tensors, and each parameter outside them its own."""
    modules = _delta_modules(model)
    for module_path, module in modules.items():
        prefix = f"{module_path}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        shapes = {name: value.shape for name, value in module.to_delta().items()}
        marked = [int(value.sum()) for value in own.values() if value.dtype == torch.bool]
        for name, value in own.items():  # a mask's shape is fixed, rows are as many as it marks
            counts = marked if value.dtype != torch.bool else []
            _fits(path, f"{prefix}{name}", value, [*counts, *shapes[name][len(counts) :]])
        module.from_delta(own)
    with torch.no_grad():
        for name, parameter in _plain(model, modules).items():
            _fits(path, name, tensors[name], parameter.shape)
            parameter.copy_(tensors[name])


def _fits(path: Path, name: str, value: Tensor, shape: Sequence[int]) -> None:
    if tuple(value.shape) != tuple(shape):
        raise UserError(f"{path}: {name} has shape {tuple(value.shape)}, not {tuple(shape)}")


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
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise UserError(f"{path} is not a finegrid delta")
            texts = [about.get("method"), about.get("fingerprint"), *(about.get("labels") or ())]
            texts += about.get(VALUES) or []
            if not all(isinstance(text, str) for text in texts) or "labels" not in about:
                raise ValueError("its header does not say method, backbone and labels")
            yield about, file
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable delta: {error}") from error


def _same(path: Path, what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(f"{path} was trained with {what} {found}, not {wanted}")


def _delta_modules(model: nn.Module) -> dict[str, DeltaModule]:
    """Path -> every delta module that lies in no other."""
    found: dict[str, DeltaModule] = {}
    for path, module in model.named_modules():
        if isinstance(module, DeltaModule) and not path.startswith(tuple(f"{p}." for p in found)):
            found[path] = module
    return found


def _plain(model: nn.Module, modules: Iterable[str]) -> dict[str, nn.Parameter]:
    """What trains outside the delta modules."""
    inside = tuple(f"{path}." for path in modules)
    return {n: p for n, p in surgery.trainable(model).items() if not n.startswith(inside)}


def _masks(path: Path, content: Tensor, most: int) -> dict[str, Tensor]:
    """The masks of a file, of at most so many entries together."""
    try:
        if content.dtype != torch.uint8:
            raise ValueError(f"its masks are {content.dtype}, not bytes")
        masks = mask_codec.decode_all(content.numpy().tobytes(), most)
    except ValueError as error:
        raise UserError(f"{path} is not a readable delta: {error}") from error
    return {name: torch.from_numpy(mask) for name, mask in masks.items()}
