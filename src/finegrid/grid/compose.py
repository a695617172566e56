"""The configs of a sweep's cells: each as Hydra would compose it, but few of them composed by it.

Composing a config takes Hydra about a tenth of a second, resolving it a hundredth. So every value
of an axis is composed once, beside the others' first ones. If it changes nothing but its own place
in the config, then the product's configs are put together from such parts, and resolved; and where
no reference names a part of that place's key, cells that differ in it alone share the rest.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from finegrid.config import RunConfig, to_plain
from finegrid.recipes import RECIPE_READS

Plain = dict[str, Any]
Chosen = tuple[Override, ...]  # one value of each axis


@dataclass(frozen=True)
class Axis:
    """One override and the values that it takes over the sweep, each as `key=value`."""

    key: str
    choices: Chosen

    @property
    def path(self) -> tuple[str, ...]:
        """Its place in a config, if it has one."""
        return tuple(self.key.split("."))


class Configs:
    """The resolved config of any combination of the axes' values."""

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        axes: Sequence[Axis],
        *,
        valid: Collection[str] = (),  # keys of axes whose values need no check
    ) -> None:
        self._loader, self._config, self._axes, self._valid = loader, config, axes, valid
        self._groups: set[str] = set()
        self._composed: dict[tuple[str, ...], Plain] = {}
        self._resolved: dict[tuple[str, ...], Plain] = {}
        self._lead = tuple(axis.choices[0] for axis in axes)
        self._values = self._own_values()  # axis -> the values of its choices, by line
        self._alone = self._unnamed()
        last = tuple(axis.choices[-1] for axis in axes)
        if _resolve(self._compose(last)) != self(last):  # values that interact in some other way
            self._values, self._alone = {}, set()
            self._resolved.clear()

    def __call__(self, chosen: Chosen) -> Plain:
        """The resolved config; it shares parts with others and must not be changed."""
        shared = self._replaced(chosen, self._alone)
        lines = _lines(shared)
        if lines not in self._resolved:
            base = self._compose(self._replaced(chosen, self._values))
            mixed = self._values.keys() - self._alone
            self._resolved[lines] = _resolve(self._patched(base, chosen, mixed))
        return self._patched(self._resolved[lines], chosen, self._alone)

    def _replaced(self, chosen: Chosen, axes: Iterable[int]) -> Chosen:
        """The same values with the first one for some axes."""
        leave = set(axes)
        both = enumerate(zip(chosen, self._lead, strict=True))
        return tuple(first if number in leave else own for number, (own, first) in both)

    def _patched(self, plain: Plain, chosen: Chosen, axes: Iterable[int]) -> Plain:
        """A config with the values of some axes in their places, a group's before those in it."""
        for number in sorted(axes, key=lambda number: len(self._axes[number].path)):
            value = self._values[number][str(chosen[number].input_line)]
            plain = _with(plain, self._axes[number].path, value)
        return plain

    def _compose(self, chosen: Chosen) -> Plain:
        """What Hydra composes, checked, unresolved and without Hydra's own part."""
        lines = _lines(chosen)
        if lines not in self._composed:
            composed = self._loader.load_sweep_config(self._config, list(lines))
            RunConfig.of(composed)
            self._groups.update(map(str, composed.hydra.runtime.choices))
            with open_dict(composed):
                del composed["hydra"]
            plain: Any = OmegaConf.to_container(composed, resolve=False)
            self._composed[lines] = plain
        return self._composed[lines]

    def _own_values(self) -> dict[int, dict[str, Any]]:
        """For each axis whose choices change their own place alone: what they put there."""
        swept = [number for number, axis in enumerate(self._axes) if len(axis.choices) > 1]
        found = {number: values for number in swept if (values := self._of_axis(number))}
        if len(found) == len(swept):
            return found
        # what a group's option holds may depend on the choices of the others
        return {n: values for n, values in found.items() if self._axes[n].key not in self._groups}

    def _of_axis(self, number: int) -> dict[str, Any]:
        """What the choices of an axis put in its place, by line; empty if they change others."""
        axis = self._axes[number]
        elsewhere = "/" in axis.key or any(choice.package for choice in axis.choices)
        if elsewhere or not _has(self._compose(self._lead), axis.path):
            return {}
        found = {str(choice.input_line): self._value(number, choice) for choice in axis.choices}
        return {line: value for line, (value,) in found.items()} if all(found.values()) else {}

    def _value(self, number: int, choice: Override) -> list[Any]:
        """What a choice puts in its axis's place, checked; nothing if it changes other places."""
        path, start = self._axes[number].path, self._compose(self._lead)
        group = self._axes[number].key in self._groups
        value = choice.value()
        if not group and _simple(value):
            if self._axes[number].key not in self._valid:
                RunConfig.of(OmegaConf.create(_with(start, path, value)))
            return [value]
        beside = self._compose((*self._lead[:number], choice, *self._lead[number + 1 :]))
        if not _has(beside, path):
            return []
        value = at(beside, path)
        merged = isinstance(value, dict) and not group  # with what another choice may change
        return [] if merged or _with(start, path, value) != beside else [value]

    def _unnamed(self) -> set[int]:
        """The axes that no reference in any config can mean: none has a part of their keys."""
        axes = enumerate(self._axes)
        free = [axis.choices[: 1 if number in self._values else None] for number, axis in axes]
        texts = [t for base in itertools.product(*free) for t in _references(self._compose(base))]
        texts += _references(list(self._values.values()))
        if any("}" not in part for text in texts for part in text.split("${")[1:]):
            return set()  # a name that is put together
        read = " ".join([*texts, *RECIPE_READS])
        return {
            number
            for number, values in self._values.items()
            if not any(part in read for part in self._axes[number].path)
            and not any(_references(values))
        }


def _lines(chosen: Chosen) -> tuple[str, ...]:
    return tuple(str(item.input_line) for item in chosen)


def _resolve(plain: Plain) -> Plain:
    return to_plain(OmegaConf.create(plain))


def _simple(value: Any) -> bool:
    """Whether an override with this value does nothing but put it in its place."""
    if isinstance(value, str):
        return not set(value) & set("$\\?")
    return value is None or isinstance(value, int | float)


def _references(node: Any) -> Iterator[str]:
    """The texts of a config that refer to something."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, str) and "${" in node:
        yield node


def _has(plain: Any, path: Sequence[str]) -> bool:
    head, *rest = path
    if not isinstance(plain, dict) or head not in plain:
        return False
    return not rest or _has(plain[head], rest)


def at(plain: Plain, path: Sequence[str]) -> Any:
    """The value at a place of a config, such as `("optim", "lr")`."""
    head, *rest = path
    return at(plain[head], rest) if rest else plain[head]


def _with(plain: Plain, path: Sequence[str], value: Any) -> Plain:
    """A copy of a nested dict with one value set; what is not on the path is shared."""
    changed = copy(plain)
    head, *rest = path
    changed[head] = _with(changed.get(head) or {}, rest, value) if rest else value
    return changed
