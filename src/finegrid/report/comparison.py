"""Runs, compared: what a report's tables, figures, page and files are made from."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from finegrid.report.load import rankings
from finegrid.report.load.rankings import Results
from finegrid.report.recommend.options import Draws
from finegrid.report.stats import compare
from finegrid.report.stats.compare import Standings
from finegrid.report.stats.scores import Evidence, evidence

if TYPE_CHECKING:
    from finegrid.report.figures.draw import Figure
    from finegrid.report.headlines import Headline
    from finegrid.report.paper import PaperTable


@dataclass(frozen=True)
class Comparison:
    """Runs in rankings, with the statistics of each cell."""

    runs: pd.DataFrame  # of `rankings.load`
    results: Results
    evidence: Evidence
    cells: pd.DataFrame  # of `compare.cells`
    best: pd.DataFrame  # of `compare.against_best`
    level: float  # of the intervals and ties

    @classmethod
    def of(
        cls,
        runs: pd.DataFrame,
        *,
        mix: Collection[str] = (),
        level: float = 0.95,
        tell: Callable[[int], None] = lambda done: None,
    ) -> "Comparison":
        """Compare runs, as `rankings.load` gives them; `tell` hears how many are read.

        Raises:
            UserError: if `mix` names no field of a setting, or no run can be placed.
        """
        results = rankings.gather(runs, mix=mix)
        known = evidence(results, tell=tell)
        results = replace(results, notes=(*results.notes, *known.notes))
        cells = compare.cells(results, known, level=level)
        best = compare.against_best(results, known, level=level)
        return cls(runs, results, known, cells, best, level)

    @cached_property
    def draws(self) -> Draws:
        """Joint draws of the methods' true means, per ranking."""
        return compare.draws(self.results, known=self.evidence)

    @cached_property
    def standings(self) -> Standings:
        """Each cell's scores and spread, for comparisons beyond its ranking."""
        return compare.standings(self.evidence, self.results.races, level=self.level)

    @cached_property
    def crossings(self) -> pd.DataFrame:
        """At how many labels methods overtake one another, where there are three amounts."""
        from finegrid.report.stats import crossings

        return crossings.crossings(self.results, self.evidence, level=self.level)

    @cached_property
    def models(self) -> pd.DataFrame:
        """Which model is ahead with each method, where runs differ in nothing else."""
        from finegrid.report.stats import models

        return models.models(self.results, self.evidence, level=self.level)

    @cached_property
    def headlines(self) -> "list[Headline]":
        """Which method leads each task, and by what: the facts of the answer."""
        from finegrid.report.headlines import headlines

        return headlines(self)

    @cached_property
    def paper(self) -> "list[PaperTable]":
        """The tables of a paper, in words."""
        from finegrid.report import paper

        return paper.tables(self.results, self.cells, self.best, level=self.level)

    @cached_property
    def drawn(self) -> "tuple[list[Figure], str]":
        """The figures and a note on those left out; matplotlib takes a second to load."""
        from finegrid.report.figures import draw
        from finegrid.report.load import published

        return draw.draw(
            self.results, self.cells, self.best, references=published.references(),
            level=self.level,
        )  # fmt: skip
