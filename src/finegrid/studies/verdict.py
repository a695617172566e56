"""A paper's claim as a test: an effect lies in a region, in every part of the results or in one.

A part (a fraction, a budget, a layer) is an estimated effect and its t distribution. It lies inside
a region by the larger p of two one-sided tests, which between two margins is the test of
equivalence (TOST, Schuirmann 1987). Inside in every part: the largest p of the parts; inside in
some part: the smallest, times their number. A claim is confirmed if p of inside, contradicted if p
of outside is below `LEVEL`, each after Holm over all the claims judged together. Neither: not
confirmed, which is no evidence against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf, isinf, sqrt
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from finegrid.report.stats.significance import holm

LEVEL = 0.05
MOST = 1000  # times the data at hand: more is no advice
Outcome = Literal["confirmed", "not confirmed", "contradicted", "not tested"]


@dataclass(frozen=True)
class Claim:
    """What a paper says, in our words, and how it is tested here."""

    name: str
    text: str
    test: str
    measure: str = ""  # what the effect is, such as `bitfit - full`
    untested: str = ""  # why there is no part, if there is none, and what to run
    everywhere: bool = True  # in every part; else: in one at least
    ratio: bool = False  # effects and region are logarithms of ratios


@dataclass(frozen=True)
class Estimate:
    """An effect, its standard error with its degrees of freedom, and the pairs or runs behind."""

    mean: float
    se: float
    df: float
    n: int

    def above(self, bound: float) -> float:
        """p of the one-sided test that the effect is above a bound."""
        if isinf(bound):
            return float(bound > 0)
        if self.se == 0:
            return float(self.mean <= bound)
        t = (self.mean - bound) / self.se
        return float(special.stdtr(self.df, -t))

    def below(self, bound: float) -> float:
        """p of the one-sided test that the effect is below a bound."""
        return replace(self, mean=-self.mean).above(-bound)

    def inside(self, region: tuple[float, float]) -> float:
        """p of the effect lying between the bounds, of which one may be infinite."""
        return max(self.above(region[0]), self.below(region[1]))

    def outside(self, region: tuple[float, float]) -> float:
        """p of the effect lying beyond one of the bounds."""
        sides = sum(not isinf(bound) for bound in region)
        return min(1.0, sides * min(self.below(region[0]), self.above(region[1])))

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """The two-sided t interval."""
        half = float(special.stdtrit(self.df, (1 + level) / 2)) * self.se
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Finding:
    """What the results say on a claim, before it is judged together with others."""

    claim: Claim
    parts: Mapping[str, Estimate] = field(default_factory=dict)
    region: tuple[float, float] = (-inf, inf)  # where the claim says that the effect lies
    detail: pd.DataFrame = field(default_factory=pd.DataFrame)
    remarks: tuple[str, ...] = ()

    @property
    def decisive(self) -> str:
        """The part that the claim stands or falls with."""
        choose = max if self.claim.everywhere else min
        return choose(self.parts, key=lambda part: self.parts[part].inside(self.region))

    @property
    def p_inside(self) -> float:
        """p of the claim."""
        p = [part.inside(self.region) for part in self.parts.values()]
        return max(p) if self.claim.everywhere else min(1.0, len(p) * min(p))

    @property
    def p_outside(self) -> float:
        """p of the claim's contrary: outside somewhere, or everywhere."""
        p = [part.outside(self.region) for part in self.parts.values()]
        return min(1.0, len(p) * min(p)) if self.claim.everywhere else max(p)

    def shown(self, effect: float) -> float:
        """An effect on its scale: a ratio, not its logarithm."""
        return exp(effect) if self.claim.ratio else effect

    @property
    def region_text(self) -> str:
        """Where the claim says that the effect lies."""
        low, high = map(self.shown, self.region)
        if isinf(self.region[1]):
            return f"above {low:g}"
        return f"below {high:g}" if isinf(self.region[0]) else f"between {low:g} and {high:g}"


@dataclass(frozen=True)
class Verdict:
    """A judged finding; effect and interval (95 %) are those of its decisive part."""

    finding: Finding
    outcome: Outcome
    why: str
    change: str = ""  # what would change the verdict
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None  # of the claim, or of its contrary where contradicted; after Holm


def of_paper(margin: float) -> str:
    """What the outcomes mean where a paper makes the claims."""
    return (
        f"{rule(margin)} Claims are in our words, from the abstract: how the paper itself tested "
        "them is not known to us."
    )


def rule(margin: float) -> str:
    """What the outcomes of `judge` mean, for the top of a page."""
    return (
        f"A claim is **confirmed** if its test has p < {LEVEL:g}, **contradicted** if the test of "
        "its contrary has; else **not confirmed**, which is no evidence against it; **not tested** "
        "where the results do not cover it. p is corrected for the number of claims that the page "
        "tests (Holm), and is of the claim as its test states it, not of a difference from 0. "
        f"Scores count as equal if they are shown to differ by less than {margin:g} (two one-sided "
        "tests). Differences are paired by seed; n counts the pairs, those of all tasks that a "
        "part is of. Intervals (95 %, not corrected) hold the chance in seeds, and in test rows "
        "where predictions are at hand."
    )


def judge_all(findings: Mapping[int, Sequence[Finding]]) -> dict[int, list[Verdict]]:
    """Number of a setting -> the verdicts on its findings; all are judged together."""
    judged = iter(judge([finding for several in findings.values() for finding in several]))
    return {number: [next(judged) for _ in several] for number, several in findings.items()}


def judge(findings: Sequence[Finding]) -> list[Verdict]:
    """Verdicts in the order of the findings; none is dropped."""
    tested = [finding for finding in findings if finding.parts]
    holds = iter(holm(np.array([finding.p_inside for finding in tested])).tolist())
    fails = iter(holm(np.array([finding.p_outside for finding in tested])).tolist())
    return [
        _verdict(finding, next(holds), next(fails), len(tested))
        if finding.parts
        else Verdict(finding, "not tested", finding.claim.untested)
        for finding in findings
    ]


def _verdict(finding: Finding, holds: float, fails: float, claims: int) -> Verdict:
    part = finding.parts[finding.decisive]
    outcome: Outcome = "not confirmed"
    if holds < LEVEL:
        outcome = "confirmed"
    elif fails < LEVEL:
        outcome = "contradicted"
    low, high = map(finding.shown, part.interval())
    why, change = _why(finding, outcome), _change(finding, part, outcome, claims)
    p = fails if outcome == "contradicted" else holds
    return Verdict(finding, outcome, why, change, finding.shown(part.mean), low, high, part.n, p)


def _why(finding: Finding, outcome: Outcome) -> str:
    several, region = len(finding.parts) > 1, finding.region_text
    every = f" in all {len(finding.parts)} parts" if several else ""
    here = f" ({finding.decisive})" if several else ""
    if outcome == "confirmed":
        some = f" in one of {len(finding.parts)} parts at least{here}" if several else ""
        return f"shown to be {region}{every if finding.claim.everywhere else some}"
    if outcome == "contradicted":
        side = "above" if finding.parts[finding.decisive].mean > finding.region[1] else "below"
        return f"shown to be {side}, not {region}{here if finding.claim.everywhere else every}"
    return f"neither shown to be {region} nor not to be{here}: too few data, or too near the bound"


def _change(finding: Finding, part: Estimate, outcome: Outcome, claims: int) -> str:
    """How far the decisive part is from another verdict."""
    gap = min(abs(part.mean - bound) for bound in finding.region)
    if outcome != "not confirmed":
        half = part.interval()[1] - part.mean
        return (
            "an effect so near the bound that its interval reaches it: now it is "
            f"{_far(finding, gap)} from it, the interval's half width {_far(finding, half)}"
        )
    if gap == 0 or part.se == 0:
        return "an effect that is not on the bound"
    confirms = finding.region[0] < part.mean < finding.region[1]
    several = 1 if confirms == finding.claim.everywhere else len(finding.parts)
    sides = 1 if confirms else sum(not isinf(bound) for bound in finding.region)
    needed = part.se * float(special.stdtrit(part.df, 1 - LEVEL / (claims * several * sides)))
    times = (needed / gap) ** 2
    if times > MOST:
        return "another effect: this one is so near the bound that no amount of data tells it"
    return (
        f"more data, which would {'confirm' if confirms else 'contradict'} it if the effect stayed "
        f"as it is: up to {times:.1f} times these"
    )


def _far(finding: Finding, gap: float) -> str:
    return f"a factor of {exp(gap):.3g}" if finding.claim.ratio else f"{gap:.4f}"


def over_tasks(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of effects whose errors are independent (Welch-Satterthwaite)."""
    count, variances = len(estimates), [estimate.se**2 for estimate in estimates]
    total = sum(variances)
    spread = sum(v**2 / estimate.df for v, estimate in zip(variances, estimates, strict=True))
    return Estimate(
        mean=float(np.mean([estimate.mean for estimate in estimates])),
        se=sqrt(total) / count,
        df=total**2 / spread if spread else min(estimate.df for estimate in estimates),
        n=sum(estimate.n for estimate in estimates),
    )


def within_task(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of effects whose errors may go together: its standard error is at most this."""
    return Estimate(
        mean=float(np.mean([estimate.mean for estimate in estimates])),
        se=float(np.mean([estimate.se for estimate in estimates])),
        df=min(estimate.df for estimate in estimates),
        n=sum(estimate.n for estimate in estimates),
    )


def of_values(values: np.ndarray, *, least: float = 0.0) -> Estimate:
    """The mean of independent values, whose spread is taken to be at least `least`."""
    spread = max(float(np.std(values, ddof=1)), least)
    return Estimate(
        float(np.mean(values)), spread / sqrt(len(values)), len(values) - 1, len(values)
    )
