"""Read-only view of a sweep: its cells, planned or listed on disk, and the state of each."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from finegrid.config import to_plain
from finegrid.errors import UserError, one_of, require
from finegrid.grid import locks, pool
from finegrid.grid.eta import Wanted
from finegrid.grid.expand import Cell, cells
from finegrid.grid.status import AGAIN, STATUSES, Outcome, Store, outcome, settled
from finegrid.runs import layout
from finegrid.storage.files import content

LARGEST = 1 << 28  # bytes of a plan, which has a line a cell


@dataclass(frozen=True)
class Plan:
    """A sweep that a command line would start."""

    cells: list[Cell]
    root: Path
    retry: str
    slots: dict[str, int]  # how many there are, or would be

    def found(self) -> Iterator[tuple[Cell, str, Outcome]]:
        """Each cell, its directory below the root, and what is known of it."""
        store, at = Store(self.root), time.time()
        found = outcomes(self.root, [store.place(cell) for cell in self.cells], at=at)
        for cell, (place, known) in zip(self.cells, found, strict=True):
            yield cell, place, known

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
        found = cells(loader, config, list(config.hydra.overrides.task))
    one_of("retry", str(config.retry), tuple(AGAIN))
    return Plan(found, Path(str(config.hydra.sweep.dir)), str(config.retry), _slots(config))


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
    listed = dict.fromkeys(place for plan in _plans(root) for place in cells_of(plan))
    begun = layout.run_directories(root, begun=True)
    found = list(listed) or [str(path.relative_to(root)) for path in begun]
    require(bool(found), f"no plan, record or claim below {root}; run a sweep first")
    return found


def outcomes(
    root: Path, places: Iterable[str], *, at: float | None = None
) -> Iterator[tuple[str, Outcome]]:
    """What is known of cells, by their directories below a sweep's; `at` is now.

    One that has no record yet and is listed by a sweep that runs is queued.
    """
    alive = [plan for plan in _plans(root) if locks.alive(plan.with_suffix(""), at=at)]
    waiting = {place for plan in alive for place in cells_of(plan)}
    for place in places:
        found = outcome(root / place, at=at)
        queued = found.status == "missing" and place in waiting
        yield place, replace(found, status="queued") if queued else found


def _plans(root: Path) -> list[Path]:
    """The plans of a directory's sweeps, the oldest first."""
    return sorted((root / layout.PLANS).glob("*.json"), key=lambda path: path.stat().st_mtime)


def cells_of(plan: Path) -> list[str]:
    """The directories of a plan's cells below the sweep's."""
    try:
        found = [str(place) for place in json.loads(content(plan, LARGEST))["cells"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{plan} is not a readable plan: {error}") from error
    for place in found:
        if Path(place).is_absolute() or ".." in Path(place).parts:
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
