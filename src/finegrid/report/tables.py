"""A frame as Markdown: scores by fraction, and what each method costs."""

from collections.abc import Collection, Sequence

from finegrid.report.frame import Cell, Frame, Table

ORDER = ("full", "head")  # the baselines come first, the methods after them by name


def markdown(frame: Frame) -> str:
    """Every table of a frame, one below the other."""
    return "\n".join(_section(table, cells) for table, cells in frame.items())


def _section(table: Table, cells: dict[tuple[str, float], Cell]) -> str:
    runs = [run for cell in cells.values() for run in cell.ok]
    metric = runs[0].metric if runs else "no finished run"
    weights = "" if table.pretrained else ", random weights"
    dropout = "" if table.frozen_dropout else ", no dropout below what trains"
    head = (
        f"### {table.task}, {table.model}{weights}: {metric}\n\n"
        f"Protocol {table.protocol}, budget {table.budget:g} {table.budget_unit}, "
        f"{table.select} checkpoint, precision {table.precision or 'unknown'}{dropout}. "
        "Mean ± standard deviation over seeds (their number).\n"
    )
    return "\n".join([head, _scores(cells), "", _costs(cells), ""])


def _scores(cells: dict[tuple[str, float], Cell]) -> str:
    fractions = sorted({fraction for _, fraction in cells})
    rows = [
        [method, *(score(cells.get((method, fraction))) for fraction in fractions)]
        for method in ordered({method for method, _ in cells})
    ]
    return aligned(["method", *(f"{fraction:g}" for fraction in fractions)], rows)


def score(cell: Cell | None, name: str = "test") -> str:
    """`mean ± sd (n)`, with failed runs named."""
    if cell is None:
        return ""
    failed = len(cell.runs) - len(cell.ok)
    note = f", {failed} failed" if failed else ""
    mean, spread = cell.mean(name), cell.spread(name)
    if mean is None:
        return f"none (0{note})"
    return f"{mean:.4f} ± {'?' if spread is None else f'{spread:.4f}'} ({len(cell.ok)}{note})"


def _costs(cells: dict[tuple[str, float], Cell]) -> str:
    """Costs at the largest fraction each method ran at."""
    names = ("params_delta", "params_pooler", "params_head", "delta_bytes", "train_seconds")
    titles = ("delta params", "pooler params", "head params", "delta bytes", "bits each", "train s")
    rows = []
    for method in ordered({method for method, _ in cells}):
        fraction = max(fraction for name, fraction in cells if name == method)
        cell = cells[method, fraction]
        counts = [f"{cell.mean(name) or 0:,.0f}" for name in names[:-1]]
        bits = f"{cell.mean('delta_bits_per_trainable') or 0:.3g}"
        seconds = f"{cell.mean('train_seconds') or 0:.1f}"
        rows.append([method, f"{fraction:g}", *counts, bits, seconds])
    return aligned(["method", "at fraction", *titles], rows)


def ordered(methods: Collection[str]) -> list[str]:
    """The baselines, then the other methods by name."""
    return [name for name in ORDER if name in methods] + sorted(set(methods) - set(ORDER))


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
