"""What a user may leave out of an override: `epochs=3` is `budget.epochs=3`.

A key without a dot that the config does not have is taken for the end of one that it has. Where
every key is known, nothing is composed to find out.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from finegrid.config import UNITS
from finegrid.errors import UserError, require
from finegrid.grid import own_models
from finegrid.grid.expand import grids
from finegrid.runs.settings import Role, role
from finegrid.runs.text import given_overrides, hydra_value
from finegrid.storage.paths import CONF

BARE = re.compile(r"[A-Za-z_]\w*(?==)")  # a key without a dot, a slash or a sign before it
TOP = re.compile(r"^([a-z]\w*):", re.MULTILINE)  # a key at the top of a YAML file
GROUPS = ("method", "task", "model", "data", "budget", "trainer", "logger", "race")
SHOWN = 8  # options in a message


def completed(given: Sequence[str], *, config_dir: str | Path | None = None) -> list[str]:
    """The overrides in full, in their order; a model of the user's is made known to Hydra.

    Args:
        given: as on a command line, those of a sweep included.
        config_dir: a folder with more options, as Hydra's `--config-dir`.

    Raises:
        UserError: for a key that is none or may be one of several, or a model that is not there.
    """
    places = [CONF, *([Path(config_dir)] if config_dir else [])]
    given = [own_models.known(text, places) for text in given]
    known = top(places)
    short = [text for text in given if (key := BARE.match(text)) and key[0] not in known]
    if not short:
        return given
    rest = [text for text in given if text not in short]
    units = [text for text in short if text.partition("=")[0] in UNITS]
    units += [text for text in rest if units and text.startswith("budget=")]
    require(len(units) < 2, f"{' and '.join(units)} are two budgets; give one of them")
    configs, options = _composed(rest, config_dir)
    keys = [text.partition("=")[0] for text in short]
    names = dict.fromkeys(name for config in configs for name in _leaves(config))
    pairs = ((file.parent.name, key) for file in options for key in keys if has_key(file, key))
    names |= dict.fromkeys(map(".".join, pairs))
    full = {text: _in_full(text, configs, list(names)) for text in short if text not in units}
    full |= {text: _budget(text, configs, rest, config_dir) for text in units}
    return [one for text in given for one in full.get(text, [text])]


def top(places: Iterable[Path]) -> set[str]:
    """The keys at the top of a config: groups of options, and what the main files hold."""
    groups = {entry.name for place in places if place.is_dir() for entry in place.iterdir()}
    files = (CONF / "train.yaml", CONF / "sweep/default.yaml")
    keys = (key for file in files for key in TOP.findall(file.read_text(encoding="utf-8")))
    return {"hydra", *groups, *keys}


def _composed(
    given: Sequence[str], config_dir: str | Path | None
) -> tuple[list[dict[str, Any]], list[Path]]:
    """The config of the first cell of each grid, and the files of the options it sweeps over."""
    more = [f"file://{Path(config_dir).absolute()}"] if config_dir else []
    search = [f"hydra.searchpath={hydra_value(more)}"] if more else []
    with initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", [*given, *search], RunMode.MULTIRUN)
        several = list(grids(loader, config, given_overrides(config.hydra)))
        leads = [[str(axis.choices[0].input_line) for axis in axes] for axes in several]
        configs = [_plain(loader.load_sweep_config(config, lead)) for lead in leads]
    swept = [(axis.key, one.value()) for axes in several for axis in axes for one in axis.choices]
    places = [CONF, *([Path(config_dir)] if config_dir else [])]
    files = [Path(place, key, f"{value}.yaml") for key, value in swept for place in places]
    return configs, [file for file in files if file.parent.name in GROUPS and file.is_file()]


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in plain.items() if key != "hydra"}


def _in_full(text: str, configs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """An override with its key in full."""
    key, _, value = text.partition("=")
    if any(key in config for config in configs):
        return [text]
    ends = [name for name in names if name.rpartition(".")[2] == key]
    if len(ends) > 1:
        ends = [name for name in ends if role(name) not in (Role.SOURCE, Role.NOTE)] or ends
    require(len(ends) < 2, f"{text} may be {' or '.join(f'{name}={value}' for name in ends)}")
    if not ends:
        raise UserError(unknown(key, names, _options(configs[0])))
    return [f"{ends[0]}={value}"]


def _budget(
    text: str, configs: Sequence[dict[str, Any]], rest: Sequence[str], config_dir: str | Path | None
) -> list[str]:
    """The overrides that choose an amount of a unit, and the unit if another is the config's."""
    unit = text.partition("=")[0]
    if all(unit in config["budget"] for config in configs):
        return [f"budget.{text}"]
    chosen = [f"budget={unit}"]
    if any(other.startswith("experiment=") for other in rest):  # which may give its unit's amount
        configs, _ = _composed([*rest, *chosen], config_dir)
        given = dict.fromkeys(key for config in configs for key in config["budget"])
        chosen += [f"~budget.{other}" for other in given if other != unit]
    return [*chosen, f"budget.{text}"]


def _leaves(node: dict[str, Any], within: str = "") -> Iterator[str]:
    """The keys of a config that hold a value, in full."""
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{within}{name}.")
        else:
            yield f"{within}{name}"


def _options(config: dict[str, Any]) -> dict[str, str]:
    """Group -> the option that a config was composed of, where it bears its name."""
    named = (group for group in GROUPS if isinstance(config.get(group), dict))
    return {group: str(config[group].get("name", "")) for group in named}


def unknown(key: str, names: Collection[str], chosen: dict[str, str]) -> str:
    """One line on a key that the config does not have: which options have it, or what is alike.

    Args:
        key: as given, with the group before it or not.
        names: keys in full that the config has.
        chosen: group -> option.
    """
    group, _, last = key.rpartition(".")
    for one in (group,) if group else GROUPS:
        others = [file.stem for file in sorted((CONF / one).glob("*.yaml")) if has_key(file, last)]
        if others and one in chosen:
            listed = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
            return f"{one}={chosen[one]} has no {last}; these have: {one}={listed}"
    tops = {name.partition(".")[0] for name in names}
    full = {name: name for name in names} if group else {name: name for name in tops}
    full |= {} if group else {name.rpartition(".")[2]: name for name in names}
    close = dict.fromkeys(full[name] for name in get_close_matches(key, full, n=3, cutoff=0.6))
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"unknown key {key}; {hint}(available: {', '.join(sorted(names if group else tops))})"


def has_key(file: Path, key: str) -> bool:
    """Whether an option's file gives a key."""
    return key in TOP.findall(file.read_text(encoding="utf-8"))
