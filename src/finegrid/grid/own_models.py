"""A model that no file of conf/model names: `model=/path/to/folder` or `model=org/name`.

It becomes an option of the group `model` for this process and for the jobs that it starts, so that
the override stays what the user gave: in the record, in sweeps and in the command to repeat it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from finegrid.errors import require, slug
from finegrid.runs.text import hydra_value

HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # a repository's owner and name
PLAIN = re.compile(r"model=[^'\"()\[\]{}]+")  # values as they are, without Hydra's functions
QUOTED = re.compile(r"""model=(?P<quote>['"])(?P<value>[^'"\\]+)(?P=quote)""")  # one value
AS_IS = re.compile(r"[\w./:~@%+ -]+", re.ASCII)  # what Hydra reads without quotes
PADDED = ("roberta", "camembert", "longformer", "mpnet")  # whose first positions are padding's
LONGEST = 128  # tokens, as conf/train.yaml has it


def known(override: str, places: Sequence[Path]) -> str:
    """An override, each model of the user's in it made an option; `~` stands for its folder.

    Args:
        override: any; only those of `model` are looked at.
        places: folders with options, of which none is the user's model.

    Raises:
        UserError: for a folder that is not there, or holds no model.
    """
    if match := QUOTED.fullmatch(override):
        values = [match["value"]]
    elif PLAIN.fullmatch(override):
        values = override.removeprefix("model=").split(",")
    else:
        return override
    names = [_option(value, places) for value in values]
    return "model=" + ",".join(x if AS_IS.fullmatch(x) else hydra_value(x) for x in names)


def _option(value: str, places: Sequence[Path]) -> str:
    listed = any((place / "model" / f"{value}.yaml").is_file() for place in places)
    path = os.path.expanduser(value)
    if listed or not ("/" in path or Path(path).is_dir()):
        return value
    _require_model(value, Path(path))
    *folders, name = [part for part in path.split("/") if part]
    node = {"name": slug(Path(os.path.abspath(path)).name), "path": path, **_length(Path(path))}
    store = ConfigStore.instance()
    store.store(group="/".join(["model", *folders]), name=name, node=node, package="model")
    return path


def _require_model(value: str, path: Path) -> None:
    """Refuse what is neither a folder with a model nor a repository's name."""
    there = path.is_dir()
    require(
        there or HUB.fullmatch(value) is not None,
        f"model={value}: no such folder; give a folder with config.json and model.safetensors, a "
        "model of the hub (org/name), or an option of `finegrid train --help`",
    )
    require(
        not there or (path / "config.json").is_file(),
        f"model={value}: the folder has no config.json; give the one that save_pretrained wrote",
    )


def _length(folder: Path) -> dict[str, int]:
    """`max_length`, where a folder's model reads less than what is usual."""
    config, reader = _read(folder / "config.json"), _read(folder / "tokenizer_config.json")
    limits = [_number(reader, "model_max_length"), _number(config, "n_positions")]
    positions = _number(config, "max_position_embeddings")
    if any(name in str(config.get("model_type")) for name in PADDED):
        positions -= _number(config, "pad_token_id", 1) + 1
    limits.append(max(positions, 0))
    least = min((limit for limit in limits if limit), default=LONGEST)
    return {"max_length": least} if least < LONGEST else {}


def _read(file: Path) -> dict[str, Any]:
    """What a JSON file says; nothing if it is none, which whoever loads it will complain of."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _number(told: Mapping[str, Any], key: str, otherwise: int = 0) -> int:
    value = told.get(key)
    return int(value) if isinstance(value, int | float) and 1 <= value < 1e9 else otherwise
