"""A paper's claims on a page: what was run, each verdict with its numbers, what would change it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from finegrid.report import formatting
from finegrid.report.load.rankings import CELL, Results, ordered
from finegrid.runs import text
from finegrid.studies.verdict import Finding, Outcome, Verdict

WHOLE = {"n", "ok", "failed", "constant"}  # columns to show as they are
LEAST = 1e-4  # p values are not told apart below
COMMANDS = 20  # listed at most


def page(
    title: str,
    results: Results,
    verdicts: Mapping[int, Sequence[Verdict]],
    *,
    rule: str,
    command: str,
    preface: str = "",
    figures: Sequence[str] = (),
) -> str:
    """The page as Markdown; the same results give the same text.

    Args:
        title: of the paper.
        results: what was judged.
        verdicts: number of a setting -> what its runs say on each claim.
        rule: what the outcomes mean.
        command: that writes the page.
        preface: what its author has to say, as Markdown.
        figures: links, relative to the page.
    """
    parts = [f"# {title}: claims tested", f"Written by `{command}`.", rule]
    parts += [preface.strip()] * bool(preface.strip())
    for number, several in verdicts.items():
        runs = results.runs[results.runs["setting"] == number]
        parts += [
            f"## {formatting.setting(results.settings[number])}",
            _counted(several) + _scale(runs),
        ]
        parts += [_summary(several), *(_section(verdict) for verdict in several)]
        parts += ["### What was run", _grid(runs)]
    parts += [_commands(results.runs), *_listed("Notes on the runs", results.notes)]
    parts += ["## Figures"] * bool(figures) + [f"![{link}]({link})" for link in figures]
    return "\n\n".join(parts) + "\n"


def _counted(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    order: tuple[Outcome, ...] = ("confirmed", "contradicted", "not confirmed", "not tested")
    named = ", ".join(f"{counts[outcome]} {outcome}" for outcome in order if counts[outcome])
    return f"Of {len(verdicts)} claims: {named}."


def _scale(runs: pd.DataFrame) -> str:
    """What to hold the margin against."""
    full = runs[runs["method"].eq("full") & runs["status"].eq("ok")]
    spread = full.groupby(CELL, observed=True)["test"].std().median()
    return (
        f" For scale: seeds spread full's scores by {spread:.4f} (median sd)." if spread > 0 else ""
    )


def _summary(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for verdict in verdicts:
        claim = verdict.finding.claim
        said = [claim.name, claim.text, f"**{verdict.outcome}**"]
        part = _decisive(verdict) if verdict.finding.parts or not verdict.n else claim.measure
        rows.append([*said, part, *_numbers(verdict)])
    head = ["claim", "what it says", "verdict", "stands or falls with", "effect", "95 %", "n", "p"]
    return text.markdown_table(head, rows)


def _decisive(verdict: Verdict) -> str:
    """The part whose numbers stand for a claim; nothing where it has one part."""
    return verdict.finding.decisive if len(verdict.finding.parts) > 1 else ""


def _numbers(verdict: Verdict) -> list[str]:
    """Effect, interval, n and p; blanks without a test."""
    if verdict.effect is None:
        return [""] * 4
    sign = "" if verdict.finding.claim.ratio else "+"
    effect, low, high = (f"{x:{sign}.4f}" for x in (verdict.effect, verdict.low, verdict.high))
    return [effect, f"{low} to {high}", str(verdict.n), _p(verdict.p)]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value >= LEAST else f"< {LEAST:g}"


def _section(verdict: Verdict) -> str:
    """One claim: its test, its verdict, its parts and places."""
    finding = verdict.finding
    lines = [f"### {finding.claim.name}: {verdict.outcome}", finding.claim.text]
    lines.append(f"Test: {finding.claim.test}.")
    if verdict.effect is None:
        lines.append(f"Not tested: {verdict.why}.")
    else:
        lines.append(_told(verdict))
        lines.append(f"What would change the verdict: {verdict.change}.")
    lines += [f"Note: {remark}." for remark in finding.remarks]
    if len(finding.parts) > 1:
        lines.append(_parts(finding))
    if len(finding.detail):
        lines.append(_frame(finding.detail))
    return "\n\n".join(lines)


def _told(verdict: Verdict) -> str:
    finding = verdict.finding
    effect, interval, n, p = _numbers(verdict)
    p = p if p.startswith("<") else f"= {p}"
    part = f" ({_decisive(verdict)})" if _decisive(verdict) else ""
    return (
        f"Verdict: {verdict.outcome}; {verdict.why}. {finding.claim.measure}{part}: {effect} "
        f"({interval}), n = {n}, corrected p {p}."
    )


def _parts(finding: Finding) -> str:
    every = "every part" if finding.claim.everywhere else "some part"
    rows = []
    for name, part in finding.parts.items():
        low, high = map(finding.shown, part.interval())
        effect = finding.shown(part.mean)
        p = part.inside(finding.region)
        rows.append([name, f"{effect:.4f}", f"{low:.4f} to {high:.4f}", str(part.n), _p(p)])
    head = [f"part (the claim: {every} {finding.region_text})", "effect", "95 %", "n", "p alone"]
    return text.markdown_table(head, rows)


def _frame(table: pd.DataFrame) -> str:
    rows = [
        [_cell(str(name), value) for name, value in row.items()] for row in table.to_dict("records")
    ]
    return text.markdown_table([str(name) for name in table], rows)


def _cell(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        return f"{value:g}" if column in WHOLE else f"{value:.4f}"
    return str(value)


def _grid(runs: pd.DataFrame) -> str:
    """A row a task and method."""
    rows = []
    for task in sorted(map(str, runs["task"].unique())):
        of_task = runs[runs["task"] == task]
        for method in ordered(list(map(str, of_task["method"].unique()))):
            of_method = of_task[of_task["method"] == method]
            rows.append([task, method, *_ran(of_method)])
    return text.markdown_table(
        ["task", "method", "fractions", "budgets", "seeds", "runs", "failed", "constant"], rows
    )


def _ran(runs: pd.DataFrame) -> list[str]:
    budgets = sorted(set(zip(runs["budget_unit"].astype(str), runs["budget"], strict=True)))
    done = runs["status"] == "ok"
    return [
        ", ".join(text.percent(fraction) for fraction in sorted(set(runs["fraction"]))),
        "; ".join(text.budget(unit, budget) for unit, budget in budgets),
        ", ".join(map(str, sorted(set(runs["seed"])))),
        str(len(runs)),
        str(int((~done).sum())),
        str(int((done & runs["degenerate"].eq(True)).sum())),
    ]


def _commands(runs: pd.DataFrame) -> str:
    commands = sorted(set(runs["command"].dropna().astype(str)) - {""})
    more = [f"# and {len(commands) - COMMANDS} more, in the runs' records"] * (
        len(commands) > COMMANDS
    )
    listed = "\n".join([*commands[:COMMANDS], *more])
    return f"## Commands of the runs\n\n```bash\n{listed}\n```"


def _listed(head: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"## {head}"
        yield "\n".join(f"- {item}" for item in items)
