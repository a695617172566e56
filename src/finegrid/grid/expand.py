"""Expand a sweep's command line into its cells: composed, checked, hashed and named."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from finegrid.errors import require, slug
from finegrid.grid.compose import Axis, Configs
from finegrid.runs import identity, layout

LABEL = 60  # bytes of an axis's part of a directory's name
NAMED = ("task", "model", "method", "data.fraction", "seed")  # what every directory's name holds


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its hash, the overrides that make it, and its directory's name."""

    key: str
    overrides: tuple[str, ...]
    name: str  # below the sweep's directory, without the key
    facts: dict[str, Any]  # the fields of its record that say what was asked for
    config: dict[str, Any]  # resolved; it shares parts with others' and must not be changed

    @property
    def directory(self) -> str:
        """Directory below the sweep's: named by the axes, told apart by the key."""
        return layout.with_cell(self.name, self.key)


def cells(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> list[Cell]:
    """Every cell that a sweep's parameters and command line ask for, in order, each once.

    Raises:
        UserError: if a cell's config is invalid; Hydra's own errors if it cannot be composed.
    """
    found: dict[str, Cell] = {}
    for axes in grids(loader, config, arguments):
        configs = Configs(loader, config, axes)
        swept = {axis.key for axis in axes if len(axis.choices) > 1}
        for chosen in itertools.product(*(axis.choices for axis in axes)):
            cell = composed(configs(chosen), chosen, extra=swept - set(NAMED))
            found.setdefault(cell.key, cell)
    return list(found.values())


def grids(
    loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]
) -> Iterator[list[Axis]]:
    """The axes of each grid that the sweep runs: most sweeps have one.

    The command line wins over the parameters, in every grid. But where grids choose a group's
    options themselves (`method: full`, `method: layers`), an argument for a value in the group
    (`method.layers=top-1`) is for the grids that name it, and an argument that chooses the option
    (`method=lora`) takes the place of such values.
    """
    sweeper = config.hydra.sweeper
    common, grids = dict(sweeper.get("params") or {}), list(sweeper.get("grids") or [{}])
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(list(arguments))
    chosen = {str(item.key_or_group) for item in given}
    named = {str(key) for grid in grids for key in grid}
    for grid in grids:
        parameters = {k: v for k, v in (common | dict(grid)).items() if _group(k) not in chosen}
        lines = (f"{k}={'null' if v is None else v}" for k, v in parameters.items())
        own = parser.parse_overrides(list(lines))
        wanted = [
            item
            for item in given
            if (key := str(item.key_or_group)) in grid
            or key not in named
            or _group(key) not in named - chosen
        ]
        last = {item.get_key_element(): item for item in (*own, *wanted)}
        yield [Axis(item.key_or_group, tuple(_choices(item, parser))) for item in last.values()]


def _group(key: str) -> str:
    """`method` of `method.layers`; nothing of a key without a dot."""
    return key.rpartition(".")[0].partition(".")[0]


def _choices(item: Override, parser: OverridesParser) -> Iterator[Override]:
    if not item.is_sweep_override():
        yield item
        return
    require(item.is_discrete_sweep(), f"{item.input_line}: give values, not an interval")
    texts = [f"{item.get_key_element()}={text}" for text in item.sweep_string_iterator()]
    require(bool(texts), f"{item.input_line}: names no value")
    yield from parser.parse_overrides(texts)


def composed(plain: dict[str, Any], overrides: Sequence[Override], *, extra: set[str]) -> Cell:
    """A cell of its resolved config; `extra` names the axes that its directory is named by."""
    facts = identity.description(plain)
    labels = (_label(item) for item in overrides if item.key_or_group in extra)
    lines = tuple(str(item.input_line) for item in overrides)
    return Cell(facts["cell"], lines, layout.run_name(facts, labels), facts, plain)


def _label(item: Override) -> str:
    """An axis's value in a directory's name, such as `lr0.001`."""
    key = item.key_or_group.rpartition(".")[2].rpartition("/")[2]
    value = re.sub(r"[^\w.]+", "_", f"{key}{item.get_value_element_as_str()}").strip("_")
    return slug(value, LABEL)
