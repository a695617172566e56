"""The hash of a cell: everything that decides its result. Imports nothing heavy.

A sweep computes it before anything runs, a run writes it into its record; both call `cell`.
"""

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from finegrid import __version__
from finegrid.config import MethodConfig, allowed, require_names
from finegrid.errors import one_of, require
from finegrid.runs import settings
from finegrid.runs.record import SCHEMA, cell_hash
from finegrid.storage import paths
from finegrid.tasks.modules.registry import filled_in

SLOTS = "slot_accuracy"
HEAD, LOSS, SEMI = (settings.OLDER[key] for key in ("head.name", "loss.name", "semi.name"))
# Of a config these differ between machines, and its hash must not.
PLACES = ("data.source", "data.root", "model.path", "task.path", "task.train", "task.test")


def cell(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits of a resolved config with what its data and model files hold.

    Files on the hub count by name and revision, since nothing is downloaded to find out. The
    precision counts as asked for: `auto` is another one on another device, the record says which.
    """
    return cell_hash(
        _settings(plain)
        | {"rows": rows(plain["task"], plain["data"]), "weights": weights(plain["model"])}
        | {"schema": SCHEMA, "code": _code(plain["code"])}
        | _code_outside(plain)
    )


def config_hash(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits of a resolved config, but for the places where files lie.

    A record holds it, so that the config beside it can be told from another run's, by any version.
    """
    return cell_hash(_canonical(settings.without(plain, PLACES)))


def _settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    kept = settings.deciding(plain)
    allow = allowed(plain)
    kept["task"] = filled_in(kept["task"], allow=allow)
    if not _chooses(kept["task"]):
        kept["task"].pop("positive", None)
    if (kept.pop("head", None) or {}).get("name", HEAD) != HEAD:  # older versions had one head
        kept["head"] = plain["head"]["name"]
    kept["task"] = _without_slots(kept["task"])
    for group, only in (("loss", LOSS), ("semi", SEMI)):  # older versions had no other
        if (kept.get(group) or {}).get("name", only) == only:
            kept.pop(group, None)
    if kept.get("head") != "pattern":
        kept["task"].pop("pattern", None)
    if kept["model"].get("separator") is None or len(kept["task"]["text"]) < 2:
        kept["model"].pop("separator", None)  # it separates nothing, or is what it always was
    if kept["model"].get("chat_template") == "none":
        kept["model"].pop("chat_template")  # as before there was a choice
    if kept["store"] == "none":  # the scores are those of float32
        kept["store"] = "float32"
    kept["method"] = MethodConfig.of(plain["method"], allow=allow).decisive()
    return {**_canonical(kept), "tuning": plain["trial"] is not None}


def _without_slots(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task as before slots were counted, where they are no part of its headline."""
    names = [name for name in task["metrics"] if name != SLOTS]
    if len(names) < len(task["metrics"]) and task.get("headline") not in names:
        return dict(task)
    shown = {"headline"} if len(names) == 1 < len(task["metrics"]) else set()
    left = {key: value for key, value in task.items() if key not in {"aligner", *shown}}
    return {**left, "metrics": names}


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
    return settings.recorded(plain)


def rows(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Hash of a task's files, or the hub data set's name."""
    if task["path"] == "builtin":
        return _builtin_rows(str(task["name"]))
    if task["path"] == "files":
        files = [Path(task[split]) for split in ("train", "test") if task.get(split)]
        return paths.digest(file for file in files if file.is_file())
    root = data["root"] if data["source"] == "auto" else data["source"]
    if root and (folder := paths.rows(root, task)).is_dir():
        dev = task.get("dev", "validation")
        splits = ("train", *paths.dev_splits(dev))
        return paths.digest(file for split in splits for file in paths.shards(folder, split))
    return f"hub {task['path']}/{task.get('subset', '')}"


def weights(model: Mapping[str, Any]) -> str:
    """Hash of a model's files, or the hub repository's name and revision."""
    folder = Path(paths.model(model["path"]))
    if folder.is_dir():
        return paths.digest(paths.model_files(folder))
    return f"hub {model['path']}@{model['revision']}"


@cache
def _builtin_rows(task: str) -> str:
    return paths.digest(paths.builtin_code(task))


def _code_outside(plain: Mapping[str, Any]) -> dict[str, str]:
    """Hash of the modules of the user's packages that the method and the task come from."""
    allow = allowed(plain)
    targets = MethodConfig.of(plain["method"], allow=allow).targets()
    modules = {target.rpartition(".")[0] for target in targets} | {str(plain["task"].get("kind"))}
    files = [paths.module(name) for name in sorted(modules) if name.partition(".")[0] in allow]
    return {"outside": paths.digest(file for file in files if file)} if files else {}


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
