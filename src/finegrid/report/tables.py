"""Tables of Markdown (scores by fraction, distances to the best, costs), and frames as CSV."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from finegrid.errors import printable
from finegrid.report import effort, formatting, overtaking
from finegrid.report.load.rankings import CELL, TABLE, Results, narrowed, ordered
from finegrid.runs.text import markdown_table
from finegrid.storage.files import FORMULA

MARKS = re.compile(r"[\\`*|$~]|(?<!\w)_|_(?!\w)|(?<=\])[(\[]")  # that mean something to Markdown
BOLD = "Bold: the best of a column and all that cannot be told from it ({level}, adjusted)."
NOTHING = (
    "none is better than the best constant prediction (the majority class of the test labels, or "
    "the class that scores highest), tested on rows at 5 %"
)
COSTS = {
    "params_delta": ("delta params", ",.0f"),
    "params_pooler": ("pooler params", ",.0f"),
    "params_head": ("head params", ",.0f"),
    "delta_bytes": ("delta bytes", ",.0f"),
    "delta_bits_per_trainable": ("bits a trained number", ".3g"),
    "train_seconds": ("train s", ".1f"),
    "peak_memory_bytes": ("peak MB", ",.0f"),
    "forgetting": ("forgetting", "+.3f"),
    "leakage": ("leakage", ".3f"),  # of task.attribute, by a fresh probe
    "test_off": ("score, switched off", ".4f"),
    "leakage_off": ("leakage, switched off", ".3f"),
}
SHARED = ("train_seconds", "peak_memory_bytes")  # costs that runs in one pass divide among them
# costs without a column where no run has any
OPTIONAL = ("forgetting", "leakage", "test_off", "leakage_off")


def markdown(
    results: Results,
    cells: pd.DataFrame,
    best: pd.DataFrame,
    *,
    level: float = 0.95,
    crossings: pd.DataFrame | None = None,
) -> str:
    """Every table, one below the other, and what they leave out.

    Args:
        results: runs in rankings.
        cells: of `compare.cells`.
        best: of `compare.against_best`.
        level: of the intervals, for the text.
        crossings: of `crossings.crossings`; none: not looked for.
    """
    sections = [
        _section(results, table, level) + _overtaking(table, crossings, level)
        for table in _tables(cells, best)
    ]
    notes = [f"- {plain(note)}" for note in results.notes]
    return "\n".join([*sections, *(["### Notes", "", *notes, ""] if notes else [])])


def csv(data: pd.DataFrame) -> str:
    """A frame as CSV, with seven digits; no text in it is a formula to a spreadsheet."""
    safe = data.rename(columns=lambda name: _no_formula(str(name)))
    texts = [at for at, kind in enumerate(data.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    for at in texts:
        safe.isetitem(at, list(map(_no_formula, data.iloc[:, at].astype(object))))
    return safe.to_csv(index=False, float_format="%.7g", lineterminator="\n")


def _no_formula(value: Any) -> Any:
    """A text on one line; what a spreadsheet would compute behind an apostrophe, as text."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if re.match(FORMULA, text.lstrip()) else text


def plain(text: str) -> str:
    """What others have written, as text in Markdown: no tags, links, emphasis or new cells."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKS.sub(r"\\\g<0>", text)


def seeds(cell: Mapping[str, Any]) -> str:
    """How many seeds have scores; and what became of the others, or speaks against them."""
    spared = 0 if cell["stopped"] != cell["stopped"] else int(cell["race_seeds"] - cell["stopped"])
    constant = round(cell["degenerate"] * cell["ok"]) if cell["degenerate"] > 0 else 0
    dull = cell["ok"] > constant and not cell["learned"]
    notes = [
        str(cell["failures"]) if cell["failed"] else "",
        f"{cell['missing']} missing" if cell["missing"] else "",
        f"{spared} not needed: decided at {cell['stopped']:g} seeds" if spared > 0 else "",
        f"{constant} constant" if constant else "",
        "no better than a constant" if dull else "",
    ]
    return ", ".join([str(cell["ok"]), *filter(None, notes)])


def score(cell: Any) -> str:
    """`mean ± sd (seeds)`, with what failed, is missing or predicts one constant."""
    values = cell._asdict()
    count = seeds(values)
    if not cell.ok:
        return f"none ({count})"
    spread = "?" if cell.ok < 2 else f"{cell.sd:.4f}"
    return f"{cell.mean:.4f}{formatting.stopped(values)} ± {spread} ({count})"


def distance(cell: Any) -> str:
    """`best - this [interval]`."""
    if cell.best == cell.method:
        return "best"
    if cell.difference != cell.difference:
        return ""
    interval = f" [{cell.low:.4f}, {cell.high:.4f}]" if cell.low == cell.low else ""
    return f"{cell.difference:.4f}{interval}".replace("-", formatting.MINUS)


def _tables(cells: pd.DataFrame, best: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Each table's cells with what is known of their distance to the best."""
    columns = [*CELL, "best", "difference", "low", "high", "tie"]
    joined = cells.merge(best[columns], on=CELL, suffixes=("_mean", ""))
    for _, table in joined.groupby(TABLE, observed=True):
        yield table


def _section(results: Results, cells: pd.DataFrame, level: float) -> str:
    first, setting = cells.iloc[0], results.settings[cells["setting"].iloc[0]]
    runs = results.runs[results.runs[TABLE].eq(first[TABLE]).all(axis=1)]
    race, usual = formatting.race(cells), f"{100 * level:g} %"
    of_all = f"intervals {race}" if race else f"{usual} intervals"
    bold = BOLD.format(level=race or usual)
    metric = formatting.metric(runs, str(first["task"]))
    heading = f"### {first['task']}, {formatting.model(setting)}"
    parts = [
        plain(f"{heading}: {metric or 'no finished run'}"),
        plain(
            f"{formatting.setting(narrowed(setting, runs))}, "
            f"{formatting.budget(first['budget_unit'], first['budget'])}. "
        )
        + f"Mean ± standard deviation over seeds (their number). {bold}",
        *filter(None, (formatting.footnote(cells), plain(effort.tuning(runs)))),
        *_unlearned(cells),
        markdown_table(*_grid(cells, _marked)),
        f"How far the best is above each; the {of_all} of a column hold all together:",
        markdown_table(*_grid(cells, distance)),
        _costs(cells),
    ]
    several = cells.loc[cells["ok"] > 0, "method"].nunique() > 1
    return "\n\n".join(parts if several else [*parts[:-3], parts[-1]]) + "\n"


def _overtaking(cells: pd.DataFrame, crossings: pd.DataFrame | None, level: float) -> str:
    """At how many labels methods overtake one another, of tables with enough amounts."""
    table = cells[TABLE].to_dict("records")[0]
    told = overtaking.sentences(crossings, table) if crossings is not None else []
    lines = "".join(f"- {plain(sentence)}\n" for sentence in told)
    return f"\n{overtaking.intro(level)}\n\n{lines}" if told else ""


def _unlearned(cells: pd.DataFrame) -> list[str]:
    """The headline where no method learned anything."""
    learned = cells[cells["ok"] > 0].groupby("fraction")["learned"].any()
    amounts = _amounts(cells)
    nothing = [amounts[fraction] for fraction in learned.index[~learned]]
    if not nothing:
        return []
    return [
        f"**No method learned anything** at {formatting.listed(nothing)} of the data: {NOTHING}."
    ]


def _marked(cell: Any) -> str:
    return f"**{score(cell)}**" if cell.tie and cell.ok else score(cell)


def _grid(cells: pd.DataFrame, show: Callable[[Any], str]) -> tuple[list[str], list[list[str]]]:
    """Methods by fractions: head and rows."""
    fractions = sorted(cells["fraction"].unique())
    shown = {(cell.method, cell.fraction): show(cell) for cell in cells.itertuples()}
    rows = [
        [plain(method), *(shown[method, fraction] for fraction in fractions)]
        for method in ordered(set(cells["method"]))
    ]
    return ["method", *map(_amounts(cells).__getitem__, fractions)], rows


def _amounts(cells: pd.DataFrame) -> dict[float, str]:
    """Fraction -> its name: in percent, or the rows that were asked for by number."""
    each = cells[["fraction", "rows_asked"]].drop_duplicates().to_dict("records")
    return {cell["fraction"]: formatting.amount(cell) for cell in each}


def _costs(cells: pd.DataFrame) -> str:
    """Costs at the largest fraction at which each method has a finished run."""
    finished = cells.assign(finished=cells["ok"] > 0).sort_values(["finished", "fraction"])
    largest = finished.drop_duplicates("method", keep="last").set_index("method")
    largest["peak_memory_bytes"] /= 1e6
    shown = measured(COSTS, largest)
    rows, amounts = [], _amounts(cells)
    for method in ordered(set(cells["method"])):
        cell: Any = largest.loc[method]
        about = formatting.about(cell)
        costs = [about * (name in SHARED) + _cost(cell[name], COSTS[name][1]) for name in shown]
        rows.append([plain(method), amounts[cell["fraction"]], *costs])
    marked = any(map(formatting.about, largest.to_dict("records")))
    table = markdown_table(["method", "at", *(COSTS[name][0] for name in shown)], rows)
    return table + f"\n\n{formatting.ABOUT}" * marked


def measured(costs: Iterable[str], cells: pd.DataFrame) -> list[str]:
    """Those of some costs that have a column in a table of some cells."""
    return [name for name in costs if name not in OPTIONAL or cells[name].notna().any()]


def _cost(value: float, form: str) -> str:
    return format(value, form) if value == value else ""
