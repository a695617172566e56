"""Tables as papers print them: methods by tasks in percent, with costs; LaTeX and Markdown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from finegrid.errors import printable
from finegrid.report import effort, formatting
from finegrid.report.figures.keys import with_trainable
from finegrid.report.load.rankings import CELL, RANKING, Results, ordered
from finegrid.report.tables import measured, plain
from finegrid.runs.text import markdown_table

LATEX = {
    **{mark: rf"\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    formatting.SPACE: "~",
    formatting.MINUS: "$-$",
    formatting.DASH: "--",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    formatting.STOPPED: r"$^\ddagger$",
}
COSTS = {
    "trainable": ("Params", formatting.count),
    "delta_bytes": ("Stored", formatting.size),
    "train_seconds": ("Time", formatting.duration),
    "forgetting": ("Forgetting", formatting.forgetting),
}
FORGETTING = "Forgetting: rise of the language-model loss by tuning, in nats a token."


@dataclass(frozen=True)
class Score:
    """A cell of the table: `84.1 ± 0.3† (2)`, or a dash where there is no score."""

    text: str = formatting.DASH
    best: bool = False


@dataclass(frozen=True)
class PaperTable:
    """One table, in words."""

    name: str  # of its file
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]  # task or fraction, and metric
    costs: tuple[str, ...]  # their titles
    rows: tuple[tuple[str, tuple[Score, ...], tuple[str, ...]], ...]  # method, scores, costs


def tables(
    results: Results, cells: pd.DataFrame, best: pd.DataFrame, *, level: float = 0.95
) -> list[PaperTable]:
    """Of each setting and share of the data: methods by tasks; of a task with shares: by these.

    Arguments as those of `tables.markdown`.
    """
    chance = f"{100 * (1 - level):.3g}{formatting.SPACE}%"
    joined = with_trainable(cells).merge(best[[*CELL, "best", "tie"]], on=CELL, how="left")
    return [
        _table(results, of_table, by, number, chance)
        for number, (by, of_table) in enumerate(_groups(joined), 1)
    ]


def _groups(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What the columns are, and the cells of each table: at most one a column and method."""
    at_budget = ["setting", "task", "budget_unit", "budget"]
    shares = cells.groupby(at_budget, observed=True)["fraction"].transform("nunique")
    for _, table in cells.groupby(["setting", "fraction"]):
        one_budget = table.groupby("task")[["budget_unit", "budget"]].nunique().eq(1).all(axis=None)
        for _, rows in [(0, table)] if one_budget else table.groupby(["budget_unit", "budget"]):
            if rows["task"].nunique() > 1 or shares[rows.index].iloc[0] == 1:
                yield "task", rows
    for _, rows in cells.groupby(at_budget):
        if rows["fraction"].nunique() > 1:
            yield "fraction", rows


def _table(results: Results, cells: pd.DataFrame, by: str, number: int, level: str) -> PaperTable:
    first, usual = cells.iloc[0], int(cells.loc[cells["ok"] > 0, "ok"].mode().max() or 0)
    setting = results.settings[int(first["setting"])]
    keys = sorted(cells[by].unique())
    tasks = sorted(map(str, cells["task"].unique()))
    metrics = [formatting.metric(results.runs, task, short=True) for task in tasks]
    metrics *= 1 if by == "task" else len(keys)
    amounts = {row["fraction"]: formatting.amount(row) for row in cells.to_dict("records")}
    heads = [amounts[key] if by == "fraction" else str(key) for key in keys]
    at = {(row.method, getattr(row, by)): row for row in cells.itertuples()}
    shown = measured(COSTS, cells)
    costs = cells.groupby("method", observed=True)[shown].mean().to_dict("index")
    rows = [
        (method, tuple(_score(at.get((method, key)), usual) for key in keys),
         tuple(COSTS[name][1](costs[method][name]) for name in shown))
        for method in ordered(set(cells["method"]))
    ]  # fmt: skip
    share = "" if by == "fraction" else f", {formatting.amount(first)} of the data"
    on = f"{formatting.model(setting)} on {formatting.listed(tasks, most=20)}"
    title = f"{on}{share}, {_budgets(cells)}"
    name = f"{number:02d}-{tasks[0] if len(tasks) == 1 else 'tasks'}-{setting.model}"
    return PaperTable(
        re.sub(r"[^\w.-]+", "_", name), title,
        " ".join(filter(None, (_caption(title, usual, formatting.race(cells) or level),
                               FORGETTING if "forgetting" in shown else "",
                               formatting.footnote(cells), effort.tuning(_runs(results, cells)),
                               f"{formatting.setting(setting)}."))),
        tuple(zip(heads, metrics, strict=True)), tuple(COSTS[name][0] for name in shown),
        tuple(rows),
    )  # fmt: skip


def _runs(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    """The runs of the rankings of a table."""
    return results.runs.merge(cells[RANKING].drop_duplicates())


def _caption(title: str, seeds: int, level: str) -> str:
    return (
        f"{title}: test scores in percent, mean ± standard deviation over "
        f"{formatting.number(seeds, 'seed')} (another number in brackets). Bold: the best of a "
        "column, unless no method beats the best constant prediction; †: not told apart from it "
        f"(paired test on seeds and test rows, {level}, adjusted for all pairs). Params: trained, "
        "with the head's; Stored: bytes per task; Time: of training a run; each a mean over the "
        "columns."
    )


def _budgets(cells: pd.DataFrame) -> str:
    """`8 epochs`, or each task's where they differ."""
    each = cells.drop_duplicates(["task", "budget_unit", "budget"])
    words = {
        str(row.task): formatting.budget(str(row.budget_unit), float(row.budget))  # type: ignore[arg-type]
        for row in each.itertuples()
    }
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{task} {budget}" for task, budget in words.items())


def _score(cell: Any, usual: int) -> Score:
    if cell is None or not cell.ok:
        return Score()
    mean = formatting.score(100 * cell.mean, 1)
    spread = f" ± {100 * cell.sd:.1f}" if cell.ok > 1 else ""
    best = cell.best == cell.method
    level = "†" if cell.tie is True and not best else ""
    level += formatting.stopped(cell._asdict())
    seeds = f" ({cell.ok})" if cell.ok != usual else ""
    return Score(f"{mean}{spread}{level}{seeds}", best)


def markdown(table: PaperTable) -> str:
    """A heading, the table and its caption."""
    head = ["Method", *(f"{plain(name)} ({plain(metric)})" for name, metric in table.columns)]
    rows = [
        [plain(method), *(f"**{one.text}**" if one.best else one.text for one in scores), *costs]
        for method, scores, costs in table.rows
    ]
    body = markdown_table([*head, *table.costs], rows)
    return f"## {plain(table.title)}\n\n{body}\n\n{plain(table.caption)}\n"


def latex(table: PaperTable) -> str:
    """A `table` for any document with the package booktabs."""
    names, metrics = zip(*table.columns, strict=True)
    titles = table.costs
    lines = [["", *map(escaped, names), *titles], ["Method", *map(escaped, metrics), "", "", ""]]
    lines += [
        [escaped(method), *map(_bold, scores), *map(escaped, costs)]
        for method, scores, costs in table.rows
    ]
    made = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(names) + len(titles))}}}",
            r"\toprule",
            *made[:2],
            r"\midrule",
            *made[2:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _bold(score: Score) -> str:
    return rf"\textbf{{{escaped(score.text)}}}" if score.best else escaped(score.text)


def escaped(text: str) -> str:
    """A text on one line, as LaTeX prints it."""
    return "".join(LATEX.get(mark, mark) for mark in printable(text))
