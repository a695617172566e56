"""What makes a cell: everything that decides its result, as one hash. Imports nothing heavy.

A sweep computes it before anything runs, a run writes it into its record; both call `cell`.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from finegrid import __version__
from finegrid.config import require_names
from finegrid.data import builtin
from finegrid.errors import one_of, require
from finegrid.runs.record import SCHEMA, cell_hash
from finegrid.storage import paths

# What decides a result. Devices, threads, loggers and the rules of a sweep are not among it.
GROUPS = ("method", "task", "model", "data", "optim", "budget")
VALUES = ("seed", "select", "evaluations", "store", "frozen_dropout")
# Where things lie is replaced by what they hold; the rest describes, or sets speed alone.
VOLATILE = {
    "data": ("source", "root", "eval_batch_size"),
    "model": ("path", "revision", "architecture", "parameters", "head_lr"),
    "task": ("path", "train", "test"),
}
PLACES = {"data": ("source", "root"), "model": ("path",), "task": ("path", "train", "test")}
NOT_ARGUMENTS = ("name", "recipe", "fuses")  # of a method's YAML, for people, optimizer and sweep
METHOD = re.compile(r"finegrid\.methods\.[a-z]\w*\.[A-Za-z]\w*")  # a class in a module, no deeper


def cell(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits of a resolved config with what its data and model files hold.

    Files on the hub count by name and revision, since nothing is downloaded to find out. The
    precision counts as asked for: `auto` is another one on another device, the record says which.
    """
    return cell_hash(
        _settings(plain)
        | {"rows": rows(plain["task"], plain["data"]), "weights": weights(plain["model"])}
        | {"schema": SCHEMA, "code": _code(plain["code"])}
    )


def config_hash(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits of a resolved config, but for the places where files lie.

    A record holds it, so that the config beside it can be told from another run's, by any version.
    """
    kept = {
        name: {key: value for key, value in node.items() if key not in PLACES[name]}
        if name in PLACES
        else node
        for name, node in plain.items()
    }
    return cell_hash(_canonical(kept))


def _settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    groups = {
        group: {key: value for key, value in plain[group].items() if key not in left_out}
        for group in GROUPS
        for left_out in [VOLATILE.get(group, ())]
    }
    if not _chooses(plain["task"]):
        groups["task"].pop("positive", None)
    groups["method"] = {"name": plain["method"]["name"]} | arguments(plain["method"])
    found: dict[str, Any] = _canonical(groups | {name: plain[name] for name in VALUES})
    return found | {
        "precision": plain["trainer"]["precision"],
        "kernels": plain["trainer"].get("kernels", True),  # older runs do not name it
        "tuning": plain["trial"] is not None,
    }


def _chooses(task: Mapping[str, Any]) -> bool:
    """Whether `task.positive` changes a score: there is an F1, not of that class anyway."""
    positive, labels = task.get("positive"), [str(name) for name in task.get("labels") or ()]
    anyway = len(labels) == 2 and labels[1] == str(positive)
    return positive is not None and "f1" in task["metrics"] and not anyway


def _canonical(node: Any) -> Any:
    """The same values with every number a float: 1 and 1.0 make one cell."""
    if isinstance(node, dict):
        return {key: _canonical(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_canonical(value) for value in node]
    return float(node) if isinstance(node, int) and not isinstance(node, bool) else node


def description(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that say what was asked for.

    Raises:
        UserError: if the task, the model or the method has no name that a directory can have.
    """
    return facts(plain) | {"cell": cell(plain)}


def facts(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Those of them that a config tells without any file beside it."""
    require_names(plain)
    (unit, amount), *_ = ((k, v) for k, v in plain["budget"].items() if v is not None)
    return {
        "method": str(plain["method"]["name"]),
        "task": str(plain["task"]["name"]),
        "model": str(plain["model"]["name"]),
        "pretrained": plain["model"]["pretrained"],
        "fraction": float(plain["data"]["fraction"]),
        "budget_unit": unit,
        "budget": float(amount),
        "seed": plain["seed"],
        "protocol": plain["data"]["protocol"],
        "select": plain["select"],
        "frozen_dropout": plain.get("frozen_dropout", True),  # older runs do not name it
        "kernels": plain["trainer"].get("kernels", True),
        "lr": float(plain["optim"]["lr"]),
        "trial": plain.get("trial"),
    }


def arguments(node: Mapping[str, Any], where: str = "method") -> dict[str, Any]:
    """A method's node without what is no argument of its class; a composition's members alike.

    Raises:
        UserError: if it names no class of a module in finegrid.methods, or holds more than plain
            values: `_partial_` and the like, or another object to be made of a class.
    """
    require(isinstance(node, Mapping), f"{where}={node!r:.60} must be a method's settings")
    target = node.get("_target_", "")
    require(
        isinstance(target, str) and METHOD.fullmatch(target) is not None,
        f"{where}._target_={target!r} must be a class in finegrid.methods",
    )
    kept = {key: value for key, value in node.items() if key not in NOT_ARGUMENTS}
    members = kept.pop("members", None)
    other = next(_reserved({k: v for k, v in kept.items() if k != "_target_"}), "")
    require(not other, f"{where} holds {other}: a method's settings are plain values")
    if members is not None:
        require(isinstance(members, Mapping), f"{where}.members={members!r:.60} must name methods")
        kept["members"] = {k: arguments(v, f"{where}.members.{k}") for k, v in members.items()}
    return kept


def _reserved(node: Any) -> Iterator[str]:
    """Keys that mean something to Hydra, at any depth."""
    if isinstance(node, Mapping):
        yield from (str(key) for key in node if str(key).startswith("_"))
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _reserved(value)


def rows(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Hash of a task's files, or the hub data set's name."""
    if task["path"] == "builtin":
        return _builtin_rows()
    if task["path"] == "files":
        files = [Path(task[split]) for split in ("train", "test") if task.get(split)]
        return paths.digest(file for file in files if file.is_file())
    root = data["root"] if data["source"] == "auto" else data["source"]
    folder = Path(root or "", task["subset"])
    if root and folder.is_dir():
        splits = ("train", *task.get("dev", ["validation"]))
        return paths.digest(file for split in splits for file in paths.shards(folder, split))
    return f"hub {task['path']}/{task['subset']}"


def weights(model: Mapping[str, Any]) -> str:
    """Hash of a model's files, or the hub repository's name and revision."""
    folder = Path(paths.model(model["path"], builtin=builtin.MODEL_DIR))
    if folder.is_dir():
        return paths.digest(paths.model_files(folder))
    return f"hub {model['path']}@{model['revision']}"


@cache
def _builtin_rows() -> str:
    return paths.digest(paths.code(builtin.MODEL_DIR.parent))


@cache
def _code(by: str) -> str:
    """The code's version; with `commit` also its commit and the changes since."""
    one_of("code", by, ("version", "commit"))
    if by == "version":
        return __version__
    here = str(Path(__file__).parents[1])
    told = [
        subprocess.run(["git", "-C", here, *words], capture_output=True, text=True)
        for words in (("rev-parse", "HEAD"), ("diff", "HEAD", "--", here))
    ]
    require(told[0].returncode == 0, "code=commit needs the code to be a git checkout")
    return " ".join([__version__, *(answer.stdout for answer in told)])
