"""A sweep's command line to its cells: composed, checked and named, fast enough for 10,000.

Composing a config takes Hydra about a tenth of a second. Cells that differ in plain values alone
(seed, fraction) share one composition as long as nothing else in the config refers to those values.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from finegrid import identity
from finegrid.config import RECIPE_READS, RunConfig, require

REFERENCE = re.compile(r"\$\{([^{}]*)\}")
NAMED = ("task", "model", "method", "data.fraction", "seed")  # what every directory's name holds
Plain = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its hash, the overrides that make it, and its directory's name."""

    key: str
    overrides: tuple[str, ...]
    name: str  # below the sweep's directory, without the key
    facts: Plain  # the fields of its record that say what was asked for

    @property
    def directory(self) -> str:
        """Directory below the sweep's: named by the axes, told apart by the key."""
        return f"{self.name}-{self.key}"


@dataclass(frozen=True)
class Axis:
    """One override and the values that it takes over the sweep, each as `key=value`."""

    key: str
    choices: tuple[Override, ...]


@dataclass(frozen=True)
class Patch:
    """One value of an axis, and where it goes in a resolved config."""

    override: Override
    path: tuple[str, ...]
    value: Any


Compose = Callable[[Iterable[Override]], DictConfig]


def cells(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> list[Cell]:
    """Every cell that a sweep's parameters and command line ask for, in order, each once.

    Raises:
        UserError: if a cell's config is invalid; Hydra's own errors if it cannot be composed.
    """
    axes = _axes(loader, config, arguments)
    compose = partial(_compose, loader, config)
    patches = _patches(compose, axes, groups=set(loader.list_groups("")))
    swept = [axis.key for axis in axes if len(axis.choices) > 1]
    found: dict[str, Cell] = {}
    for base in itertools.product(*(axis.choices for axis in axes if axis.key not in patches)):
        for plain, overrides in _expanded(compose, base, patches):
            cell = _cell(plain, overrides, swept)
            found.setdefault(cell.key, cell)
    return list(found.values())


def _axes(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> list[Axis]:
    """The sweep's parameters and the command line's, which win."""
    parameters = dict(config.hydra.sweeper.get("params") or {})
    lines = [*(f"{key}={value}" for key, value in parameters.items()), *arguments]
    parser = OverridesParser.create(config_loader=loader)
    last = {item.get_key_element(): item for item in parser.parse_overrides(lines)}
    return [Axis(item.key_or_group, tuple(_choices(item, parser))) for item in last.values()]


def _choices(item: Override, parser: OverridesParser) -> Iterator[Override]:
    if not item.is_sweep_override():
        yield item
        return
    require(item.is_discrete_sweep(), f"{item.input_line}: give values, not an interval")
    texts = [f"{item.get_key_element()}={text}" for text in item.sweep_string_iterator()]
    yield from parser.parse_overrides(texts)


def _patches(compose: Compose, axes: Sequence[Axis], groups: set[str]) -> dict[str, list[Patch]]:
    """For each axis whose values change their own place in the config alone: those values.

    Every value of every axis is composed and checked once here, beside the others' first ones.
    """
    lead = {axis.key: axis.choices[0] for axis in axes}
    start = compose(lead.values())
    patches = {}
    for axis in axes:
        others = [compose((lead | {axis.key: choice}).values()) for choice in axis.choices[1:]]
        plains = [_resolved(config) for config in (start, *others)]
        group = axis.key in groups
        if "/" in axis.key or "@" in axis.key or (group and not _alike(plains, but=axis.key)):
            continue
        if len(axis.choices) > 1 and all(_stands_alone(axis.key, c) for c in (start, *others)):
            values = [p[axis.key] for p in plains] if group else [c.value() for c in axis.choices]
            patches[axis.key] = [
                Patch(choice, tuple(axis.key.split(".")), value)
                for choice, value in zip(axis.choices, values, strict=True)
            ]
    return patches


def _alike(plains: Sequence[Plain], *, but: str) -> bool:
    rest = [{key: value for key, value in plain.items() if key != but} for plain in plains]
    return all(other == rest[0] for other in rest)


def _expanded(
    compose: Compose, base: Sequence[Override], patches: Mapping[str, Sequence[Patch]]
) -> Iterator[tuple[Plain, list[Override]]]:
    """The resolved configs that share a base: composed once, or each where values interact."""
    lead = [choices[0].override for choices in patches.values()]
    start = compose([*base, *lead])
    shared = _resolved(start) if all(_stands_alone(key, start) for key in patches) else None
    for chosen in itertools.product(*patches.values()):
        overrides = [*base, *(patch.override for patch in chosen)]
        plain = _resolved(compose(overrides)) if shared is None else shared
        for patch in chosen if shared is not None else ():
            plain = _with(plain, patch.path, patch.value)
        yield plain, overrides


def _compose(loader: ConfigLoader, config: DictConfig, overrides: Iterable[Override]) -> DictConfig:
    """One composed and checked config, without Hydra's own part."""
    composed = loader.load_sweep_config(config, [str(item.input_line) for item in overrides])
    RunConfig.of(composed)
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _resolved(config: DictConfig) -> Plain:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


def _stands_alone(key: str, config: DictConfig) -> bool:
    """Whether no other value of the config is made from this key."""
    found = {
        name
        for text in _leaves(OmegaConf.to_container(config, resolve=False))
        for name in REFERENCE.findall(text)
    }
    resolvers = {name.partition(":")[0] for name in found if ":" in name} - {"oc.env"}
    read = {name for name in found if ":" not in name}
    if resolvers - {"recipe"} or any(name.startswith(".") for name in read):
        return False
    read |= set(RECIPE_READS) if resolvers else set()
    return not any(_touches(key, name) for name in read)


def _leaves(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _leaves(item)
    elif isinstance(node, str) and "${" in node:
        yield node


def _touches(key: str, name: str) -> bool:
    return f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.")


def _with(plain: Plain, path: Sequence[str], value: Any) -> Plain:
    """A copy of a nested dict with one value set; what is not on the path is shared."""
    changed = copy(plain)
    head, *rest = path
    changed[head] = _with(changed.get(head) or {}, rest, value) if rest else value
    return changed


def _cell(plain: Plain, overrides: Sequence[Override], swept: Sequence[str]) -> Cell:
    facts = identity.description(plain)
    name = f"{facts['task']}/{facts['model']}/{facts['method']}"
    extra = [item for item in overrides if item.key_or_group in set(swept) - set(NAMED)]
    parts = [f"f{facts['fraction']:g}", f"s{facts['seed']}", *map(_label, extra)]
    lines = tuple(str(item.input_line) for item in overrides)
    return Cell(facts["cell"], lines, f"{name}/{'-'.join(parts)}", facts)


def _label(item: Override) -> str:
    """An axis's value in a directory's name, such as `lr0.001`."""
    key = item.key_or_group.rpartition(".")[2].rpartition("/")[2]
    return re.sub(r"[^\w.]+", "_", f"{key}{item.get_value_element_as_str()}").strip("_")
