"""Models compared with one another, in words: which is ahead with each method, and by how much."""

from typing import Any

from finegrid.report import formatting
from finegrid.report.comparison import Comparison
from finegrid.report.headlines import Headline
from finegrid.report.load.rankings import RANKING
from finegrid.report.tables import plain
from finegrid.runs.text import markdown_table

MOST = 48  # rows that a page has; csv/models.csv has all
HEAD = (
    "task", "data", "budget", "method", "best model", "score", "other model", "its score",
    "ahead by", "told apart", "seeds", "often missed below",
)  # fmt: skip


def intro(level: float) -> str:
    """How to read the table."""
    return (
        "The same method with several models, on the same rows with the same seeds. Intervals are "
        f"{100 * level:g} %, for all models of a method together; each method is a test of its own."
    )


def markdown(comparison: Comparison) -> list[str]:
    """The section as Markdown; nothing where no two models can be compared."""
    if not (found := rows(comparison)):
        return []
    table = markdown_table(HEAD, [[*map(plain, row)] for row in found])
    parts = ["## Models compared", intro(comparison.level), table, more(comparison)]
    return ["\n\n".join(filter(None, parts)) + "\n"]


def rows(comparison: Comparison) -> list[list[str]]:
    """The rows below `HEAD`."""
    place = RANKING[1:]
    asked = comparison.cells.drop_duplicates(place)[[*place, "rows_asked"]]
    shown = comparison.models.head(MOST).merge(asked, on=place)
    return [_row(row) for row in shown.to_dict("records")]


def sentences(comparison: Comparison) -> list[str]:
    """One for each task and method that leads it with some model."""
    every = dict.fromkeys(sentence(comparison, one) for one in comparison.headlines)
    return [one for one in every if one]


def sentence(comparison: Comparison, lead: Headline) -> str:
    """Which model is ahead of the next with the method that leads a task; or nothing."""
    models, method = comparison.models, lead.main.best.name
    here = (models[RANKING[1:]] == list(lead.key[1:])).all(axis=1) & models["method"].eq(method)
    if not here.any():
        return ""
    row = models[here].iloc[0]
    ahead = "is ahead of" if row["low"] > 0 else "cannot be told apart from"
    interval = formatting.span(row["low"], row["high"])
    return (
        f"On {row['task']} with {method} {row['best']} {ahead} {row['model']}: by "
        f"{formatting.score(row['difference'])}{interval and f' ({interval})'}."
    )


def more(comparison: Comparison) -> str:
    """What the table leaves out; nothing if it has all."""
    left = len(comparison.models) - MOST
    return f"And {formatting.number(left, 'more row')}, in csv/models.csv." if left > 0 else ""


def _row(row: dict[Any, Any]) -> list[str]:
    interval = formatting.span(row["low"], row["high"])
    return [
        str(row["task"]), formatting.amount(row),
        formatting.budget(row["budget_unit"], row["budget"]), str(row["method"]),
        row["best"], formatting.score(row["best_mean"]),
        row["model"], formatting.score(row["mean"]),
        formatting.score(row["difference"]) + (f" ({interval})" if interval else ""),
        "yes" if row["low"] > 0 else "no", f"{row['seeds']}",
        formatting.score(row["detectable"], 3),
    ]  # fmt: skip
