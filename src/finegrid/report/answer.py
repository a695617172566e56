"""The verdict in words, and what to do next: the end of runs, sweeps, demo, page, `recommend`, API.

All that is said of which method leads is made here, from the facts of `headlines` or of a decision.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import pandas as pd

from finegrid.report import between_models, effort, formatting, rising
from finegrid.report.comparison import Comparison
from finegrid.report.headlines import Headline, Lead, Method, Outcome
from finegrid.report.load.rankings import RANKING
from finegrid.report.next_step import next_step
from finegrid.report.stats import sums
from finegrid.report.tables import plain
from finegrid.runs.text import markdown_table

OTHERS = ("data", "budget", "leads", "level with it", "ahead", "P(best)", "often missed below")


@dataclass(frozen=True)
class Answer:
    """The verdict on some runs, and what to do next."""

    sentence: str  # which method leads, which are level with it, whether any learned anything
    rising: str  # that validation still rose when the budget ended; "" where it did not
    command: str  # the next step: one shell command

    def text(self, *, report: Path | None = None) -> str:
        """All of it, as a terminal shows it: a line each, with the page's path if there is one."""
        page = f"report: {report}" if report else ""
        lines = filter(None, (self.sentence, self.rising, page, f"next: {self.command}"))
        return "\n".join(lines).replace(formatting.SPACE, " ")


def answer(comparison: Comparison) -> Answer:
    """The verdict on runs that have been compared; on the setting with most of them, if several."""
    runs = comparison.results.runs
    groups = by_setting(comparison, comparison.headlines)
    if not groups:
        return Answer(_nothing(runs), "", next_step(runs, [], rising=False))
    _, overall, first = groups[0]
    mine = runs[runs["setting"].eq(first[0].setting)]
    sentence = overall or " ".join(_alone(one) for one in first)
    still = still_rising(_at_the_top(mine, first))
    models = "" if overall else between_models.sentence(comparison, first[0])
    parts = [sentence, _over(first), models, effort.tuning(mine), _lost(mine),
             _aside(len(groups) - 1)]  # fmt: skip
    command = next_step(mine, first, rising=bool(still))
    return Answer(" ".join(filter(None, parts)), still, command)


def markdown(comparison: Comparison) -> str:
    """The answers as Markdown: of each task with the most data, then a line with each other."""
    groups = by_setting(comparison, comparison.headlines)
    parts = ["## Answer"] if groups else [plain(_nothing(comparison.results.runs))]
    for setting, sentence, found in groups:
        parts += [plain(f"{setting}.")] if len(groups) > 1 else []
        parts += [f"**{plain(sentence)}**"] if sentence else []
        for one in found:
            parts.append(f"**{plain(_alone(one))}** {plain(_surely(one.main))}")
            parts += [markdown_table(OTHERS, [*map(_other, one.others)])] if one.others else []
    parts += [f"**{plain(sentence)}**" for sentence in between_models.sentences(comparison)]
    return "\n\n".join(parts) + "\n"


def _alone(one: Headline) -> str:
    main = one.main
    place = f" on {one.task} ({main.data} of the data, {main.budget}, {main.best.seeds})"
    return verdict(main, one.metric, place=place)


def _surely(outcome: Outcome) -> str:
    """By how much the best leads, how probably it is the best, and what would often be missed."""
    chance = f"{outcome.best.name} is best with probability {outcome.chance}"
    doubt = "" if outcome.few else outcome.doubt[:1].upper() + outcome.doubt[1:]
    said = filter(None, (outcome.behind, outcome.chance and chance, doubt))
    return " ".join(f"{sentence}." for sentence in said)


def _other(outcome: Outcome) -> list[str]:
    """A row of the table of other amounts and budgets."""
    best, level = outcome.best, formatting.listed(outcome.level, most=6)
    leads = f"{outcome.leads} {best.score}"
    missed = formatting.score(outcome.detectable, 3)
    cells = (outcome.data, outcome.budget, leads, level, outcome.behind, outcome.chance, missed)
    return [plain(cell) for cell in cells]


def verdict(lead: Lead, metric: str, *, place: str = "") -> str:
    """Who leads, who is level with it, what is cheaper and level, and who learned nothing.

    Args:
        lead: the facts.
        metric: of the scores, in words.
        place: where it leads, with a space before it.
    """
    best, constant = lead.best, _constant(metric)
    nought = "" if lead.constant != lead.constant else formatting.score(lead.constant)
    chance = f"than {constant}{nought and f' ({nought})'}, tested on rows at 5 %"
    if not lead.learned and lead.methods == 1:
        return f"{best.name} learned nothing{place}: {metric} {best.score} is no better {chance}."
    if not lead.learned:
        highest = f"The highest mean is that of {best.name}, {best.score}."
        highest = f"All have the same mean, {best.score}." if lead.equal else highest
        return f"No method learned anything{place}: none is better {chance}. {highest}"
    score = f"{metric} {best.score}" + (f" ({constant} scores {nought})" if nought else "")
    others, race = formatting.listed(lead.level, most=8), f" {lead.race}" if lead.race else ""
    if lead.methods == 1:
        text = f"{best.name} is the only method with a score{place}: {score}."
    elif lead.equal:
        text = f"All {lead.methods} methods have the same mean{place}: {score}{race}."
    elif not lead.level:
        text = f"{best.name} is the best{place}: {score}, told apart from every other method{race}."
    else:
        text = f"{best.name} leads{place}: {score}, but cannot be told apart from {others}{race}."
    return " ".join(filter(None, (text, *_beside(lead, constant))))


def _beside(lead: Lead, constant: str) -> tuple[str, ...]:
    dull = formatting.listed(lead.unlearned, most=8)
    return (
        _cheaper(lead.best, lead.smallest, lead.quickest),
        _same(lead),
        f"No better than {constant}: {dull}." if dull else "",
        f"{lead.few}." if lead.few else "",
    )


def _same(lead: Lead) -> str:
    """Why the leader is named and not another with the same mean."""
    if not lead.same:
        return ""
    have = "has" if len(lead.same) == 1 else "have"
    names = formatting.listed(lead.same, most=8)
    return f"{names} {have} exactly the same mean; by bytes, then seconds, {lead.best.name} leads."


def _constant(metric: str) -> str:
    """What the best constant prediction is, by the metric that it is best in."""
    if "pearson" in metric or "spearman" in metric:
        return "the mean"
    of_sums = [one.statistic for name, one in sums.METRICS.items() if name in metric]
    if of_sums:
        return sums.CONSTANTS.get(of_sums[0], "one answer for every row")
    return "always one class" if metric.startswith("f1") else "the majority class"


def _cheaper(best: Method, smallest: Method | None, quickest: Method | None) -> str:
    """Which of those level with the best costs less, and how much less."""
    parts = []
    if smallest and smallest.stored != best.stored:
        parts.append(f"{smallest.name} stores least ({smallest.stored}, not {best.stored})")
    if quickest and quickest.seconds != best.seconds:
        who = "" if parts and quickest == smallest else f"{quickest.name} "
        parts.append(f"{who}trains quickest ({quickest.seconds}, not {best.seconds})")
    return f"Of these {' and '.join(parts)}." if parts else ""


def still_rising(cells: Mapping[str, Sequence[pd.DataFrame]]) -> str:
    """The sentence on methods whose validation still rose, by the runs of their cells; or ""."""
    named = []
    for name, several in cells.items():
        gains = [gain for gain in map(rising.gain, several) if gain is not None]
        if gains:
            named.append(f"{name}{_by(max(gains))}")
    if not named:
        return ""
    names = formatting.listed(named, most=4)
    return (
        f"Validation still rose in the last third of the budget: {names}; a larger budget may "
        "change the answer."
    )


def _at_the_top(runs: pd.DataFrame, found: Sequence[Headline]) -> dict[str, list[pd.DataFrame]]:
    """Method -> its runs in each main ranking that it leads or is level in."""
    cells: dict[str, list[pd.DataFrame]] = {}
    for one in found:
        of_ranking = runs[(runs[RANKING] == one.key).all(axis=1)]
        for name in one.top or (one.main.best.name,):
            cells.setdefault(name, []).append(of_ranking[of_ranking["method"].eq(name)])
    return cells


def _by(gain: float) -> str:
    return "" if gain != gain else f" (by {formatting.score(gain, 3)})"


def overall(found: Sequence[Headline]) -> str:
    """One sentence over the tasks of a setting; nothing for one task."""
    tasks = len(found)
    if tasks < 2:
        return ""
    names = Counter(name for one in found for name in one.top)
    if not names:
        return f"No method learned anything on any of the {tasks} tasks."
    dull = [one.task for one in found if not one.top]
    none = f" No method learned anything on {formatting.listed(dull)}." if dull else ""
    most = max(names.values())
    often = [name for name, many in names.items() if many == most]
    if most == tasks:
        return (
            f"Best, or not told apart from the best, on all {tasks} tasks: "
            f"{formatting.listed(often)}.{_least(often, found)}"
        )
    return (
        f"No method is best, or level with the best, on all {tasks} tasks; most often, on {most}: "
        f"{formatting.listed(often)}.{none}"
    )


def _least(names: Sequence[str], found: Sequence[Headline]) -> str:
    """Which of several methods stores least over the tasks, if it is near the best on all."""
    stored = [dict(one.main.stored) for one in found]
    means = {name: sum(one.get(name, nan) for one in stored) / len(stored) for name in names}
    known = {name: mean for name, mean in means.items() if not formatting.missing(mean)}
    if len(known) < 2:
        return ""
    least = min(known, key=lambda name: known[name])
    return f" Of these {least} stores least: {formatting.size(known[least])} a task."


def by_setting(
    comparison: Comparison, found: Sequence[Headline]
) -> list[tuple[str, str, list[Headline]]]:
    """(setting in words, the sentence over its tasks, its headlines); that of most runs first."""
    results = comparison.results
    sizes = results.runs.setting.value_counts().sort_index()
    groups = []
    for number in sizes.sort_values(ascending=False, kind="stable").index:
        if of_setting := [one for one in found if one.setting == number]:
            setting = formatting.setting(results.settings[number])
            groups.append((setting, overall(of_setting), of_setting))
    return groups


def _nothing(runs: pd.DataFrame) -> str:
    """That no run has a score, and why the first has none."""
    ends = ", ".join(f"{many} {end}" for end, many in runs["status"].value_counts().items())
    errors = runs["error"].dropna().astype(str)
    why = f" The first says: {errors.iloc[0][:200]}" if len(errors) else ""
    return f"No run has a score, so there is no answer: {ends}.{why}"


def _over(found: Sequence[Headline]) -> str:
    """By what race a sentence over several tasks stands; that of one task says so itself."""
    races = sorted({one.main.race for one in found} - {""})
    return f"Decided {formatting.listed(races)}." if races and len(found) > 1 else ""


def _lost(runs: pd.DataFrame) -> str:
    lost = int((runs["status"].ne("ok") | runs["test"].isna()).sum())
    return f"{lost} of {formatting.number(len(runs), 'run')} have no score." if lost else ""


def _aside(others: int) -> str:
    what = formatting.number(others, "other setting")
    return (
        f"{what} cannot stand in one ranking with this one; the report shows them."
        if others
        else ""
    )
