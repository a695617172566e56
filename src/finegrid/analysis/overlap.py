"""What the updates of two runs have in common, and which weights masks set to zero.

For two runs with updates d and e of one tensor of n entries, which change a and b of them,

    cosine    d . e / |d| |e|
    jaccard   |changed by both| / |changed by either|
    expected  p q / (p + q - p q), p = a / n and q = b / n: the same of independent places

A mask changes what it sets to zero, a sparse method its places. Dense methods change everything,
and their overlap says nothing: look at the cosine.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from finegrid.analysis.weights import ParameterChange, Solution
from finegrid.errors import UserError
from finegrid.methods.modules.mask import smallest
from finegrid.runs.record import Record
from finegrid.runs.settings import RECORDED, unrecorded

AXES = ("seed", "task")


def relation(a: Record, b: Record) -> str:
    """`seed` or `task` if two runs differ in that alone, else `other`."""
    differ = [axis for axis in AXES if getattr(a, axis) != getattr(b, axis)]
    return differ[0] if len(differ) == 1 and _setting(a) == _setting(b) else "other"


def _setting(record: Record) -> tuple[object, ...]:
    fields = ["budget_unit", "budget", *(name for name in RECORDED if name not in AXES)]
    return *(getattr(record, name) for name in fields), *sorted(unrecorded(record.overrides))


def pairs(runs: Mapping[Path, Record], *, every: bool = False) -> list[tuple[Path, Path]]:
    """The runs that differ in their seed or in their task alone; with `every`, all of one model."""
    return [
        (a, b)
        for a, b in combinations(runs, 2)
        if runs[a].fingerprint == runs[b].fingerprint
        and (every or relation(runs[a], runs[b]) in AXES)
    ]


def table(a: Solution, b: Solution) -> pd.DataFrame:
    """One row a tensor that either run changed.

    Columns: layer, kind, name, numel, cosine, dot, norm_a, norm_b, changed_a, changed_b, both,
    either, jaccard, expected.

    Raises:
        UserError: if the runs did not start from the same weights.
    """
    if a.start.fingerprint != b.start.fingerprint:
        names = f"{a.run.record.model} and {b.run.record.model}"
        raise UserError(
            f"runs of {names} started from different weights; compare runs of one model"
        )
    rows = [_row(x, y) for x, y in zip(a.changes(), b.changes(), strict=True)]
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    frame = frame[frame["either"] > 0].reset_index(drop=True)
    return _scored(frame.assign(chance=_chance(frame)))


def _row(a: ParameterChange, b: ParameterChange) -> dict[str, object]:
    x, y = a.delta, b.delta
    changed, too = x != 0, y != 0
    return {
        **a.columns,
        "dot": float((x * y).sum()),
        "norm_a": float(x.norm()),
        "norm_b": float(y.norm()),
        "changed_a": int(changed.sum()),
        "changed_b": int(too.sum()),
        "both": int((changed & too).sum()),
        "either": int((changed | too).sum()),
    }


def pooled(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows of each group as one tensor: the same columns without layer, kind and name."""
    squares = {name: frame[name] ** 2 for name in ("norm_a", "norm_b")}
    parts = frame.assign(**squares, chance=_chance(frame))
    counts = ["numel", "dot", "changed_a", "changed_b", "both", "either", "chance"]
    sums = parts.groupby(list(by), dropna=False, sort=False)[[*counts, *squares]].sum()
    return _scored(sums.assign(**{name: sums[name] ** 0.5 for name in squares}).reset_index())


def _chance(frame: pd.DataFrame) -> pd.Series:
    """How many entries independent places would have in common."""
    return frame["changed_a"] * frame["changed_b"] / frame["numel"]


def _scored(frame: pd.DataFrame) -> pd.DataFrame:
    norms = (frame["norm_a"] * frame["norm_b"]).replace(0.0, math.nan)
    sizes = frame["changed_a"] + frame["changed_b"]
    return frame.drop(columns="chance").assign(
        cosine=frame["dot"] / norms,
        jaccard=frame["both"] / frame["either"],
        expected=frame["chance"] / (sizes - frame["chance"]),
    )


def zeros(solution: Solution) -> pd.DataFrame:
    """One row a tensor in which a run set pre-trained weights to zero.

    Columns: layer, kind, name, numel, zeros, sparsity (their share), smallest (how many of them
    are among as many smallest |w_0|), magnitude (the same as Jaccard overlap: 1 is magnitude
    pruning), expected (of random places).
    """
    rows = filter(lambda row: row["zeros"], map(_zeros, solution.changes()))
    columns = ["layer", "kind", "name", "numel", "zeros", "smallest"]
    frame = pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})
    return _against_magnitude(frame, frame["zeros"] ** 2 / frame["numel"])


def pooled_zeros(frame: pd.DataFrame) -> pd.Series:
    """All rows of `zeros` as one tensor: zeros, sparsity, magnitude, expected."""
    sums = frame[["numel", "zeros", "smallest"]].sum().to_frame().T
    return _against_magnitude(sums, (frame["zeros"] ** 2 / frame["numel"]).sum()).iloc[0]


def _against_magnitude(frame: pd.DataFrame, chance: pd.Series | float) -> pd.DataFrame:
    twice = 2 * frame["zeros"]
    return frame.assign(
        sparsity=frame["zeros"] / frame["numel"],
        magnitude=frame["smallest"] / (twice - frame["smallest"]),
        expected=chance / (twice - chance),
    )


def _zeros(change: ParameterChange) -> dict[str, object]:
    gone = (change.after == 0) & (change.before != 0)
    count, size = int(gone.sum()), gone.numel()
    row: dict[str, object] = {**change.columns, "zeros": count}
    if 0 < count < size:  # half an entry more, since `smallest` rounds down
        pruned = smallest(change.before, (count + 0.5) / size)
        row["smallest"] = int((gone & pruned).sum())
    return row
