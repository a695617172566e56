"""The command line: help, one-line errors, exit codes. Imports nothing heavy."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finegrid.config import UNITS, register_resolvers
from finegrid.errors import UserError, causes, nearest, of_system, refusal, require
from finegrid.grid import job
from finegrid.runs import layout
from finegrid.runs.record import clear
from finegrid.runs.spec import RunSpec

CONF = Path(__file__).resolve().parents[2] / "conf"
PLUGINS = {"submitit_slurm": "slurm", "joblib": "joblib"}  # launcher's config -> our extra
HELP = """finegrid: which way of fine-tuning is best for this model, task, data and time?

  python train.py method=bitfit task=mrpc model=minilm data.fraction=0.3 seed=1
  python train.py -m method=full,bitfit,houlsby data.fraction=0.1,0.3,1.0 seed=0,1,2

{groups}
Any value can be overridden: optim.lr=1e-4 budget.epochs=3 data.batch_size=16 select=last
A budget in another unit: budget=seconds budget.seconds=60 (units: {units})
The whole composed config: --cfg job. Hydra's own flags: --hydra-help
"""


def options(group: str) -> dict[str, str]:
    """Option -> its one-line description (the file's first comment), for a config group.

    Options in a folder of the group are named with it: `reproduce/lora2021`.
    """
    files = sorted((CONF / group).rglob("*.yaml"))
    names = (file.relative_to(CONF / group).with_suffix("").as_posix() for file in files)
    return {name: _headline(file) for name, file in zip(names, files, strict=True)}


def help_text() -> str:
    """The text of `--help`: every group, every option with its one line."""
    groups = ["method", "task", "model", "budget", "trainer", "logger", "experiment"]
    groups += ["tuned"] if options("tuned") else []
    return HELP.format(groups="\n".join(map(_describe, groups)), units=", ".join(UNITS))


def _describe(group: str) -> str:
    found = options(group)
    width = max(map(len, found), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, text in found.items()]
    return "\n".join([f"{group}=", *lines, ""])


def _headline(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("#").strip() for line in lines)
    first = next((line for line in comments if not line.startswith("@package")), "")
    return first.removeprefix(f"{file.stem}:").strip()


def run(cfg: DictConfig) -> None:
    """Check the config, then import the heavy parts and run the cell."""
    _one_method()
    if told := os.environ.get(job.VARIABLE):
        job.run(job.read(told))
        return
    spec = RunSpec.of_hydra(cfg)
    clear(spec.directory)  # an earlier run's, before the slow imports
    record = job.heavy("strategies.single").run(spec)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        print(f"{record.summary()}\nrecord: {spec.directory}/{layout.RECORD}")


def _one_method() -> None:
    """Refuse `method=[bitfit,lora]`: Hydra merges the files into one method, in truth the last."""
    require(
        "method" in HydraConfig.get().runtime.choices,
        "method=[...] names several methods; compose them in a file of their own, as "
        "conf/method/bitfit_lora.yaml does for bitfit and lora",
    )


def guard(main: Callable[[], None]) -> None:
    """Call a command's entry point; whatever ends it early ends it quietly.

    A user's mistake, or what the machine refuses (a full disk, no more file handles), becomes one
    line on stderr and exit code 1. As in a shell, a signal gives 128 and its number: Ctrl-C 130, a
    reader that has closed the pipe (`| head`) 141.
    """
    register_resolvers()
    OmegaConf.register_new_resolver("help", help_text, replace=True)
    verbose = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to the handlers below
    logging.raiseExceptions = False  # a log that cannot be written is told of once, not every line
    code: str | int | None = None
    try:
        main()
    except (KeyboardInterrupt, SystemExit) as end:
        code = _ended(end)
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if verbose or not (line := explain(error)):
            raise
        code = f"finegrid: {line}"
    code = _flushed() or code
    if code:
        sys.exit(code)


def _ended(end: BaseException) -> str | int | None:
    """The exit code of a command that left, or was interrupted (whatever Lightning made of it)."""
    interrupt = end if isinstance(end, KeyboardInterrupt) else end.__context__
    if not isinstance(interrupt, KeyboardInterrupt):
        return end.code if isinstance(end, SystemExit) else None
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it at once
    print("interrupted; finished cells keep their records", file=sys.stderr)
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def _flushed() -> str | int | None:
    """Write what is still to be printed; the exit code if that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again, and complain
        closed = isinstance(error, BrokenPipeError)
        return 128 + signal.SIGPIPE if closed else f"finegrid: standard output: {error.strerror}"
    return None


def explain(error: Exception) -> str:
    """One line that says what is wrong, where, and the nearest valid names; empty for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if line := refusal(error):
        return line
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return of_system(error) if isinstance(error, OSError) else ""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = str(error.missing_cfg_file)
        group, _, option = missing.rpartition("/")
        if option in PLUGINS:
            extra = PLUGINS[option]
            return f"hydra/launcher={extra} needs a plugin: pip install 'finegrid[{extra}]'"
        if group and not group.startswith("hydra"):  # a folder in a group is no group of its own
            group, _, option = missing.partition("/")
        if group:
            names = {*options(group), *(error.options or ())}
            return f"unknown {group}={option}; {nearest(option, names)}"
    for cause in causes(error):
        if isinstance(cause, UserError):
            return str(cause)
    line = str(error).strip().splitlines()[0]
    if line.startswith("Ambiguous value"):
        return f"{line}; add -m to run a cell for each value"
    if isinstance(error, OverrideParseException):
        return f"cannot parse an override: {line}"
    return _unknown_key(error) or line


def _unknown_key(error: Exception) -> str:
    """Explain an override of a key that the config does not have."""
    if not isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return ""
    text = str(error)
    keys = [arg.partition("=")[0] for arg in sys.argv[1:] if "=" in arg]
    bad = next((key for key in keys if f"'{key}'" in text), "")
    if not bad:
        return ""
    unit = bad.removeprefix("budget.")
    if unit in UNITS:
        return f"budget.{unit} needs its unit chosen too: budget={unit} {bad}=<amount>"
    return f"unknown key {bad}; {nearest(bad, _siblings(bad))}"


def _siblings(key: str) -> list[str]:
    """The valid keys at the level of a misspelt one, from the default config files."""
    top = OmegaConf.load(CONF / "train.yaml")
    assert isinstance(top, DictConfig)
    group, dot, _ = key.rpartition(".")
    if not dot:
        groups = {path.name for path in CONF.iterdir() if path.is_dir()}
        return sorted(groups | {str(name) for name in top} - {"defaults", "hydra"})
    chosen = {"data": "default", "trainer": "auto", "budget": "epochs"}.get(group)
    node = OmegaConf.load(CONF / group / f"{chosen}.yaml") if chosen else top.get(group, {})
    return sorted(f"{group}.{name!s}" for name in node)
