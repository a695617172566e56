"""One ranking's race: which of its cells are needed, look by look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finegrid.grid.expand import Cell
from finegrid.grid.race.decide import Decision, Rule, Standing, decide
from finegrid.grid.race.evidence import scored
from finegrid.grid.stages import Ended, Entry
from finegrid.grid.status import Store
from finegrid.report.load.races import LIVE

Cells = dict[str, dict[int, Cell | None]]  # method -> seed -> cell, None while its rate is unknown


@dataclass(frozen=True)
class Look:
    """A look that was taken."""

    cells: Mapping[str, Sequence[Cell]]  # method -> those that it has up to this look
    decision: Decision


class Track:
    """One ranking, which is judged by itself: what others in the sweep do changes nothing.

    A look is taken when every cell up to it has ended, and sees those cells alone. So its
    decision does not depend on the order in which cells end, nor on what else lies on disk. It is
    taken once: asking again costs nothing until more cells have ended.
    """

    def __init__(self, rule: Rule, seeds: Sequence[int], store: Store) -> None:
        self.rule, self.seeds, self.store = rule, seeds, store
        self.looks: list[Look] = []
        self.cells: Cells = {}

    @property
    def decided(self) -> str:
        """How it ended; empty while it goes on."""
        return self.looks[-1].decision.decided if self.looks else ""

    def needed(self, entries: Sequence[Entry], ended: Ended) -> list[Cell]:
        """The cells that are needed so far, those that have ended included."""
        self.cells = {}
        for entry in entries:
            self.cells.setdefault(entry.method, {})[entry.seed] = entry.cell
        while not self.decided:
            upto = self._upto()
            known = [cell for several in upto.values() for cell in several if cell]
            seeds = self.rule.looks[len(self.looks)]
            incomplete = any(None in several for several in upto.values())
            if len(self.cells) < 2 or seeds > len(self.seeds) or incomplete:
                return known
            if any(ended(cell) is None for cell in known):
                return known
            self.looks.append(self._look({m: [c for c in s if c] for m, s in upto.items()}))
        return [cell for several in self.looks[-1].cells.values() for cell in several]

    def spared(self) -> dict[str, str]:
        """Cell's place below the sweep's directory -> why it is not needed."""
        return {
            self.store.place(cell): f"decided at {self._stop(method)} seeds"
            for method, by_seed in self.cells.items()
            for seed, cell in by_seed.items()
            if cell and self._stop(method) and seed in self.seeds[self._stop(method) :]
        }

    def _upto(self) -> dict[str, list[Cell | None]]:
        """The cells of each method up to the next look, or to where the method was stopped."""
        alone = len(self.cells) < 2
        at = len(self.seeds) if alone else self.rule.looks[len(self.looks)]
        upto = {}
        for method, by_seed in self.cells.items():
            first = self.seeds[: self._stop(method) or at]
            upto[method] = [by_seed[seed] for seed in first if seed in by_seed]
        return upto

    def _stop(self, method: str) -> int:
        """The seeds at which a method was stopped, by itself or with all others; 0: it was not."""
        for look, seeds in zip(self.looks, self.rule.looks, strict=False):
            state = look.decision.standings[method].state
            if state != LIVE or look.decision.decided:
                return seeds
        return 0

    def _look(self, cells: Mapping[str, Sequence[Cell]]) -> Look:
        methods = {cell.key: method for method, several in cells.items() for cell in several}
        runs = self.store.frame([cell for several in cells.values() for cell in several])
        standings: Mapping[str, Standing] = dict.fromkeys(cells, Standing())
        if self.looks:
            standings = self.looks[-1].decision.standings
        decision = decide(self.rule, len(self.looks), scored(runs, methods), standings)
        return Look(cells, decision)
