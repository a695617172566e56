"""Refuse a sweep before any job starts, if some of its settings cannot run.

What tells is the shapes of a model with a method's parts in it, so torch is needed: in a process of
its own unless it is loaded, once for each combination of model, task, head and method. One that can
run is remembered on disk, so that a sweep of known ones need not ask.
"""

import hashlib
import json
import logging
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finegrid import __version__
from finegrid.data import preflight
from finegrid.errors import UserError
from finegrid.grid.job import heavy
from finegrid.storage import paths

log = logging.getLogger(__name__)
Plain = Mapping[str, Any]
ASKED = ("model", "task", "head", "method")  # of a config: what a combination is
ELSE = (  # of these: names, places and rates, which rule nothing out
    "name", "recipe", "search", "fuses", "head_lr", "parameters", "path", "subset", "train", "test",
)  # fmt: skip


def check(configs: Sequence[Plain]) -> None:
    """Check a user's own rows, and each combination of model, task, head and method in configs.

    Raises:
        UserError: if some cannot run: which, why and, if others can, how to leave them out.
    """
    preflight.check(configs)
    combinations = {_key(plain): plain for plain in configs}
    unknown = [key for key in combinations if not _place(key).exists()]
    reasons = _reasons([combinations[key] for key in unknown]) if unknown else []
    for key, why in zip(unknown, reasons, strict=True):
        if not why:
            _remember(key)
    bad = {key: why for key, why in zip(unknown, reasons, strict=True) if why}
    if bad:
        fine = [plain for key, plain in combinations.items() if key not in bad]
        raise UserError(_told([(combinations[key], why) for key, why in bad.items()], fine))


def _key(plain: Plain) -> str:
    """A hash of what decides whether a run can begin."""
    model = Path(paths.model(plain["model"]["path"]))
    about = {name: _shortened(plain[name]) for name in ASKED} | {
        "folder": model.is_dir() and [str(model), paths.digest(paths.model_files(model))],
        "rows": plain["data"]["rows"] == 0,
        "trial": plain.get("trial") is not None,
        "checkpointing": plain["trainer"]["gradient_checkpointing"],
        "version": __version__,
    }
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _shortened(node: Any) -> Any:
    return {k: v for k, v in node.items() if k not in ELSE} if isinstance(node, Mapping) else node


def _place(key: str) -> Path:
    return paths.cache_root() / "feasible" / key


def _remember(key: str) -> None:
    try:
        _place(key).parent.mkdir(parents=True, exist_ok=True)
        _place(key).touch()
    except OSError as error:
        log.debug("not remembered: %s", error)


def _reasons(plains: Sequence[Plain]) -> list[str]:
    """Why each of some runs cannot begin; empty where it can, or nobody knows before it tries."""
    if "torch" in sys.modules:
        return list(map(heavy("training.feasible").reason, plains))
    command = [sys.executable, "-m", "finegrid.training.feasible"]
    given = json.dumps(plains, default=str)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    try:
        return [str(why) for why in json.loads(done.stdout)]
    except ValueError:  # killed, for one
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        log.warning("the settings were not checked before the sweep: %s", last)
        return [""] * len(plains)


def _told(bad: Sequence[tuple[Plain, str]], fine: Sequence[Plain]) -> str:
    """A line: which combinations cannot run for which reason, and what of the sweep can."""
    by_reason: dict[str, list[Plain]] = defaultdict(list)
    for plain, why in bad:
        by_reason[why].append(plain)
    every = [plain for plain, _ in bad] + list(fine)
    several = [axis for axis in ASKED if len(_values(axis, every)) > 1]
    named = [axis for axis in ("task", "model", "head", "method") if axis in {*several, "method"}]
    lines = [f"{_named(named, plains)}: {why}" for why, plains in by_reason.items()]
    told = "; ".join(lines)
    if not fine:
        return told
    return f"{told}. Nothing was started; the rest can run without these: {_rest(named, bad, fine)}"


def _rest(named: Sequence[str], bad: Sequence[tuple[Plain, str]], fine: Sequence[Plain]) -> str:
    """What can be asked for instead: the values of one axis that failed nowhere."""
    for axis in reversed(named):
        failed = _values(axis, [plain for plain, _ in bad])
        if good := [value for value in _values(axis, fine) if value not in failed]:
            return f"{axis}={','.join(good)}"
    return "give each its own sweep"


def _named(axes: Sequence[str], plains: Sequence[Plain]) -> str:
    return " ".join(f"{axis}={','.join(_values(axis, plains))}" for axis in axes)


def _values(axis: str, plains: Iterable[Plain]) -> list[str]:
    values = (plain[axis] for plain in plains)
    return list(dict.fromkeys(v if isinstance(v, str) else str(v["name"]) for v in values))
