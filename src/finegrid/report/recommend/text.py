"""A decision as Markdown: one sentence first, then the tables, then the runs behind it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
    """A row a method, the leader first."""
    return _table(
        {
            "method": str(row["method"]),
            "": "leads" if row["leads"] else "level" if row["level"] else "",
            "P(best)": formatting.chance(row["probability"]),
            "score": f"{row['score']:.4f}",
            "95 %": formatting.span(row["low"], row["high"]),
            "labels": f"{row['labels']:.0f}",
            "training": formatting.duration(row["seconds"]),
            "stored": formatting.size(row["bytes"]),
            "seeds": _seeds(row),
            "front": "yes" if row["front"] else "",
        }
        for row in decision.options.to_dict("records")
    )


def _measured(decision: Decision) -> str:
    """What was run: a row a method and task."""
    return _table(
        {
            "task": str(row["task"]),
            "method": str(row["method"]),
            "fraction": f"{row['fraction']:g}",
            "labels": f"{row['train_rows']:.0f}",
            "budget": f"{row['budget']:g} {row['budget_unit']}",
            "seeds": _seeds(row),
            "score": f"{row['mean']:.4f}",
            "95 %": formatting.span(row["low"], row["high"]),
            "training": formatting.duration(row["train_seconds"]),
        }
        for row in decision.cells.to_dict("records")
    )


def _table(rows: Iterable[dict[str, str]]) -> str:
    listed = list(rows)
    return markdown_table(list(listed[0]), [list(row.values()) for row in listed])


def _seeds(row: Mapping[Any, Any]) -> str:
    return f"{row['ok']:g}" + (f", {row['failed']:g} failed" if row["failed"] else "")


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
