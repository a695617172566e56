"""A study: the claims of one paper or of several, judged on the runs of each setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from finegrid.report.load.rankings import Results
from finegrid.report.stats.scores import Evidence
from finegrid.studies.contrasts import Cells, cells_of
from finegrid.studies.verdict import Verdict


@dataclass(frozen=True)
class Given:
    """What a study judges by."""

    results: Results
    known: Evidence
    margin: float  # within which scores count as equal
    distances: pd.DataFrame | None = None  # of finegrid analyse; none: not measured
    overlap: pd.DataFrame | None = None

    @property
    def settings(self) -> list[int]:
        """Those to judge. Random weights are a control, left out unless all are."""
        every = sorted(set(self.results.runs["setting"]))
        return [n for n in every if self.results.settings[n].pretrained] or every

    def runs(self, setting: int) -> pd.DataFrame:
        """The runs of a setting."""
        return self.results.runs[self.results.runs["setting"] == setting]

    def cells(self, setting: int) -> Cells:
        """The cells of a setting that have a score."""
        return cells_of(self.results, self.known, setting)


@dataclass(frozen=True)
class Study:
    """How a page of verdicts is made."""

    title: str
    rule: Callable[[float], str]  # margin -> what the outcomes mean
    verdicts: Callable[[Given], Mapping[int, Sequence[Verdict]]]  # by number of a setting
    mix: tuple[str, ...] = ()  # fields of a setting between which it compares
    needs: str = ""  # what there must be for a claim
