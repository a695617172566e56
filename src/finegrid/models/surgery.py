"""Model surgery: freeze and unfreeze parameters, inject modules at sites, merge them again.

Tuning methods are written in these functions. `requires_grad` alone decides what the optimizer
gets, what a checkpoint holds and what is counted. What a method adds to a site is a child module
of that site, called through hooks or a property, so the backbone's state-dict keys stay as they
were (torch's `parametrize` would rename them); `injected` lists everything that was added.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.errors import UserError, nearest

# (site module, its positional inputs, its output) -> the output that the backbone sees instead
Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]
# (site module, its positional inputs) -> the input that the site sees instead
InputHook = Callable[[nn.Module, tuple[Any, ...]], Any]
# (site module, its positional inputs, its named ones) -> both as the site sees them instead
NamedHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]

# what `track_ownership` collects, if it is active
_owned: ContextVar[set[tuple[int, str]] | None] = ContextVar("owned", default=None)


class MatchError(UserError, LookupError):
    """A method's pattern matches nothing, so the method would silently train only the head."""


def freeze(module: nn.Module) -> None:
    """Stop every parameter from training."""
    module.requires_grad_(False)


def unfreeze(parameters: Iterable[nn.Parameter]) -> None:
    """Let parameters train."""
    for parameter in parameters:
        _record_owner((id(parameter), ""))
        parameter.requires_grad_(True)


def match(module: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """Name -> parameter for every parameter whose dotted name matches a shell pattern.

    Raises:
        MatchError: if none matches, naming the nearest kinds of parameter there are.
    """
    named = dict(module.named_parameters())
    matched = {name: value for name, value in named.items() if fnmatchcase(name, pattern)}
    if not matched:
        kinds = {".".join(name.split(".")[-2:]) for name in named}
        raise MatchError(
            f"no parameter of {type(module).__name__} matches {pattern!r}; "
            f"{nearest(pattern.strip('*.'), kinds)}"
        )
    return matched


def add_child(site: Any, name: str, module: nn.Module, tensor: str | None = None) -> bool:
    """Add a child module to a site without any hook; False if it is already there.

    `tensor` names the site's tensor that the child reparametrizes, if any.
    """
    _record_owner((id(site), name))
    if name in site._modules:
        return False
    site.add_module(name, module)
    site.injected = {**getattr(site, "injected", {}), name: tensor}
    return True


def attach(site: nn.Module, name: str, module: nn.Module, hook: Hook) -> None:
    """Inject a child module at a site; the hook replaces the site's output.

    The backbone's state-dict keys stay unchanged. Attaching the same name again changes nothing.
    The hook must look the child up in the site that it gets, so that deep copies are independent.
    """
    if add_child(site, name, module):
        site.register_forward_hook(hook)


def attach_before(site: nn.Module, name: str, module: nn.Module, hook: InputHook) -> None:
    """Inject a child module at a site; the hook replaces the site's input."""
    if add_child(site, name, module):
        site.register_forward_pre_hook(hook)


def attach_around(
    site: nn.Module, name: str, module: nn.Module, before: NamedHook, after: Callable[..., Any]
) -> None:
    """Inject a child module at a site; one hook replaces its inputs, the other its output."""
    if add_child(site, name, module):
        site.register_forward_pre_hook(before, with_kwargs=True)
        site.register_forward_hook(after)


def raw_parameter(site: nn.Module, tensor: str) -> nn.Parameter | None:
    """The stored parameter of a module, whatever `reparametrize` put over it; None if absent."""
    return site._parameters.get(tensor)


def reparametrize(site: nn.Module, tensor: str, name: str, module: nn.Module) -> None:
    """Let the site compute with `module(tensor)` instead of the tensor.

    The parameter keeps its key and its values; only attribute access, as in the site's forward,
    goes through the child module. Several children on one tensor apply in order.
    """
    if not add_child(site, name, module, tensor):
        return
    _record_owner((id(site._parameters[tensor]), ""))
    plain = type(site)
    before = getattr(plain, tensor, None)  # the property of an earlier call, if any

    def effective(self: nn.Module) -> Tensor:
        raw: Any = before.fget(self) if before else self._parameters[tensor]
        value: Tensor = self.get_submodule(name)(raw)
        return value

    kind = f"Reparametrized{plain.__name__.removeprefix('Reparametrized')}"  # print(model) shows it
    site.__class__ = type(kind, (plain,), {tensor: property(effective)})


def injected(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(site's path, site, child's name) of every injected module."""
    for path, site in model.named_modules():
        for name in getattr(site, "injected", ()):
            yield path, site, name


@contextmanager
def track_ownership() -> Iterator[set[tuple[int, str]]]:
    """Collect what methods change inside: (id of a parameter, "") or (id of a site, child's name).

    May be nested: an outer tracker also collects what an inner one does, so that a composition of
    compositions detects members that overlap.
    """
    owned: set[tuple[int, str]] = set()
    token = _owned.set(owned)
    try:
        yield owned
    finally:
        _owned.reset(token)
        for key in owned:
            _record_owner(key)


def _record_owner(key: tuple[int, str]) -> None:
    owned = _owned.get()
    if owned is not None:
        owned.add(key)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that trains; tied parameters appear once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def unmergeable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, child) of every injected module that cannot be merged into its site's tensors."""
    children: Iterable[tuple[str, Any, str]] = injected(model)
    for path, site, name in children:
        child = site.get_submodule(name)
        if site.injected[name] is None and not hasattr(child, "fold"):
            yield f"{path}.{name}", child


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Merge injected modules into the sites' tensors and remove them; eval outputs stay equal.

    Raises:
        UserError: before anything changes, if a module cannot be merged.
    """
    for path, child in unmergeable(model):
        raise UserError(f"{path} ({type(child).__name__}) cannot be merged into weights")
    for site in {id(site): site for _, site, _ in injected(model)}.values():
        _merge(site)


def _merge(site: Any) -> None:
    """Merge one site: first reparametrized tensors, so that `fold` changes effective weights."""
    read = {tensor for tensor in site.injected.values() if tensor}
    effective = {tensor: getattr(site, tensor).clone() for tensor in read}
    site.__class__ = next(cls for cls in type(site).__mro__ if cls.__module__ != __name__)
    for tensor, value in effective.items():
        site._parameters[tensor].copy_(value)
    for name, tensor in site.injected.items():
        if tensor is None:
            site.get_submodule(name).fold(site)
        del site._modules[name]
    del site.injected
    for hooks in (site._forward_hooks, site._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if hook.__module__.startswith("finegrid."):
                del hooks[key]
