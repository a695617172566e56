"""Read-only view of a sweep: its cells, planned or listed on disk, and the state of each."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from finegrid.config import to_plain
from finegrid.errors import UserError, one_of, require
from finegrid.grid import locks, pool
from finegrid.grid.composed import stages
from finegrid.grid.eta import Wanted
from finegrid.grid.expand import Cell
from finegrid.grid.known import Known
from finegrid.grid.stages import Stages
from finegrid.grid.status import (
    AGAIN,
    KNOWN,
    NOT_NEEDED,
    STATUSES,
    Outcome,
    Store,
    outcome,
    settled,
)
from finegrid.runs import layout
from finegrid.runs.text import given_overrides
from finegrid.storage.files import content

LARGEST = 1 << 28  # bytes of a plan, which has a line a cell


@dataclass(frozen=True)
class Plan:
    """A sweep that a command line would start."""

    stages: Stages
    store: Store
    retry: str
    slots: dict[str, int]  # how many there are, or would be

    @property
    def root(self) -> Path:
        """The sweep's directory."""
        return self.store.root

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that are needed by the records that are there, each of which is read once."""
        ends: dict[str, Outcome | None] = {}

        def ended(cell: Cell) -> Outcome | None:
            if cell.key not in ends:
                found = self.store.outcome(cell)
                over = settled(found, retry=self.retry, before=found.version)
                ends[cell.key] = found if over else None
            return ends[cell.key]

        return self.stages.needed(ended)

    def found(self) -> Iterator[tuple[Cell, str, Outcome]]:
        """Each cell, its directory below the root, and what is known of it."""
        store, at = self.store, time.time()
        found = outcomes(self.root, [store.place(cell) for cell in self.cells], at=at)
        for cell, (place, known) in zip(self.cells, found, strict=True):
            yield cell, place, store.or_given(cell, known)

    def todo(self, found: Outcome) -> bool:
        """Whether the sweep would run a cell of which this is known."""
        settles = settled(found, retry=self.retry, before=found.version)
        return not settles and found.status != "running"


def planned(overrides: Sequence[str], *, conf: Path) -> Plan:
    """The sweep that `finegrid sweep` would start with these overrides, composed as there.

    Raises:
        UserError: if a cell's config is invalid; Hydra's own errors if it cannot be composed.
    """
    with initialize_config_dir(str(conf), job_name="train", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)
        store = Store(Path(str(config.hydra.sweep.dir)), Known.of(config.known))
        found = stages(loader, config, given_overrides(config.hydra), store)
    one_of("retry", str(config.retry), tuple(AGAIN))
    return Plan(found, store, str(config.retry), _slots(config))


def _slots(config: DictConfig) -> dict[str, int]:
    """How many slots this machine has, and how many the launcher's options make of it."""
    counts = {"slots of this machine": len(pool.slots("auto", per_gpu=1, on_cpu=None))}
    launcher = config.hydra.launcher
    if "slots_per_gpu" in launcher:
        plain = to_plain(launcher)
        made = pool.slots(plain["gpus"], per_gpu=plain["slots_per_gpu"], on_cpu=plain["cpu_slots"])
        counts["slots as configured"] = len(made)
    return counts


def places(root: Path) -> list[str]:
    """The cells' directories below a sweep's: those of its plans, else those with any trace.

    Raises:
        UserError: if there is no trace of a sweep.
    """
    require(root.is_dir(), f"no such directory: {root}")
    plans = map(listed, _plans(root))
    planned = dict.fromkeys(place for plan in plans for place in (*plan.cells, *plan.spared))
    begun = layout.run_directories(root, begun=True)
    found = list(planned) or [str(path.relative_to(root)) for path in begun]
    require(bool(found), f"no plan, record or lock below {root}; run a sweep first")
    return found


def outcomes(
    root: Path, places: Iterable[str], *, at: float | None = None
) -> Iterator[tuple[str, Outcome]]:
    """What is known of cells, by their directories below a sweep's; `at` is now.

    One that has no record yet and is listed by a sweep that runs is queued; one that a sweep was
    given is ok, and one that the last race did not need is not missing.
    """
    instead: dict[str, Outcome] = {}  # of being missing
    for path in _plans(root):
        plan = listed(path)
        waits = Outcome("queued" if locks.alive(path.with_suffix(""), at=at) else "missing")
        instead |= {
            place: waits
            for place in plan.cells
            if waits.status == "queued" or instead.get(place, waits).status != "queued"
        }
        instead |= {place: Outcome(NOT_NEEDED, why) for place, why in plan.spared.items()}
        instead |= {place: Outcome("ok", version=KNOWN) for place in plan.known}
    for place in places:
        found = outcome(root / place, at=at)
        yield place, instead.get(place, found) if found.status == "missing" else found


def command(root: Path, place: str) -> str:
    """The command of the last sweep that lists a cell; empty if none does."""
    found = (plan.command for plan in map(listed, reversed(_plans(root))) if place in plan.cells)
    return next(found, "")


def _plans(root: Path) -> list[Path]:
    """The plans of a directory's sweeps, the oldest first."""
    return sorted((root / layout.PLANS).glob("*.json"), key=lambda path: path.stat().st_mtime)


@dataclass(frozen=True)
class Listed:
    """What a sweep's plan file lists: directories below the sweep's."""

    cells: list[str]  # needed
    spared: dict[str, str]  # those that a race did not need -> why
    known: list[str]  # those of the cells whose results were given
    command: str = ""  # that began the sweep


def listed(plan: Path) -> Listed:
    """What a plan file lists.

    Raises:
        UserError: if it is not readable, or names what is no cell's directory.
    """
    try:
        values = json.loads(content(plan, LARGEST))
        found = Listed(
            [str(place) for place in values["cells"]],
            {str(place): str(why) for place, why in values.get("spared", {}).items()},
            [str(place) for place in values.get("known", [])],
            str(values.get("command", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{plan} is not a readable plan: {error}") from error
    for place in (*found.cells, *found.spared, *found.known):
        inside = not Path(place).is_absolute() and ".." not in Path(place).parts
        if not (inside and place.isprintable()):
            raise UserError(f"{plan} is not a readable plan: {place!r:.100} is no cell's directory")
    return found


def wanted(place: str, *, unit: str, amount: float) -> Wanted | None:
    """What a cell's directory tells of the time that the cell takes."""
    if not (path := layout.parse(place)):
        return None
    return Wanted(path.task, path.model, path.method, path.fraction, unit, amount)


def tally(statuses: Iterable[str], *, missing: str = "missing") -> str:
    """How many there are of each status; `missing` is the word for what no sweep has run."""
    counts, words = Counter(statuses), {"missing": missing}
    return ", ".join(f"{counts[one]} {words.get(one, one)}" for one in STATUSES if counts[one])
