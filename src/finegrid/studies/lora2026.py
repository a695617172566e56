"""Is LoRA enough? Whether a variant, or full fine-tuning, beats LoRA once all rates are searched.

Lee et al. 2026 (arXiv 2602.04998) find LoRA and nine variants within 1 to 2 % once each has a
searched rate; He et al. 2026 (arXiv 2601.22708) that LoRA, well set, is level with most variants
or better. Of both the abstract is known to us; the claims here are in our words. All differences
of a setting are judged at once: those of a ranking by Tukey's intervals
(`report.stats.simultaneous`), several rankings (tasks, budgets, fractions) at 5 % divided by their
number (Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import pandas as pd

from finegrid.report import effort, formatting
from finegrid.report.load.rankings import CELL
from finegrid.report.stats import simultaneous
from finegrid.report.stats.scores import Key, Known
from finegrid.report.stats.shrunken_variance import spreads
from finegrid.report.stats.simultaneous import Pairs
from finegrid.runs import text
from finegrid.studies.contrasts import PAIRS, Where
from finegrid.studies.study import Given, Study
from finegrid.studies.verdict import LEVEL, Claim, Finding, Outcome, Verdict

LORA = ("lora_all", "lora")  # the first that was run is LoRA
VARIANTS = (
    "adalora", "dora", "fourierft", "hira", "loha", "lokr", "lora_fa", "lora_plus", "miss", "oft",
    "pissa", "randlora", "rslora", "shira", "vera",
)  # fmt: skip
FULL = "full"
SEARCH = "whose learning rates a sweep searched (tune.trials=8)"

ENOUGH = Claim(
    "no variant beats tuned LoRA",
    "With searched learning rates no variant of LoRA is better than LoRA.",
    "variant - LoRA on every task, fraction and budget: every simultaneous interval ends below "
    "the margin; the contrary: one begins above 0",
    untested=f"needs lora_all or lora, and one of {', '.join(VARIANTS)}, two seeds or more, "
    f"{SEARCH}",
)
AS_FULL = Claim(
    "full is no better than tuned LoRA",
    "With searched learning rates full fine-tuning is not better than LoRA.",
    "full - LoRA on every task, fraction and budget: every simultaneous interval ends below the "
    "margin; the contrary: one begins above 0",
    untested=f"needs lora_all or lora, and full, two seeds or more, {SEARCH}",
)


@dataclass(frozen=True)
class Pair:
    """A method and LoRA in one place; `note` says why they are not compared, if they are not."""

    where: Where
    method: str
    lora: str
    note: str = ""
    means: tuple[float, float] = (nan, nan)
    difference: float = nan  # method - LoRA
    half: float = nan  # of the simultaneous interval
    detectable: float = nan  # true difference that this would find in 80 %
    seeds: int = 0
    p_inside: float = nan  # level at which the interval would just end at the margin
    p_outside: float = nan  # level at which it would just begin at 0

    @property
    def low(self) -> float:
        """Where the interval begins."""
        return self.difference - self.half

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.difference + self.half

    def __str__(self) -> str:
        return f"{self.method} on {self.where}"


def rule(margin: float) -> str:
    """What the outcomes mean."""
    return (
        f"A claim is **confirmed** if every interval of its differences ends below {margin:g}, "
        "**contradicted** if one begins above 0 and not all end below that, else **not "
        "confirmed**, which is no evidence against it; **not tested** where the results do not "
        "cover it. The 95 % intervals of a setting hold all together, over methods, tasks, "
        "fractions and budgets; they hold the chance in seeds, and in test rows where it is known. "
        "Methods count whose rates were searched. LoRA is lora_all where it was run, else lora, "
        "and of several ways to run it the one with the highest mean. Methods are compared as they "
        "were run, whichever matrices they train: most variants are at query and value alone "
        "unless `method.roles=null` tells them otherwise, lora_all is at every matrix."
    )


def verdicts(given: Given) -> dict[int, list[Verdict]]:
    """The two claims on each setting."""
    return {number: _of_setting(given, number) for number in given.settings}


def _of_setting(given: Given, setting: int) -> list[Verdict]:
    pairs = compared(given, setting)
    runs, names = given.runs(setting), {name for pair in pairs for name in (pair.method, pair.lora)}
    spent = effort.tuning(runs[runs["method"].isin(names)]).removesuffix(".")
    of_full = [pair for pair in pairs if _name(pair.method) == FULL]
    rest = [pair for pair in pairs if _name(pair.method) != FULL]
    return [
        _verdict(claim, some, given.margin, spent)
        for claim, some in ((ENOUGH, rest), (AS_FULL, of_full))
    ]


def compared(given: Given, setting: int) -> list[Pair]:
    """Every variant, and full, less LoRA in each place of a setting, judged at once."""
    runs = given.runs(setting)
    runs = runs[runs["status"].eq("ok")]
    searched = runs.assign(yes=runs["tuning_runs"].gt(0)).groupby(CELL, observed=True)["yes"].all()
    families = {key: _family(methods) for key, methods in given.known.rankings.items()
                if key[0] == setting}  # fmt: skip
    families = {key: family for key, family in families.items() if len(family) > 1}
    tuned = {
        key: {name: cell for name, cell in family.items() if searched[(*key, name)]}
        for key, family in families.items()
    }
    many = sum(_lora(family) is not None and len(family) > 1 for family in tuned.values())
    return [
        pair
        for key, family in families.items()
        for pair in _of_ranking(given, key, family, tuned[key], many)
    ]


def _name(method: str) -> str:
    """A method without its overrides."""
    return method.partition(" ")[0]


def _family(methods: dict[str, Known]) -> dict[str, Known]:
    """LoRA in all ways that it was run, its variants and full; nothing without LoRA."""
    there = {_name(method) for method in methods}
    lora = next((name for name in LORA if name in there), None)
    wanted = {lora, FULL, *VARIANTS} if lora else set()
    return {method: cell for method, cell in methods.items() if _name(method) in wanted}


def _lora(family: dict[str, Known]) -> str | None:
    """LoRA as it scores best: the intervals hold for all pairs, so the data may choose."""
    ways = [method for method in family if _name(method) in LORA]
    return max(ways, key=lambda way: float(family[way].scores.values.mean()), default=None)


def _of_ranking(
    given: Given, key: Key, family: dict[str, Known], tuned: dict[str, Known], many: int
) -> list[Pair]:
    """The pairs of one place; `many` places are judged at once."""
    where = Where(str(key[1]), str(key[2]), float(key[3]), float(key[4]))
    lora = _lora(tuned) or str(_lora(family))
    others = [method for method in family if _name(method) not in LORA]
    race = given.results.races.get(key)
    share = (race.level if race else LEVEL) / max(many, 1)
    names, scores = list(tuned), [cell.scores for cell in tuned.values()]
    pairs = (
        simultaneous.pairs(scores, spreads(scores)) if lora in tuned and len(tuned) > 1 else None
    )
    made = []
    for method in others:
        one = Pair(where, method, lora, _untested(family, tuned, method, lora))
        if pairs is not None and not one.note:
            at = names.index(method), names.index(lora)
            one = _measured(one, pairs, at, share=share, margin=given.margin)
            means = scores[at[0]].values.mean(), scores[at[1]].values.mean()
            one = replace(one, means=(float(means[0]), float(means[1])))
        made.append(one)
    return made


def _untested(family: dict[str, Known], tuned: dict[str, Known], method: str, lora: str) -> str:
    """Why two methods are not compared; nothing if they are."""
    if unsearched := [name for name in (method, lora) if name not in tuned]:
        return f"learning rate of {' and '.join(unsearched)} not searched"
    if not family[method].learned and not family[lora].learned:
        return "neither learned anything"
    common = set(family[method].scores.seeds) & set(family[lora].scores.seeds)
    return f"seeds in common: {len(common)}" if len(common) < PAIRS else ""


def _measured(
    pair: Pair, pairs: Pairs, at: tuple[int, int], *, share: float, margin: float
) -> Pair:
    """With its simultaneous interval at level 1 - share."""
    half = float(pairs.half(1 - share)[at])
    if not 0 < half < np.inf:
        return replace(pair, note="the same at every seed: no spread to test it by")
    difference = float(pairs.difference[at])
    moved = replace(pairs, difference=pairs.difference - margin)
    inside = moved.p(*at) if difference < margin else 1.0
    outside = pairs.p(*at) if difference > 0 else 1.0
    return replace(
        pair, difference=difference, half=half, seeds=int(pairs.seeds[at]),
        detectable=pairs.detectable(*at, half),
        p_inside=min(1.0, inside * LEVEL / share), p_outside=min(1.0, outside * LEVEL / share),
    )  # fmt: skip


def _verdict(claim: Claim, pairs: Sequence[Pair], margin: float, spent: str) -> Verdict:
    tested = [pair for pair in pairs if not pair.note]
    if not tested:
        why = formatting.listed(sorted({pair.note for pair in pairs}), most=4)
        found = Finding(claim, detail=_detail(pairs))
        return Verdict(found, "not tested", why or claim.untested)
    above = [pair for pair in tested if pair.low > 0]
    outcome: Outcome = "not confirmed"
    highest = max(tested, key=lambda pair: pair.high)
    if highest.high < margin:
        outcome = "confirmed"
    elif above:
        outcome, highest = "contradicted", max(above, key=lambda pair: pair.low)
    remarks = [spent] * bool(spent)
    if outcome == "confirmed" and above:
        remarks.append(
            f"better, but by less than the margin: {formatting.listed([*map(str, above)])}"
        )
    if left := len(pairs) - len(tested):
        remarks.append(f"{left} of {len(pairs)} differences not tested, see the table")
    claim = replace(claim, measure=f"{highest.method} - {highest.lora}, {highest.where}")
    return Verdict(
        Finding(claim, detail=_detail(pairs), remarks=tuple(remarks)),
        outcome,
        _why(outcome, highest, above, len(tested)),
        _change(outcome, highest, margin),
        highest.difference, highest.low, highest.high, highest.seeds,
        max(pair.p_inside for pair in tested) if outcome != "contradicted" else highest.p_outside,
    )  # fmt: skip


def _why(outcome: Outcome, pair: Pair, above: Sequence[Pair], tested: int) -> str:
    many = formatting.number(tested, "difference")
    if outcome == "confirmed":
        return f"of {many} none can be as large as the margin; the highest interval is of {pair}"
    if outcome == "contradicted":
        return (
            f"of {many} {len(above)} shown to be above 0: {formatting.listed([*map(str, above)])}"
        )
    return (
        f"of {many} none is shown to be above 0, and not all to be below the margin; the highest "
        f"interval is of {pair}, where the least difference that would be told apart in 80 % is "
        f"{pair.detectable:.4f}"
    )


def _change(outcome: Outcome, pair: Pair, margin: float) -> str:
    """How far the interval that decides is from another verdict."""
    if outcome == "confirmed":
        return f"an interval that reaches the margin: all end {margin - pair.high:.4f} below it"
    if outcome == "contradicted":
        return f"intervals that reach 0: the highest begins {pair.low:.4f} above it"
    confirms = pair.difference < margin
    gap = margin - pair.difference if confirms else pair.difference
    return (
        f"more data, which would {'confirm' if confirms else 'contradict'} it if this difference "
        f"stayed as it is: about {(pair.half / gap) ** 2:.1f} times these"
    )


def _detail(pairs: Sequence[Pair]) -> pd.DataFrame:
    """A row a pair; without a test the reason."""
    rows = []
    for pair in pairs:
        row: dict[str, object] = {
            "task": pair.where.task, "fraction": text.percent(pair.where.fraction),
            "budget": pair.where.budget_text(), "method": pair.method, "LoRA": pair.lora,
        }  # fmt: skip
        if not pair.note:
            row |= {"mean": pair.means[0], "LoRA's": pair.means[1],
                    "method - LoRA": pair.difference,
                    "low": pair.low, "high": pair.high, "n": float(pair.seeds),
                    "detectable": pair.detectable}  # fmt: skip
        rows.append(row | {"note": pair.note})
    return pd.DataFrame(rows)


STUDY = Study("Is LoRA enough? (arXiv 2601.22708, 2602.04998)", rule, verdicts)
