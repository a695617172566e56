"""Paths of what comes with finegrid, of a task's and a model's files; hashes of their contents."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finegrid.errors import require

PACKAGE = Path(__file__).resolve().parents[1]
BUILTIN = PACKAGE / "data/builtin"  # its code and its models
SHIPPED = {"builtin": "tiny", "builtin:tiny_llama": "tiny_llama"}  # path of a model -> its folder
TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.codes")  # settings and vocabulary
AUTO, DEV = "auto", ("test", "validation", "dev")
FETCH = "fetch:"  # how the path of a model begins that `finegrid fetch` makes
MODEL_FILES = ("*.safetensors", *TOKENIZER_FILES)  # weights and architecture too


def _shipped(name: str, *, checkout: str) -> Path:
    """A folder that comes with finegrid: inside the package of a wheel, or in a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parents[1] / checkout


CONF = _shipped("conf", checkout="conf")  # the groups of options
RESULTS = _shipped("results", checkout="docs/results")  # a folder for each published comparison


def published_runs() -> list[Path]:
    """The runs.parquet of each published comparison.

    Raises:
        UserError: if there is none.
    """
    files = sorted(RESULTS.glob("*/runs.parquet"))
    require(bool(files), f"no {RESULTS}/*/runs.parquet: this finegrid comes without results")
    return files


def rows(root: str, task: Mapping[str, Any]) -> Path:
    """The folder of a hub task, named as its subset or, without one, itself.

    It lies below a local root or one folder deeper, such as `glue/mrpc`. `root` may name several
    with `os.pathsep` between. Where there is none it is the place that was looked at first.
    """
    names = [str(name) for name in (task.get("subset"), task["name"]) if name]
    folders = [Path(one, name) for one in root.split(os.pathsep) if one for name in names]
    return next(
        (found for folder in folders for found in _near(folder) if found.is_dir()), folders[0]
    )


def _near(folder: Path) -> Iterator[Path]:
    """A folder, and those of its name one level below where it would lie."""
    yield folder
    yield from sorted(folder.parent.glob(f"*/{folder.name}"))


def dev_splits(dev: str | Iterable[str]) -> tuple[str, ...]:
    """The names of a task's dev splits; of `auto` all that may be it, the likeliest first."""
    names = (dev,) if isinstance(dev, str) else tuple(dev)
    return DEV if names == (AUTO,) else names


def shards(folder: Path, split: str) -> list[Path]:
    """The files of a split in a task's folder: `train-*.parquet`, else `train.*`."""
    return sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}.*"))


def model(path: str) -> str:
    """A builtin folder, a local directory, a copy below $FINEGRID_MODEL_DIR, or the hub id.

    `fetch:NAME` is what `finegrid fetch NAME` makes, and itself before that.
    """
    if path in SHIPPED:
        return str(BUILTIN / SHIPPED[path])
    if path.startswith(FETCH):
        folder = fetched(path.removeprefix(FETCH))
        return str(folder) if folder.is_dir() else path
    if Path(path).is_dir():
        return path
    root = os.environ.get("FINEGRID_MODEL_DIR")
    name = path.rpartition("/")[2].lower()
    if root and Path(root).is_dir():
        for folder in sorted(Path(root).iterdir()):
            if folder.is_dir() and folder.name.lower() == name:
                return str(folder)
    return path


def comes_with_finegrid(path: str) -> bool:
    """Whether only finegrid knows a model's path: a builtin one, or one that it has fetched."""
    return path in SHIPPED or path.startswith(FETCH)


def fetched(name: str) -> Path:
    """Where a fetched model lies: below $FINEGRID_MODEL_DIR, else in the user's cache."""
    root = os.environ.get("FINEGRID_MODEL_DIR")
    return Path(root, name) if root else cache_root() / "models" / name


def cache_root() -> Path:
    """$FINEGRID_CACHE_DIR, else the user's cache.

    Who has no home has no cache either: nothing can be made below `os.devnull`.
    """
    if root := os.environ.get("FINEGRID_CACHE_DIR"):
        return Path(root)
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(user if os.path.isabs(user) else os.devnull, "finegrid")


def model_files(folder: Path) -> list[Path]:
    """The files of a local model that decide what it computes."""
    return _those(folder, MODEL_FILES)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a local model that decide how it tokenises, and a few more."""
    return _those(folder, TOKENIZER_FILES)


def _those(folder: Path, patterns: Iterable[str]) -> list[Path]:
    found = (file for pattern in patterns for file in folder.glob(pattern))
    return sorted(file for file in found if file.is_file())  # no broken link


def code(folder: Path) -> list[Path]:
    """The Python files of a folder, which decide what is made there."""
    return sorted(folder.glob("*.py"))


def builtin_code(task: str) -> list[Path]:
    """The Python files that decide a builtin task's rows: one may have a folder of its own."""
    return [*code(BUILTIN), *code(BUILTIN / task)]


def module(name: str) -> Path | None:
    """The file of a module, found without importing it; None if there is none."""
    top, *inner = name.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent.joinpath(*inner)
    files = (place.with_suffix(".py"), place / "__init__.py") if inner else (Path(spec.origin),)
    return next((file for file in files if file.is_file()), None)


def digest(files: Iterable[Path]) -> str:
    """Hash of the files' names and contents, their folders left out."""
    total = hashlib.sha256()
    for file in files:
        facts = file.stat()
        total.update(f"{file.name} {_content(file, facts.st_size, facts.st_mtime_ns)}".encode())
    return total.hexdigest()[:16]


@cache
def _content(file: Path, size: int, changed: int) -> str:
    """Hash of one file; size and time of change are there to read it once only."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
