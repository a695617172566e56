"""Overrides as people type them: completed before Hydra reads them, explained where it refuses."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.error import MarkedYAMLError

from finegrid.commands.catalogue import options
from finegrid.config import UNITS
from finegrid.errors import UserError, causes, nearest, of_system, refusal, require, shown
from finegrid.grid import completion
from finegrid.runs.text import config_dir
from finegrid.storage.paths import CONF

PLUGINS = {"submitit_slurm": "slurm", "joblib": "joblib"}  # launcher's config -> our extra
FLAGS = ("-c", "--cfg", "-p", "--package", "-cd", "--config-dir", "-i", "--info")  # take a value
OTHER_CONFIG = ("-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun")
ROWS = re.compile(r"\.(csv|tsv|json|jsonl|ndjson|parquet)(\.gz)?$")


def complete(argv: Sequence[str], *, folder: str | Path = "") -> list[str]:
    """A command line with its overrides in full; prints those that were completed.

    `folder` is the `--config-dir` of a command line that names none.

    Raises:
        UserError: for a word that is no override, or a key that is none.
    """
    if any(word.partition("=")[0] in OTHER_CONFIG for word in argv):
        return list(argv)
    flags = [n for n, word in enumerate(argv) if word.startswith("-")]
    values = {n + 1 for n in flags if argv[n] in FLAGS}
    at = [n for n in range(len(argv)) if n not in values and n not in flags]
    for n in at:
        _require_override(argv[n])
    for n in flags:
        _require_flag(argv[n])
    given, (*_, folder) = [argv[n] for n in at], config_dir(argv) or [str(folder)]
    require(not folder or Path(folder).is_dir(), f"--config-dir={folder}: no such folder")
    full = completed(given, config_dir=folder)
    return list(argv) if full == given else [*(w for n, w in enumerate(argv) if n not in at), *full]


def completed(given: Sequence[str], *, config_dir: str | Path | None = None) -> list[str]:
    """Overrides in full; on stderr, those that were short."""
    full = completion.completed(given, config_dir=config_dir)
    short, long = ([w for w in a if w not in b] for a, b in ((given, full), (full, given)))
    if short:
        print(f"{' '.join(short)} -> {' '.join(long)}", file=sys.stderr)
    return full


def _require_flag(word: str) -> None:
    """Refuse an override with dashes before it."""
    key, equals, _ = word.lstrip("-").partition("=")
    shape = word.lstrip("-") if equals else f"{key}=..."
    require(key not in completion.top([CONF]), f"{word}: overrides have no dashes; write {shape}")


def _require_override(word: str) -> None:
    """Refuse a word without `=`, saying what it may have been meant for."""
    if "=" in word or word.startswith("~"):
        return
    if word.endswith(("]", "}", ",")) or word.startswith(("[", "{")):
        raise UserError(
            f"{shown(word)} is a part of an override: quote all of it for the shell, such as "
            "'task.text=[question, answer]'"
        )
    if word in completion.top([CONF]):
        raise UserError(f"{word} stands alone; write {word}=..., without spaces around the sign")
    groups = (
        "method", "task", "model", "budget", "trainer", "logger", "experiment", "tuned", "race",
    )  # fmt: skip
    meant = [f"{group}={word}" for group in groups if word in options(group)]
    meant += [f"task=custom task.train={word}"] if ROWS.search(word) else []
    meant += [f"model={word}"] if Path(word, "config.json").is_file() else []
    if meant:
        raise UserError(f"{shown(word)} is no override; write {' or '.join(meant)}")
    names = {name: group for group in groups for name in options(group)}
    close = [f"{names[name]}={name}" for name in get_close_matches(word, names, n=2)]
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help"
    raise UserError(
        f"{shown(word)} is no override, which is a key and a value, such as method=bitfit; {hint}"
    )


def explain(error: Exception) -> str:
    """One line that says what is wrong, where, and the nearest valid names; empty for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if line := refusal(error):
        return line
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: no YAML, {error.problem}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return of_system(error) if isinstance(error, OSError) else ""
    if line := _unknown_option(error):
        return line
    for cause in causes(error):
        if isinstance(cause, UserError):
            return str(cause)
    line = str(error).strip().splitlines()[0]
    if line.startswith("Ambiguous value"):
        return f"{line}; add -m to run a cell for each value"
    if isinstance(error, OverrideParseException):
        where = "" if error.override in line else f" (in {error.override})"
        return f"cannot parse an override: {line}{where}{_quoting(error)}"
    return _unknown_key(error) or line


def _unknown_option(error: Exception) -> str:
    """Explain a choice that its group does not have."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return ""
    missing = str(error.missing_cfg_file)
    group, _, option = missing.rpartition("/")
    if option in PLUGINS:
        extra = PLUGINS[option]
        return f"hydra/launcher={extra} needs a plugin: pip install 'finegrid[{extra}]'"
    if group and not group.startswith("hydra"):  # a folder in a group is no group of its own
        group, _, option = missing.partition("/")
    if not group:
        return ""
    if group == "task" and ROWS.search(option):
        return f"unknown task={option}; for a file of rows write task=custom task.train={option}"
    names = {*options(group), *(error.options or ())}
    return f"unknown {group}={option}; {nearest(option, names)}"


def _quoting(error: OverrideParseException) -> str:
    """How to give a value with signs that mean something to Hydra, if the value has any."""
    key, _, value = error.override.partition("=")
    if not re.search(r"[^\w./:,\[\]{}-]", value) or set(value) & set("'\"[]{}"):
        return ""
    return f"; quote the value for Hydra too: '{key}=\"{value}\"'"


def _unknown_key(error: Exception) -> str:
    """Explain an override of a key that the config does not have."""
    if not isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return ""
    text, given = str(error), [arg for arg in sys.argv[1:] if "=" in arg]
    keys = [arg.partition("=")[0] for arg in given]
    bad = next((key for key in keys if f"'{key}'" in text), "")
    if not bad:
        return ""
    unit = bad.removeprefix("budget.")
    if unit in UNITS:
        return f"budget.{unit} needs its unit chosen too: budget={unit} {bad}=<amount>"
    key = bad.lstrip("+")
    chosen = _chosen(given, key)
    return completion.unknown(key, _siblings(key, chosen), chosen)


def _chosen(given: Sequence[str], key: str) -> dict[str, str]:
    """Group -> its option, the command line's or the default; of several, one without the key."""
    defaults = [entry for entry in _train()["defaults"] if entry != "_self_"]
    chosen = {str(group): str(option) for entry in defaults for group, option in entry.items()}
    last = key.rpartition(".")[2]
    for group, _, named in (arg.partition("=") for arg in given):
        several = named.split(",")
        files = (CONF / group / f"{option}.yaml" for option in several)
        lacks = (x.stem for x in files if x.is_file() and not completion.has_key(x, last))
        chosen[group] = next(lacks, several[0])
    return chosen


def _siblings(key: str, chosen: dict[str, str]) -> list[str]:
    """The valid keys at the level of a misspelt one, from the config files."""
    top = _train()
    group, dot, _ = key.rpartition(".")
    if not dot:
        groups = {path.name for path in CONF.iterdir() if path.is_dir()}
        return sorted(groups | {str(name) for name in top} - {"defaults", "hydra"})
    file = CONF / group / f"{chosen.get(group)}.yaml"
    names = {*(OmegaConf.load(file) if file.is_file() else ()), *top.get(group, ())}
    return sorted(f"{group}.{name!s}" for name in names - {"_target_"})


def _train() -> DictConfig:
    top = OmegaConf.load(CONF / "train.yaml")
    assert isinstance(top, DictConfig)
    return top
