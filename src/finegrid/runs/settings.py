"""Which settings decide a run's result: one table, read by all that compare or name runs.

The cell's hash, the names of variants in a report, the search for learning rates, the analysis of
pairs and the grouping of cells that share a pass read it. A setting that no line names decides the
result, so that a new one needs none here.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a setting of the config does to a run's result."""

    RESULT = "decides it"
    SOURCE = "another setting takes its value from here, and that one decides"
    PLACE = "says where files lie; what they hold decides"
    SPEED = "decides how fast, where and with what display a run is done"
    NOTE = "for people, or a bundle of other settings"


# The longest key that a setting's key begins with counts; one that has none decides the result.
ROLES = {
    "trainer": Role.SPEED,
    "trainer.precision": Role.RESULT,
    "trainer.kernels": Role.RESULT,  # their dropout draws other numbers
    "logger": Role.SPEED,
    "log_every": Role.SPEED,
    "forgetting": Role.SPEED,  # a measurement beside the result
    "score_last": Role.SPEED,  # the last weights' score decides nothing
    "hydra": Role.SPEED,
    "retry": Role.SPEED,
    "fail_fast": Role.SPEED,
    "fuse": Role.SPEED,
    "report": Role.SPEED,
    "data.eval_batch_size": Role.SPEED,
    "data.source": Role.PLACE,
    "data.root": Role.PLACE,
    "model.path": Role.PLACE,
    "model.revision": Role.PLACE,
    "task.path": Role.PLACE,
    "task.train": Role.PLACE,
    "task.test": Role.PLACE,
    "code": Role.PLACE,
    "allow": Role.PLACE,
    "model.head_lr": Role.SOURCE,
    "model.recipes_of": Role.SOURCE,
    "method.recipe": Role.SOURCE,
    "tune": Role.NOTE,
    "tune.factors": Role.SOURCE,
    "tuned": Role.SOURCE,
    "trial": Role.SOURCE,
    "experiment": Role.NOTE,
    "sweep": Role.NOTE,
    "race": Role.NOTE,
    "known": Role.NOTE,
    "paths": Role.NOTE,
    "published": Role.NOTE,
    "method.fuses": Role.NOTE,
    "method.search": Role.NOTE,
    "model.architecture": Role.NOTE,
    "model.parameters": Role.NOTE,
}
OF_SWEEP = ("race", "known")  # what all cells have in common, and no single run needs
# Field of a record -> the setting that it holds; `budget_unit` and `budget` hold the budget's.
RECORDED = {
    "method": "method.name",
    "task": "task.name",
    "model": "model.name",
    "pretrained": "model.pretrained",
    "head": "head.name",
    "loss": "loss.name",
    "semi": "semi.name",
    "fraction": "data.fraction",
    "seed": "seed",
    "protocol": "data.protocol",
    "validation_from": "data.validation",
    "rows_asked": "data.rows",
    "select": "select",
    "frozen_dropout": "frozen_dropout",
    "kernels": "trainer.kernels",
    "lr": "optim.lr",
    "trial": "trial",
}
NOTED = {"tuning_runs": "runs", "tuning_examples": "examples"}  # field of a record -> of `tune`
# Setting -> what it was in versions that did not have it
OLDER = {
    "frozen_dropout": True,
    "trainer.kernels": True,
    "trial": None,
    "data.validation": "fixed",
    "data.rows": None,
    "head.name": "classifier",
    "loss.name": "cross_entropy",
    "semi.name": "none",
}
# Places that no hash in a record stands for: the weights' leaves out the tokenizer beside them
SHOWN = ("model.path", "model.revision")
# What else an override may name that fields of a record hold: a group's option, or a field's source
HELD = {
    "method", "task", "model", "head", "loss", "semi", "tuned", "trainer.precision",
    *RECORDED.values(),
}  # fmt: skip

KEEPS_NOTHING = ("store", "none")  # the one value of its setting that leaves the result as it is


def role(key: str) -> Role:
    """What a setting does, by its key in the config, such as `data.root`."""
    while key:
        if key in ROLES:
            return ROLES[key]
        key = key.rpartition(".")[0]
    return Role.RESULT


def deciding(plain: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The settings of a resolved config that decide the result, nested as they are there."""
    kept = {}
    for name, value in plain.items():
        key = f"{within}{name}"
        if not within and isinstance(value, Mapping):
            if parts := deciding(value, f"{key}."):
                kept[name] = parts
        elif role(key) is Role.RESULT:
            kept[name] = value
    return kept


def without(plain: Mapping[str, Any], keys: Sequence[str], within: str = "") -> dict[str, Any]:
    """A config without some settings, named by their keys."""
    return {
        name: without(value, keys, f"{within}{name}.") if isinstance(value, Mapping) else value
        for name, value in plain.items()
        if f"{within}{name}" not in keys
    }


def recorded(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that hold settings."""
    values = {field: _value(plain, key) for field, key in RECORDED.items()}
    (unit, amount), *_ = ((k, v) for k, v in plain["budget"].items() if v is not None)
    numbers = {"fraction": float(values["fraction"]), "lr": float(values["lr"])}
    notes = {field: (plain.get("tune") or {}).get(name) for field, name in NOTED.items()}
    spent = 0.0 if values["rows_asked"] == 0 else float(amount)  # without rows nothing trains
    return values | numbers | {"budget_unit": unit, "budget": spent} | notes


def _value(plain: Mapping[str, Any], key: str) -> Any:
    node: Any = plain
    for name in key.split("."):
        if name not in node and key in OLDER:
            return OLDER[key]
        node = node[name]
    return node


def older(field: str) -> Any:
    """What a field stands for in records of versions that did not have its setting."""
    return OLDER.get(RECORDED.get(field, ""))


def split_override(override: str) -> tuple[str, str]:
    """Key and value of an override such as `+optim.lr=0.001`."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def is_unrecorded(key: str, value: str) -> bool:
    """Whether an override makes a run another one and no field of a record holds it."""
    group = key.partition("/")[0].partition(".")[0]
    if key in HELD or group == "budget" or (key, value) == KEEPS_NOTHING:
        return False
    if key == "method.search":  # a share of the budget in diff_pruning until 0.9
        return not value.startswith("{")
    return key in SHOWN or role(key.replace("/", ".")) not in (Role.PLACE, Role.SPEED, Role.NOTE)


def chosen(value: str) -> list[str]:
    """The options in the value of an override `tune.chosen`, such as `[optim.lr,method.l0]`."""
    return [option for option in value.strip("[]").split(",") if option]


def unrecorded(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, value) of the overrides that make a run another one and that no field holds."""
    return (pair for pair in map(split_override, overrides) if is_unrecorded(*pair))
