"""The kinds of task by name, and a task's settings with what its kind fills in."""

from collections.abc import Collection, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from finegrid import tasks
from finegrid.errors import IMPORTABLE, UserError, one_of, require_allowed
from finegrid.tasks.task import Task

LISTS = ("text", "metrics", "labels", "dev")  # for which one name may stand by itself
# Settings of some kinds; null: as the kind has it
OPTIONAL = ("choices", "template", "max_new_tokens", "threshold", "attribute")


def kinds() -> tuple[str, ...]:
    """The names of all kinds: the other files of this package."""
    names = {module.name for module in iter_modules(tasks.__path__) if not module.ispkg}
    return tuple(sorted(names - {"task"}))


def of_kind(name: str, *, allow: Collection[str] = ()) -> type[Task]:
    """The class of a kind, from the file that is called like it.

    A dotted name is a module of a package of the user's, which `allow` must name.

    Raises:
        UserError: with the nearest names, if there is no such kind.
    """
    if "." in name:
        require_allowed("task.kind", name, allow)
        path = name
    else:
        one_of("task.kind", name, kinds())
        path = f"{tasks.__name__}.{name}"
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        raise UserError(f"task.kind={name}: {error}; {IMPORTABLE}") from error
    classes = (value for value in vars(module).values() if isinstance(value, type))
    ours = (kind for kind in classes if issubclass(kind, Task) and kind.__module__ == path)
    if (kind := next(ours, None)) is None:
        raise UserError(f"task.kind={name}: the module has no subclass of finegrid's Task")
    return kind


def filled_in(node: Mapping[str, Any], *, allow: Collection[str] = ()) -> dict[str, Any]:
    """A task's settings with what may be left out: a list of one name, and the kind's metrics."""
    lists = {key: [node[key]] for key in LISTS if isinstance(node.get(key), str)}
    filled = {**node, **lists}
    if filled.get("metrics") is None:
        kind = of_kind(str(node.get("kind", Task.kind)), allow=allow)
        filled["metrics"] = list(kind.USUAL or kind.METRICS)
    return {k: v for k, v in filled.items() if v is not None or k not in OPTIONAL}
