"""A decision in words: one sentence first, then the table, then what it stands on."""

from collections.abc import Sequence

import pandas as pd

from finegrid.report import formatting
from finegrid.report.recommend.decide import Decision
from finegrid.runs.text import markdown_table


def text(decision: Decision, *, notes: Sequence[str] = ()) -> str:
    """The whole answer, as Markdown; `notes` are those on the results."""
    parts = [sentence(decision)]
    if decision.choice:
        parts += [_options(decision), _how(decision), _measured(decision)]
    parts += ["\n".join(f"- {note}" for note in [*decision.notes, *notes])]
    if decision.choice:
        parts += [_provenance(decision)]
    return "\n\n".join(filter(None, parts))


def sentence(decision: Decision) -> str:
    """The answer in one sentence."""
    if decision.lacking:
        return f"Not enough evidence within {_limits(decision)}: {decision.lacking}."
    first = decision.options.iloc[0]
    failed = f"; {first['failed']:g} of its runs failed" if first["failed"] else ""
    cost = (
        f"measured with {first['labels']:.0f} labels, {formatting.duration(first['seconds'])} of "
        f"training and {formatting.size(first['bytes'])}{failed}"
    )
    if decision.clear:
        return f"Use {decision.choice} within {_limits(decision)} ({cost})."
    level = decision.options.loc[decision.options["level"], "method"]
    return (
        f"No method is clearly the best within {_limits(decision)}: {decision.choice} leads "
        f"({cost}), not told apart from {formatting.listed(list(map(str, level)), most=8)}."
    )


def _limits(decision: Decision) -> str:
    asked = decision.asked
    where = f" on {asked.task}" if asked.task else ""
    return (
        f"{asked.labels} labels, {asked.minutes:g} min and {asked.megabytes:g} MB a task{where} "
        f"({decision.setting.model}, protocol {decision.setting.protocol}, budgets in "
        f"{decision.unit})"
    )


def _options(decision: Decision) -> str:
    head = [
        "method",
        "",
        "P(best)",
        "score",
        "95 %",
        "labels",
        "training",
        "stored",
        "seeds",
        "front",
    ]
    rows = [
        [
            str(row["method"]),
            "leads" if row["leads"] else "level" if row["level"] else "",
            formatting.chance(row["probability"]),
            f"{row['score']:.4f}",
            formatting.span(row["low"], row["high"]),
            f"{row['labels']:.0f}",
            formatting.duration(row["seconds"]),
            formatting.size(row["bytes"]),
            f"{row['ok']:g}" + (f", {row['failed']:g} failed" if row["failed"] else ""),
            "yes" if row["front"] else "",
        ]
        for row in decision.options.to_dict("records")
    ]
    return markdown_table(head, rows)


def _how(decision: Decision) -> str:
    tasks = decision.tasks
    score = (
        f"Score: the mean over {', '.join(tasks)} of each score divided by the task's best mean"
        if len(tasks) > 1
        else f"Score: {', '.join(sorted(set(decision.cells['metric'])))} on {tasks[0]}"
    )
    return (
        f"{score}. P(best): the share of joint draws of the true scores in which the method's is "
        "the largest. Level: the difference to the leader could be chance (simultaneous 95 % "
        "intervals hold 0). 95 %: the method's own mean, over all seeds and on other test rows. "
        "Front: no other method here is as good in score, seconds, bytes and labels and better "
        "in one (means, without regard to chance). Seconds are of training alone."
    )


def _measured(decision: Decision) -> str:
    """What was run: a row a method and task."""
    head = ["task", "method", "fraction", "labels", "budget", "seeds", "score", "95 %", "training"]
    rows = [
        [
            str(row["task"]),
            str(row["method"]),
            f"{row['fraction']:g}",
            f"{row['train_rows']:.0f}",
            f"{row['budget']:g} {row['budget_unit']}",
            f"{row['ok']:g}" + (f", {row['failed']:g} failed" if row["failed"] else ""),
            f"{row['mean']:.4f}",
            formatting.span(row["low"], row["high"]),
            formatting.duration(row["train_seconds"]),
        ]
        for row in decision.cells.to_dict("records")
    ]
    return markdown_table(head, rows)


def _provenance(decision: Decision) -> str:
    runs = decision.runs
    chosen = runs[runs["method"] == decision.choice]
    lines = [f"{len(runs)} runs, on {_each(runs, 'device')}. Commands:", ""]
    lines += [f"    {command}" for command in sorted(set(runs["command"].astype(str)))]
    if places := sorted(set(chosen["directory"].astype(str)) - {""}):
        lines += ["", f"Runs of {decision.choice}:", "", *(f"    {place}" for place in places)]
    if (chosen["select"] == "best").any():
        rows = chosen["validation_rows"].max()
        lines += ["", f"Choosing checkpoints took up to {rows:g} more labels, for validation."]
    return "\n".join(lines)


def _each(runs: pd.DataFrame, column: str) -> str:
    return " and ".join(sorted(set(runs[column].dropna().astype(str)))) or "an unknown device"
