"""What a method adds such that it can be switched off: the model then is as without it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Switch:
    """Of an injected module: whether it is on."""

    on = True


def switches(model: nn.Module) -> list[Any]:
    """The modules of a model that can be switched off."""
    return [module for module in model.modules() if isinstance(module, Switch)]


def turn(model: nn.Module, *, on: bool) -> None:
    """Switch all of them on or off."""
    for module in switches(model):
        module.on = on


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Compute without them inside."""
    turn(model, on=False)
    try:
        yield
    finally:
        turn(model, on=True)
