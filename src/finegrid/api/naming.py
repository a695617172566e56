"""A tuning method and its settings as plain data: by name, of an instance, of a file's header."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from finegrid import methods
from finegrid.config import MethodConfig, to_plain
from finegrid.errors import UserError, nearest, require
from finegrid.methods.base import TuningMethod
from finegrid.methods.compose import Compose
from finegrid.runs import saved_config
from finegrid.storage.paths import CONF
from finegrid.training.components import build_method

SETTINGS, SEED = "settings", "seed"  # keys of a file's header


def resolved(
    method: str | TuningMethod, changes: Mapping[str, Any]
) -> tuple[MethodConfig, TuningMethod]:
    """The settings and a new instance of a method given by name, with changes, or as an instance.

    Raises:
        UserError: for an unknown name or argument, or what is no method.
    """
    if isinstance(method, str):
        config = _changed(_named(method), changes)
        return config, build_method(config)
    what = method.__name__ if isinstance(method, type) else type(method).__name__
    require(
        isinstance(method, TuningMethod),
        f"{what} is no tuning method: pass a name such as 'lora', or an instance, such as LoRA()",
    )
    require(
        not changes,
        f"{', '.join(changes)}: give a method's arguments to its class, {what}(...), or its name",
    )
    return _settings(method), copy.deepcopy(method)  # a model's training changes its method


def header(config: MethodConfig, seed: int) -> dict[str, Any]:
    """What a file's header says of a method beside its name."""
    return {SETTINGS: config.decisive(), SEED: seed}


def of_file(
    path: Path, about: Mapping[str, Any], *, allow: Iterable[str]
) -> tuple[MethodConfig, int]:
    """The settings and the seed of a delta file, by its header or else its run's config.

    Raises:
        UserError: if neither says them, or what they name is not allowed.
    """
    if SETTINGS in about:
        node, seed = about[SETTINGS], about.get(SEED, 0)
    else:
        require(
            (path.parent / saved_config.FILE).exists(),
            f"{path} does not say its method's arguments: it is a run's, and its config "
            f"({saved_config.FILE}) does not lie beside it; give the file in the run's directory",
        )
        cfg = saved_config.config(path.parent)
        node, seed = to_plain(cfg.method), cfg.seed
    good = isinstance(seed, int) and not isinstance(seed, bool)
    require(good, f"{path}: seed={seed!r:.60} must be an integer")
    try:
        config = MethodConfig.of(node, allow=tuple(allow))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return replace(config, name=about["method"]), seed


@cache  # composing takes a fifth of a second
def _named(name: str) -> MethodConfig:
    """A YAML of conf/method, composed."""
    known = methods.names()
    require(name in known, f"method {name!r} is unknown; {nearest(name, known)}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return MethodConfig.of(to_plain(compose(f"method/{name}").method))


def _changed(config: MethodConfig, changes: Mapping[str, Any]) -> MethodConfig:
    """The same method with other arguments."""
    members = ", ".join(config.members or ())
    hint = f"; compose instances instead: Compose(members=...) of {members}" if members else ""
    for key in changes:
        known = (*config.arguments, "layers")
        require(key in known, f"{config.name} takes no {key}; {nearest(key, known)}{hint}")
    return replace(config, arguments=config.arguments | dict(changes))


def _settings(method: TuningMethod) -> MethodConfig:
    """The settings of an instance."""
    kind, arguments = type(method), dict(method.arguments)
    members = None
    if isinstance(method, Compose):
        arguments.pop("members")
        members = {name: _settings(member) for name, member in method.members.items()}
    name = kind.__module__.rpartition(".")[2]
    return MethodConfig(name, f"{kind.__module__}.{kind.__qualname__}", arguments, members)
