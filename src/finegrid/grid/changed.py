"""Cells of a sweep with other values, such as the trials of a search."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from finegrid.grid.compose import Axis, Configs, at
from finegrid.grid.expand import NAMED, Cell, composed
from finegrid.runs.text import hydra_value

Choices = dict[str, Any]  # a value as Hydra writes it -> the override that chooses it


class Changed:
    """Cells of one grid with other values for some settings, composed as the sweep's own are."""

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        axes: Sequence[Axis],
        *,
        cells: Sequence[Cell],
        values: Mapping[str, Sequence[Any]],
        unnamed: Collection[str] = (),
    ) -> None:
        """Prepare for all combinations of the cells' values with others.

        Args:
            loader: Hydra's.
            config: the sweep's.
            axes: of the grid that the cells are of.
            cells: those that may be changed.
            values: setting -> each value that it may get, which must be valid.
            unnamed: settings that a directory is not named by.
        """
        parser = OverridesParser.create(config_loader=loader)
        used = {line for cell in cells for line in cell.overrides}
        given = {axis.key for axis in axes}
        self._new: dict[str, Choices] = {}
        for key, few in values.items():
            own = [] if key in given else [at(cell.config, key.split(".")) for cell in cells]
            texts = dict.fromkeys(map(hydra_value, [*own, *few]))
            choices = parser.parse_overrides([f"{key}={text}" for text in texts])
            self._new[key] = dict(zip(texts, choices, strict=True))
        self._axes = [self._extended(axis, used) for axis in axes]
        self._more = [
            Axis(k, tuple(few.values())) for k, few in self._new.items() if k not in given
        ]
        self._configs = Configs(loader, config, [*self._axes, *self._more], valid=set(values))
        every = [*self._axes, *self._more]
        swept = {axis.key for axis in every if len(axis.choices) > 1}
        self._extra = swept - {*NAMED, *unnamed}

    def __call__(self, cell: Cell, changes: Mapping[str, Any]) -> Cell:
        """The cell with other values; what is not changed stays as it is."""
        texts = {key: hydra_value(value) for key, value in changes.items()}
        lines = set(cell.overrides)
        told = [
            self._new[axis.key][texts[axis.key]] if axis.key in texts else _of(axis, lines)
            for axis in self._axes
        ]
        beside = [
            self._new[axis.key][texts.get(axis.key) or hydra_value(at(cell.config, axis.path))]
            for axis in self._more
        ]
        plain = self._configs((*told, *beside))
        told += [one for one in beside if one.key_or_group in texts]
        return composed(plain, told, extra=self._extra)

    def _extended(self, axis: Axis, used: set[str]) -> Axis:
        """An axis with those of its values that some cell has, and its new ones."""
        own = (one for one in axis.choices if str(one.input_line) in used)
        return Axis(axis.key, (*own, *self._new.get(axis.key, {}).values()))


def _of(axis: Axis, lines: set[str]) -> Any:
    """The value of an axis that a cell has."""
    return next(choice for choice in axis.choices if str(choice.input_line) in lines)
