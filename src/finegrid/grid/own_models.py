"""A model that no file of conf/model names: `model=/path/to/folder` or `model=org/name`.

It becomes an option of the group `model` for this process and for the jobs that it starts, so that
the override stays what the user gave: in the record, in sweeps and in the command to repeat it.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore

from finegrid.errors import require, slug
from finegrid.runs.text import hydra_value

HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # a repository's owner and name
PLAIN = re.compile(r"model=[^'\"()\[\]{}]+")  # values as they are, without Hydra's functions
QUOTED = re.compile(r"""model=(?P<quote>['"])(?P<value>[^'"\\]+)(?P=quote)""")  # one value
AS_IS = re.compile(r"[\w./:~@%+ -]+", re.ASCII)  # what Hydra reads without quotes
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
    fields = {"config.json": "max_position_embeddings", "tokenizer_config.json": "model_max_length"}
    limits = [_number(folder / file, key) for file, key in fields.items()]
    least = min((limit for limit in limits if limit), default=LONGEST)
    return {"max_length": least} if least < LONGEST else {}


def _number(file: Path, key: str) -> int:
    """A number in a JSON file; 0 if it says none, which whoever loads the file will complain of."""
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError, AttributeError):
        return 0
    return int(value) if isinstance(value, int | float) and 1 < value < 1e9 else 0
