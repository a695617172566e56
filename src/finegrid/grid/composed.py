"""The stages of a sweep, as its command line and config ask for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from finegrid.config import bind
from finegrid.errors import require
from finegrid.grid.expand import Cell, cells, grids
from finegrid.grid.race.config import RaceConfig
from finegrid.grid.search import Search
from finegrid.grid.stages import Stages
from finegrid.grid.status import Store
from finegrid.runs.settings import OF_SWEEP

if TYPE_CHECKING:
    from finegrid.grid.race.race import Race


def stages(
    loader: ConfigLoader, config: DictConfig, arguments: Sequence[str], store: Store
) -> Stages:
    """The cells that are asked for, with the search and the race that decide which are run.

    Raises:
        UserError: if a cell's config is invalid; Hydra's own errors if it cannot be composed.
    """
    _require_one(loader, config, arguments)
    base = cells(loader, config, arguments)
    search = Search.of(loader, config, arguments, base, store)
    race = _race(bind(RaceConfig, config.race, "race"), base, store)
    return Stages(base, search=search if search.most else None, race=race)


def _race(config: RaceConfig, base: Sequence[Cell], store: Store) -> "Race | None":
    if config.question == "none":
        return None
    from finegrid.grid.race import race  # the report's statistics take half a second to load

    return race.Race.of(config, [int(cell.facts["seed"]) for cell in base], store)


def _require_one(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> None:
    """What holds for all cells has one value: an axis of it would be left out silently."""
    for axis in (axis for axes in grids(loader, config, arguments) for axis in axes):
        one = len(axis.choices) == 1 or axis.key.partition(".")[0] not in OF_SWEEP
        values = ",".join(str(choice.value()) for choice in axis.choices)
        require(one, f"{axis.key}={values} is for the sweep, which has one; known=[a,b] is a list")
