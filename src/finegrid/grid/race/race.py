"""A race over a sweep's rankings: which cells are needed, which are not, and what was decided."""

from collections.abc import Sequence

from finegrid.errors import require
from finegrid.grid.expand import Cell
from finegrid.grid.race import journal
from finegrid.grid.race.config import RaceConfig
from finegrid.grid.race.decide import Rule
from finegrid.grid.race.levels import looks
from finegrid.grid.race.track import Track
from finegrid.grid.stages import Ended, Entry
from finegrid.grid.status import Store

LIKELY = {"best": 0.55, "table": 0.7}  # of the cells, as benchmarks/racing.py has it


class Race:
    """The races of all rankings of a sweep (task, model, fraction, budget), each by itself.

    Nothing is pooled over rankings, so none waits for another. All is a pure function of the
    records of the cells that it asked for: killed and started again, run by two sweeps at once, or
    with cells ending in any order, it comes to the same cells and decisions.
    """

    def __init__(self, rule: Rule, seeds: Sequence[int], store: Store) -> None:
        self.rule, self.seeds, self.store = rule, sorted(set(seeds)), store
        self.tracks: dict[str, Track] = {}

    @classmethod
    def of(cls, config: RaceConfig, seeds: Sequence[int], store: Store) -> "Race":
        """The race that a config asks for, over the sweep's seeds.

        Raises:
            UserError: if there is one seed, or more than `race.max_seeds`.
        """
        given, most = len(set(seeds)), config.max_seeds or len(set(seeds))
        require(
            given <= most,
            f"race.max_seeds={most} is fewer than the {given} seeds of seed=; a race spends all of "
            "its alpha on max_seeds, so give as many or leave it out",
        )
        require(
            given > 1,
            f"race={config.question} needs at least two seeds, such as 'seed=range(0,5)'; "
            "race=none runs one",
        )
        rule = Rule(config.question, config.alpha, config.margin, config.futility, looks(most))
        return cls(rule, seeds, store)

    @property
    def likely(self) -> float:
        """The share of its cells that a race usually runs."""
        return LIKELY[self.rule.question]

    def needed(self, entries: Sequence[Entry], ended: Ended) -> list[Cell]:
        """The cells that are needed so far, those that have ended included; it only grows."""
        rankings: dict[str, list[Entry]] = {}
        for entry in entries:
            rankings.setdefault(entry.ranking, []).append(entry)
        wanted: set[str] = set()
        for ranking, members in rankings.items():
            track = self.tracks.setdefault(ranking, Track(self.rule, self.seeds, self.store))
            wanted |= {cell.key for cell in track.needed(members, ended)}
        return [entry.cell for entry in entries if entry.cell and entry.cell.key in wanted]

    def spared(self) -> dict[str, str]:
        """Cell's place below the sweep's directory -> why it is not needed."""
        return {place: why for one in self.tracks.values() for place, why in one.spared().items()}

    def conclude(self) -> None:
        """Write what was decided, and by which numbers, to race.jsonl, if that has changed."""
        journal.write(self.store.root, self.rule, list(self.tracks.values()))
