"""Upload finished runs to Weights & Biases: each once, at a bounded rate, resumable.

A file in the run's directory says which record a project was given. It is written after W&B has
all of the run, so that a run that was cut short is sent again: to the same W&B run, whose history
goes on after the rows that are there. (`wandb sync` sends the files of offline runs, but would
append all rows again, and knows nothing of records that have changed.)
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from finegrid.errors import UserError, require
from finegrid.runs import layout, saved_config
from finegrid.runs.record import LARGEST, read
from finegrid.storage.files import content, write_atomic
from finegrid.tracking.run_info import STEP, RunInfo, summary


@dataclass(frozen=True)
class Target:
    """Where runs go, and which of their files with them."""

    project: str
    entity: str | None = None  # null: the user's own
    files: tuple[str, ...] = ()

    @property
    def offline(self) -> bool:
        """Whether W&B only writes files, for `wandb sync` to send."""
        return os.environ.get("WANDB_MODE") in ("offline", "dryrun")

    @property
    def name(self) -> str:
        """What a marker calls it."""
        path = f"{self.entity}/{self.project}" if self.entity else self.project
        return f"{path} (offline)" if self.offline else path


@dataclass(frozen=True)
class Patience:
    """Seconds for which W&B's client tries: to begin a run, and to have sent all of it."""

    begin: float = 60.0
    end: float = 300.0


PATIENCE = Patience()


def finished(directories: Iterable[Path]) -> list[Path]:
    """Every directory with a record below these, each once.

    Raises:
        UserError: if there is none.
    """
    places: dict[Path, None] = {}
    for directory in directories:
        runs = [path.resolve() for path in layout.run_directories(directory)]
        need = f"no {layout.RECORD} below {directory}; run a sweep, or name its directory"
        require(bool(runs), need)
        places.update(dict.fromkeys(runs))
    return list(places)


def waiting(places: Iterable[Path], target: Target) -> list[Path]:
    """Those whose record, as it is now, the target has not been given."""
    return [place for place in places if _given(place).get(target.name) != _digest(place)]


def _digest(place: Path) -> str:
    try:
        return hashlib.sha256(content(place / layout.RECORD, LARGEST)).hexdigest()[:16]
    except (OSError, ValueError):
        return ""  # `stored` says why


def _given(place: Path) -> dict[str, str]:
    try:
        given = json.loads((place / layout.SYNCED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return given if isinstance(given, dict) else {}


def stored(place: Path) -> RunInfo:
    """A finished run as its logger would have had it.

    Raises:
        UserError: if its record or its config cannot be read.
    """
    record = read(place)
    config: Any = OmegaConf.to_container(saved_config.config(place), resolve=True)
    shaped = isinstance(config.get("task"), dict) and config["task"].get("metrics")
    require(isinstance(shaped, list), f"{place}: its config names no task.metrics")
    path = layout.parse(place.resolve())
    names = (record.task, record.model, record.method)
    of_sweep = path is not None and (path.task, path.model, path.method) == names
    sweep = place.resolve().parents[layout.DEPTH - 1].name if of_sweep else "runs"
    return RunInfo(place, sweep, str(record.cell), record, config)


def send(
    places: Sequence[Path], target: Target, *, rate: float, patience: Patience = PATIENCE
) -> Iterator[tuple[Path, str]]:
    """Send runs one by one, at most `rate` a second; yields each, and why it was left out if so.

    Raises:
        UserError: if W&B cannot be reached or refuses; what was sent by then stays sent.
    """
    mode = os.environ.get("WANDB_MODE")
    require(mode != "disabled", "WANDB_MODE=disabled sends nothing; unset it, or say offline")
    earliest = 0.0
    for number, place in enumerate(places):
        time.sleep(max(0.0, earliest - time.monotonic()))
        earliest = time.monotonic() + 1 / rate
        digest = _digest(place)
        try:
            run = stored(place)
        except UserError as error:
            yield place, str(error)
            continue
        so_far = f"{number} of {len(places)} runs are through; the same command goes on from there"
        with _in_one_line(so_far):
            _upload(run, target, patience)
        given = _given(place) | {target.name: digest}
        write_atomic(place / layout.SYNCED, json.dumps(given, indent=1).encode())
        yield place, ""


@contextmanager
def _in_one_line(so_far: str) -> Iterator[None]:
    """W&B's failures, which its client has tried to mend already, as an error of one line."""
    import wandb

    try:
        yield
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        raise UserError(f"W&B refuses: {_line(error)}; {so_far}") from error
    except Exception as error:  # its failures have no class in common
        wandb.teardown()  # else the run would count as in use
        raise UserError(f"W&B cannot be reached: {_line(error)}; {so_far}") from error


def _line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


def _upload(run: RunInfo, target: Target, patience: Patience) -> None:
    """One W&B run, from its first row to its exit code.

    Rows have numbers, so that those which are there already do not come twice.
    """
    import wandb

    told = run.arguments(project=target.project, entity=target.entity, group=None)
    with ExitStack() as stack:
        scratch = None  # offline, W&B's own choice: $WANDB_DIR or here
        if not target.offline:
            scratch = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
        made = wandb.init(**told, dir=scratch, settings=_settings(patience))
        made.config.update(run.config, allow_val_change=True)
        made.define_metric(STEP)
        made.define_metric("*", step_metric=STEP, step_sync=True)
        for number, row in enumerate(run.curve()):
            if number >= made.starting_step:
                made.log(row, step=number, commit=True)  # else the last comes after the summary
        made.summary.update(summary(run.record))
        for name in target.files:
            if (path := run.directory / name).is_file():
                made.save(path, base_path=run.directory, policy="now")
        made.finish(exit_code=0 if run.record.status == "ok" else 1)


def _settings(patience: Patience) -> Any:
    """Nothing of this process, which is not the run; and failures that are raised, not swallowed.

    Left to itself W&B would go on trying for days; limited in tries it would lose data in silence.
    """
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        init_timeout=patience.begin,
        finish_timeout=patience.end,
        finish_timeout_raises=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
