"""Which cells a sweep needs: all of its grid, or those that a search and a race ask for so far.

What is needed is a pure function of the records on disk: killed and started again, run by two
sweeps at once, on any launcher and in any order of finishing, a sweep comes to the same cells.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from finegrid.grid.expand import Cell
from finegrid.grid.status import Outcome
from finegrid.runs.settings import RECORDED, Role, deciding, role, split_override

if TYPE_CHECKING:  # which import this module
    from finegrid.grid.race.race import Race
    from finegrid.grid.search import Search

Ended = Callable[[Cell], Outcome | None]  # how a cell ended, None while it has not
OF_RUN = ("method", "seed", "lr", "trial")  # what of a record tells runs of one ranking apart
# What these have in common, as in a report
RANKING = (*(name for name in RECORDED if name not in OF_RUN), "budget_unit", "budget")
# Axes that do not tell a ranking's methods apart
COMMON = {"task", "model", "method", "seed", "budget", "data.fraction", "data.rows"}


@dataclass(frozen=True)
class Entry:
    """One cell of a comparison, and its place there."""

    ranking: str  # its ranking's key: what all but methods and seeds have in common
    method: str  # the method's label within the ranking
    seed: int
    cell: Cell | None  # None: its rate is not known yet


class Stages:
    """The stages of a sweep: a search, if it has one, then the comparison, whole or as a race."""

    def __init__(
        self, base: Sequence[Cell], *, search: "Search | None" = None, race: "Race | None" = None
    ) -> None:
        self.base, self.search, self.race = list(base), search, race
        self.entries = list(entries(self.base)) if race else []

    @property
    def adaptive(self) -> bool:
        """Whether records decide what is needed."""
        return self.search is not None or self.race is not None

    @property
    def most(self) -> int:
        """Cells at most."""
        return len(self.base) + (self.search.most if self.search else 0)

    @property
    def likely(self) -> int:
        """Cells that such sweeps usually run."""
        share = self.race.likely if self.race else 1.0
        return self.most - len(self.base) + round(share * len(self.base))

    def needed(self, ended: Ended) -> list[Cell]:
        """The cells that are needed so far, those that have ended included, each once."""
        trials = self.search.needed(ended) if self.search else []
        compared = [self._tuned(cell, ended) for cell in self.base]
        if self.race:
            pairs = zip(self.entries, compared, strict=True)
            cells = self.race.needed([replace(one, cell=cell) for one, cell in pairs], ended)
        else:
            cells = [cell for cell in compared if cell]
        return list({cell.key: cell for cell in (*trials, *cells)}.values())

    def spared(self) -> dict[str, str]:
        """Cell's place below the sweep's directory -> why it is not needed."""
        return self.race.spared() if self.race else {}

    def conclude(self) -> None:
        """Write what the stages leave in the sweep's directory."""
        for stage in (self.search, self.race):
            if stage:
                stage.conclude()

    def summary(self) -> list[str]:
        """Lines for the end of a sweep."""
        return self.search.summary() if self.search else []

    def _tuned(self, cell: Cell, ended: Ended) -> Cell | None:
        return self.search.tuned(cell, ended) if self.search else cell


def entries(cells: Sequence[Cell]) -> Iterator[Entry]:
    """Each cell with its ranking, and its method's label there."""
    rankings: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        rankings[_ranking(cell)].append(cell)
    varied = {key: _varied(members) for key, members in rankings.items()}
    for cell in cells:
        key = _ranking(cell)
        options = [line for line in cell.overrides if split_override(line)[0] in varied[key]]
        label = " ".join([cell.facts["method"], *options])
        yield Entry(key, label, int(cell.facts["seed"]), cell)


def _ranking(cell: Cell) -> str:
    values = [cell.facts.get(name) for name in RANKING]
    precision, task = cell.config["trainer"]["precision"], deciding(cell.config)["task"]
    return json.dumps([*values, precision, task], default=str)


def _varied(cells: Sequence[Cell]) -> set[str]:
    """The settings besides the common ones in which the cells of a ranking differ."""
    values: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        for line in cell.overrides:
            key, value = split_override(line)
            values[key].add(value)
    return {
        key
        for key, several in values.items()
        if key not in COMMON
        and key.partition(".")[0] not in ("budget", "task")
        and role(key) in (Role.RESULT, Role.SOURCE)
        and (len(several) > 1 or sum(_has(cell, key) for cell in cells) < len(cells))
    }


def _has(cell: Cell, key: str) -> bool:
    return any(split_override(line)[0] == key for line in cell.overrides)
