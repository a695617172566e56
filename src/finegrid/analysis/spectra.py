"""The singular values of each matrix's update: how many directions fine-tuning really used.

With s_1 >= s_2 >= ... of W - W_0 (m x n), and p_i = s_i / sum s,

    stable rank     sum s_i^2 / s_1^2
    effective rank  exp(-sum p_i ln p_i), Roy & Vetterli 2007
    n90             how many s_i hold 90 % of sum s_i^2
    rank            how many s_i exceed what rounding W to fp32 alone makes of zero

The s_i are the roots of the eigenvalues of the smaller Gram matrix in fp64: several times faster
than a decomposition and, above 1e-8 s_1, as exact as fp32 weights allow.
"""

import math

import pandas as pd
import torch
from torch import Tensor

from finegrid.analysis.weights import ParameterChange, Solution

TOP = 5  # singular values in the table
NINETY = 0.9 * (1 - 1e-9)  # less what rounding takes of nine equal values of ten
EPS = torch.finfo(torch.float32).eps  # of an entry: twice what rounding it can change


def table(solution: Solution, *, embeddings: bool = False) -> pd.DataFrame:
    """One row a weight matrix; those of the embeddings only if asked for.

    Columns: layer, kind, name, numel, rows, columns, rank, stable_rank, effective_rank, n90,
    s1 to s5. A matrix that did not move has rank 0 and no other number.
    """
    rows = [
        _row(change)
        for change in solution.changes()
        if change.before.ndim == 2 and (embeddings or change.kind != "embeddings")
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _row(change: ParameterChange) -> dict[str, object]:
    shape = dict(zip(("rows", "columns"), change.before.shape, strict=True))
    return {**change.columns, **shape, **summary(change.delta, weight=change.after)}


def summary(delta: Tensor, *, weight: Tensor) -> dict[str, float]:
    """Ranks and singular values of one change; `weight` is the rounded fine-tuned matrix."""
    values = singular_values(delta)
    top = {f"s{number}": float(value) for number, value in enumerate(values[:TOP], 1)}
    if not values[0]:
        unknown = dict.fromkeys(("stable_rank", "effective_rank", "n90"), math.nan)
        return {"rank": 0, **unknown, **top}
    energy, shares = values**2, values / values.sum()
    reached = energy.cumsum(0) >= NINETY * energy.sum()
    return {
        "rank": int((values > EPS * weight.double().norm()).sum()),
        "stable_rank": float(energy.sum() / energy[0]),
        "effective_rank": float(torch.special.entr(shares).sum().exp()),
        "n90": int(reached.double().argmax()) + 1,
        **top,
    }


def singular_values(matrix: Tensor) -> Tensor:
    """fp64, largest first."""
    matrix = matrix.double()
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares: Tensor = torch.linalg.eigvalsh(wide @ wide.T)
    return squares.clamp(min=0).sqrt().flip(0)
