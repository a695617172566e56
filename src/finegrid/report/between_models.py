"""Models compared with one another, in words: which is ahead with each method, and by how much."""

from typing import Any

from finegrid.report import formatting
from finegrid.report.comparison import Comparison
from finegrid.report.headlines import Headline
from finegrid.report.load.rankings import RANKING
from finegrid.report.recommend.decide import SEEDS
from finegrid.report.tables import plain
from finegrid.runs.text import markdown_table

MOST = 48  # rows that a page has; csv/models.csv has all
HEAD = (
    "task", "data", "budget", "method", "model", "score", "other model", "its score",
    "difference", "told apart", "seeds", "often missed below",
)  # fmt: skip


def intro(level: float) -> str:
    """How to read the table."""
    return (
        "The same method with several models, on the same rows with the same seeds, each at its "
        f"own rate. Intervals are {100 * level:g} %, for all models of a method together; each "
        "method is a test of its own."
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
    return [_row(row, comparison) for row in comparison.models.head(MOST).to_dict("records")]


def sentences(comparison: Comparison) -> list[str]:
    """One for each task and method that leads it with some model."""
    every = dict.fromkeys(sentence(comparison, one) for one in comparison.headlines)
    return [one for one in every if one]


def sentence(comparison: Comparison, lead: Headline) -> str:
    """Which model is ahead of the next with the method that leads a task; or nothing."""
    models, best = comparison.models, lead.main.best.name
    here = (models[RANKING[1:]] == list(lead.key[1:])).all(axis=1)
    here &= models["best_setting"].eq(lead.setting) | models["setting"].eq(lead.setting)
    rows = models[here & models["method"].eq(best)]
    if rows.empty:
        return ""
    row = rows.iloc[0].to_dict()
    seeds = formatting.number(row["seeds"], "seed")
    few = f"; {seeds} only: too few to be sure of" if row["seeds"] < SEEDS else ""
    place = f"{_amount(row, comparison)} of the data, {_budget(row)}, {seeds}"
    return (
        f"On {row['task']} ({place}) with {_method(row)} {row['best']} {_ahead(row)} "
        f"{row['model']}: by {_distance(row)}{few}."
    )


def more(comparison: Comparison) -> str:
    """What the table leaves out; nothing if it has all."""
    left = len(comparison.models) - MOST
    return f"And {formatting.number(left, 'more row')}, in csv/models.csv." if left > 0 else ""


def _row(row: dict[Any, Any], comparison: Comparison) -> list[str]:
    return [
        str(row["task"]), _amount(row, comparison), _budget(row), _method(row),
        row["best"], formatting.score(row["best_mean"]),
        row["model"], formatting.score(row["mean"]), _distance(row),
        "yes" if row["low"] > 0 or row["high"] < 0 else "no", f"{row['seeds']}",
        formatting.score(row["detectable"], 3),
    ]  # fmt: skip


def _amount(row: dict[Any, Any], comparison: Comparison) -> str:
    cells = comparison.cells
    at = cells[["setting", *RANKING[1:]]].eq([row[name] for name in ("setting", *RANKING[1:])])
    return formatting.amount(cells[at.all(axis=1)].iloc[0])


def _method(row: dict[Any, Any]) -> str:
    return f"{row['method']} {row['apart']}".rstrip()


def _budget(row: dict[Any, Any]) -> str:
    return formatting.budget(row["budget_unit"], row["budget"])


def _ahead(row: dict[Any, Any]) -> str:
    if row["high"] < 0:
        return "is behind"
    return "is ahead of" if row["low"] > 0 else "cannot be told apart from"


def _distance(row: dict[Any, Any]) -> str:
    interval = formatting.span(row["low"], row["high"])
    return formatting.score(row["difference"]) + (f" ({interval})" if interval else "")
