"""Compare ways of fine-tuning a pre-trained language model, fairly.

From Python: `apply` a tuning method to a transformers model of yours, `save` what it learned,
`load_delta` it into a stock model, or `merge` it into the weights. `run` trains one method on one
task, `compare` several, `load` reads a finished run; `methods` lists the methods.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time a name is imported when it is first asked for
    from finegrid import methods as methods
    from finegrid.api.apply import apply, load_delta, merge, save
    from finegrid.api.compare import Results, compare
    from finegrid.api.run import Run, load, run
    from finegrid.api.task import Task

__version__ = "0.13.0"
__all__ = [
    "Results", "Run", "Task", "__version__", "apply", "compare", "load", "load_delta", "merge",
    "methods", "run", "save",
]  # fmt: skip
_MODULES = {  # of finegrid.api -> what it exports
    "apply": ("apply", "load_delta", "merge", "save"),
    "compare": ("Results", "compare"),
    "run": ("Run", "load", "run"),
    "task": ("Task",),
}


def __getattr__(name: str) -> Any:
    if name == "methods":
        return import_module("finegrid.methods")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"finegrid.api.{module}"), name)
    raise AttributeError(f"module 'finegrid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
