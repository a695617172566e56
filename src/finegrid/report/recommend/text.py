"""A decision in words: the answer first and, for who asks why, the tables and runs behind it."""

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any

import pandas as pd

from finegrid.report import effort, formatting, next_step
from finegrid.report.answer import Answer, still_rising, verdict
from finegrid.report.headlines import Lead, cheapest, method, near_best, quickest
from finegrid.report.load.rankings import CELL
from finegrid.report.recommend.decide import TOY, UNLEARNED, Decision
from finegrid.runs.text import markdown_table


def answer(decision: Decision) -> Answer:
    """The verdict of a decision, and the command that trains what it names."""
    if decision.lacking:
        command = next_step.measure(decision.asked.task, decision.setting.model)
        return Answer(_toy(decision) + _lacking(decision, decision.lacking), "", command)
    runs = decision.runs[decision.runs["method"].eq(str(decision.choice))]
    cells = [rows for _, rows in runs.groupby(CELL, observed=True)]
    first = decision.options.iloc[0]
    failed = f"; {first['failed']:g} of its runs failed" if first["failed"] else ""
    leads = verdict(_lead(decision), _metric(decision), place=_place(decision))
    sentence = (
        f"{_toy(decision)}{leads} Measured with "
        f"{_labels(decision)} labels, {formatting.duration(first['seconds'])} of training and "
        f"{formatting.size(first['bytes'])}{failed}."
    )
    return Answer(sentence, still_rising({str(decision.choice): cells}), next_step.train(runs))


def _labels(decision: Decision) -> str:
    """Those that the choice was measured with: of several tasks from the fewest to the most."""
    rows = decision.cells.loc[decision.cells["method"].eq(str(decision.choice)), "label_rows"]
    return " to ".join(f"{number:,.0f}" for number in sorted({rows.min(), rows.max()}))


def why(decision: Decision, *, notes: Sequence[str] = ()) -> str:
    """The evidence, as Markdown; `notes` are those on the results."""
    parts = [_where(decision)]
    if decision.choice:
        parts += [_options(decision), _how(decision), _measured(decision)]
        parts += [formatting.footnote(decision.cells), effort.tuning(decision.runs)]
    parts += ["\n".join(f"- {note}" for note in dict.fromkeys([*decision.notes, *notes]))]
    if decision.choice:
        parts += [_provenance(decision)]
    return "\n\n".join(filter(None, parts))


def brief(decision: Decision) -> str:
    """What the answer stands on, in a line."""
    if not decision.choice:
        return _where(decision)
    methods = formatting.number(len(decision.options), "method")
    runs = formatting.number(len(decision.runs), "run")
    return f"{_where(decision)} {runs} of {methods}; --why shows the evidence."


def _lacking(decision: Decision, why_not: str) -> str:
    if why_not == UNLEARNED:
        return f"{UNLEARNED[0].upper()}{UNLEARNED[1:]}{_place(decision)}."
    return f"Not enough evidence{_place(decision)}: {why_not}."


def _place(decision: Decision) -> str:
    """The tasks and the limits of a verdict."""
    tasks = decision.tasks or [decision.asked.task or ""]
    where = f" on {formatting.listed(tasks, most=6)}" if any(tasks) else ""
    return f"{where}{decision.asked.limits}"


def _where(decision: Decision) -> str:
    return f"By runs of {formatting.setting(decision.setting)}, budgets in {decision.unit}."


def _toy(decision: Decision) -> str:
    """What an answer begins with that no real task stands behind."""
    tasks = decision.tasks or [decision.asked.task or ""]
    constructed = all(task.startswith(TOY) for task in tasks)
    return "Constructed tasks alone, no real data: " if constructed else ""


def _lead(decision: Decision) -> Lead:
    """The options as what a verdict is made from."""
    names = {"score": "mean", "seconds": "train_seconds", "bytes": "delta_bytes"}
    table = decision.options.rename(columns=names).assign(trainable=nan)
    first, level = table.iloc[0], table[table["level"] | table["leads"]]
    near = near_best(level, table[~table["level"] & ~table["leads"]])
    one = len(decision.tasks) == 1
    return Lead(
        best=method(first),
        methods=len(table),
        constant=float(decision.cells["constant"].iloc[0]) if one else nan,
        level=tuple(map(str, level["method"].iloc[1:])),
        same=tuple(map(str, table.loc[table["equal"], "method"])),
        smallest=cheapest(near, "delta_bytes", first),
        quickest=quickest(near, first),
        race=formatting.race(decision.cells.nsmallest(1, "race_level")),
    )


def _metric(decision: Decision) -> str:
    if len(decision.tasks) == 1:
        return formatting.metric(decision.runs, decision.tasks[0])
    return "mean share of the tasks' best scores"


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
            "labels": f"{row['label_rows']:.0f}",
            "budget": f"{row['budget']:g} {row['budget_unit']}",
            "seeds": _seeds(row),
            "score": f"{row['mean']:.4f}{formatting.stopped(row)}",
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
        lines += [
            "",
            f"Of these labels up to {rows:g} are validation rows.",
        ]
    return "\n".join(lines)


def _each(runs: pd.DataFrame, column: str) -> str:
    return " and ".join(sorted(set(runs[column].dropna().astype(str)))) or "an unknown device"
