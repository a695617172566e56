"""Frames of runs and pairs as compact Markdown: runs that differ in their seed alone together."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from finegrid.analysis import overlap
from finegrid.analysis.measure import Frames
from finegrid.analysis.weights import KINDS, OTHER
from finegrid.runs.text import markdown_table

KEYS = ["model", "fraction", "budget", "budget_unit", "method", "overrides"]
PAIR = ["run_a", "run_b", "task_a", "task_b"]
CELLS = ["cell_a", "cell_b"]
ORDER = (*KINDS, OTHER)  # of the columns
NOWHERE = "-"  # the layer of what lies in none


def of_runs(several: Sequence[Frames]) -> str:
    """A section for the runs of one method in one setting."""
    groups: dict[str, list[Frames]] = {}
    for frames in several:
        first = frames["distances"].iloc[0]
        groups.setdefault(f"{first['task']}, {_setting(first)}", []).append(frames)
    return "\n\n".join("\n\n".join(_section(head, group)) for head, group in groups.items())


def _setting(row: pd.Series, end: str = "") -> str:
    """What a run was, but for its task and seed; of a pair the run `_a` or `_b`."""
    model, fraction, budget, unit, method, overrides = (row[f"{key}{end}"] for key in KEYS)
    arguments = [word for word in overrides.split() if word.startswith("method.")]
    return f"{model}, fraction {fraction:g}, {budget:g} {unit}: {' '.join([method, *arguments])}"


def _section(head: str, several: Sequence[Frames]) -> Iterator[str]:
    yield f"### {head} ({len(several)} {'run' if len(several) == 1 else 'runs'})"
    moved = _together(several, "distances")
    yield _summary(moved, len(several))
    injected = _together(several, "injected")
    if len(injected):
        yield _beside(injected, len(several))
    if moved["l2"].any():
        yield "Distance from the pre-trained weights, % of a random initialisation's distance:"
        yield _map(100 * _pooled_ratio(moved))
        yield "Share of the squared update, %:"
        shares = _together(several, "importance").groupby(["layer", "kind"], dropna=False)
        yield _map(100 * shares["share"].mean())
    spectra = _together(several, "spectra")
    if spectra["rank"].any():
        yield "Spectra of the updates, mean over matrices and runs:"
        yield _spectra(spectra)
    zeros = _together(several, "masks")
    if len(zeros):
        yield _zeros(zeros)


def _together(several: Sequence[Frames], name: str) -> pd.DataFrame:
    filled = [frames[name] for frames in several if len(frames[name])]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _summary(moved: pd.DataFrame, runs: int) -> str:
    lengths = moved["l1"].sum() / runs, np.sqrt((moved["l2"] ** 2).sum() / runs)
    matrices = moved[moved["name"].str.endswith(".weight") & (moved["kind"] != "layernorm")]
    angles, random = matrices["angle"], matrices["angle_random"].median()
    turned = f"{angles.median():.3g} rad (median; {angles.min():.3g} to {angles.max():.3g})"
    return (
        f"L1 {lengths[0]:.4g}, L2 {lengths[1]:.4g} of {moved['numel'].sum() // runs:,} numbers. "
        f"Angle of a matrix {turned if angles.any() else '0'}; of a random one {random:.3g}."
    )


def _beside(injected: pd.DataFrame, runs: int) -> str:
    kinds = injected.groupby("type")["numel"].agg(["size", "sum"]) // runs
    named = ", ".join(
        f"{size} {kind} ({total:,} numbers)" for kind, size, total in kinds.to_records()
    )
    return f"Works beside the weights and is no part of these numbers: {named}."


def _pooled_ratio(moved: pd.DataFrame) -> pd.Series:
    keys = [moved["layer"], moved["kind"]]
    sums = (moved[["l2", "l2_random"]] ** 2).groupby(keys, dropna=False).sum()
    return (sums["l2"] / sums["l2_random"].replace(0.0, np.nan)) ** 0.5


def _map(values: pd.Series) -> str:
    """A row a layer, a column a kind."""
    rows = values.rename("value").reset_index()
    rows["layer"] = rows["layer"].astype(object).where(rows["layer"].notna(), NOWHERE)
    wide = rows.pivot(index="layer", columns="kind", values="value")
    kinds = list(filter(wide.columns.__contains__, ORDER))
    layers = sorted(wide.index, key=lambda layer: -1 if layer == NOWHERE else layer)
    return _table(wide.loc[layers, kinds].reset_index())


def _spectra(spectra: pd.DataFrame) -> str:
    moved = spectra[spectra["rank"] > 0]
    numbers = ["rank", "stable_rank", "effective_rank", "n90", "s1"]
    means = moved.groupby("kind")[numbers].mean()
    return _table(means.loc[list(filter(means.index.__contains__, ORDER))].reset_index())


def _zeros(zeros: pd.DataFrame) -> str:
    sums = overlap.pooled_zeros(zeros)
    return (
        f"Zeros: {sums['sparsity']:.2%} of the masked matrices; Jaccard overlap with as many "
        f"smallest weights {sums['magnitude']:.3g}, expected of random places "
        f"{sums['expected']:.3g}."
    )


def of_pairs(frame: pd.DataFrame) -> str:
    """How alike the updates are: a row for pairs of the same relation, methods and tasks."""
    keys = ["relation", *PAIR]
    each = overlap.pooled(_labelled(frame), [*keys, *CELLS])
    groups = each.groupby(keys, sort=False)
    means = groups[["cosine", "jaccard", "expected"]].mean().assign(pairs=groups.size())
    return f"### Between runs, mean over pairs\n\n{_table(means.reset_index())}"


def of_lines(frame: pd.DataFrame) -> str:
    """Scores along each line: a row a pair, a column a point."""
    rows = _labelled(frame[frame["headline"]])
    keys = ["run_a", "run_b", "task_a", "seed_a", "seed_b", "metric", "split", *CELLS]
    wide = rows.pivot(index=keys, columns="alpha", values="score").reset_index()
    wide.columns = [name if isinstance(name, str) else f"{name:.2g}" for name in wide.columns]
    return f"### Lines between runs, by alpha\n\n{_table(wide.drop(columns=CELLS))}"


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """With run_a and run_b: what either run was; a few cells have many rows."""
    for end in ("_a", "_b"):
        cells = frame.drop_duplicates(f"cell{end}").set_index(f"cell{end}")
        names = {cell: _setting(row, end) for cell, row in cells.iterrows()}
        frame = frame.assign(**{f"run{end}": frame[f"cell{end}"].map(names)})
    return frame


def _table(frame: pd.DataFrame) -> str:
    rows = [list(map(_cell, row)) for row in frame.itertuples(index=False)]
    return markdown_table(list(map(str, frame.columns)), rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3g}"
    return str(value)
