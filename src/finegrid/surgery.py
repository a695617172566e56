"""Primitives on modules: freeze, match, thaw, attach. Methods are written in these words.

`requires_grad` is the single truth for the optimizer, the delta file and the counts.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from finegrid.errors import UserError, nearest

# (site module, its positional inputs, its output) -> the output that the backbone sees instead
Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


class MatchError(UserError, LookupError):
    """A method's pattern matches nothing, so the method would silently train only the head."""


def freeze(module: nn.Module) -> None:
    """Stop every parameter from training."""
    module.requires_grad_(False)


def thaw(parameters: Iterable[nn.Parameter]) -> None:
    """Let parameters train."""
    for parameter in parameters:
        parameter.requires_grad_(True)


def match(module: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """Name -> parameter for every parameter whose dotted name matches a shell pattern.

    Raises:
        MatchError: if none matches, naming the nearest kinds of parameter there are.
    """
    named = dict(module.named_parameters())
    found = {name: value for name, value in named.items() if fnmatchcase(name, pattern)}
    if not found:
        kinds = {".".join(name.split(".")[-2:]) for name in named}
        raise MatchError(
            f"no parameter of {type(module).__name__} matches {pattern!r}; "
            f"{nearest(pattern.strip('*.'), kinds)}"
        )
    return found


def attach(site: nn.Module, name: str, module: nn.Module, hook: Hook) -> None:
    """Inject a child module at a site; the hook replaces the site's output.

    The backbone's own keys stay as they were. Attaching the same name again changes nothing.
    The hook must reach the child through the site it is given, so that copies stay independent.
    """
    if name in dict(site.named_children()):
        return
    site.add_module(name, module)
    site.register_forward_hook(hook)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter for everything that trains; tied parameters appear once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}
