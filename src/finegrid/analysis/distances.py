"""How far fine-tuning moves each parameter, and how far a random initialisation lies.

Radiya-Dixit & Wang 2020, arXiv 2004.14129: fine-tuned weights are close to the pre-trained ones,
not equally close in every layer. With w_0 pre-trained and w a point beside it, as flat vectors,

    l1 = sum |w - w_0|    l2 = |w - w_0|    angle = the angle between w_0 and w, in radians

l1 and l2 are in the units of the weights, summed over the tensor: l1 / numel is the mean change
of an entry. Each comes again with `_random`, w being the tensor as the model's own initialiser
draws it, from one seed for all runs. The paper's normalisation is not known to us; the ratio
l2 / l2_random has no unit.
"""

import math
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from finegrid.analysis.weights import ParameterChange, Solution


@dataclass(frozen=True)
class Distance:
    """Between two tensors of one shape."""

    l1: float
    l2: float
    angle: float  # radians, 0 to pi; nan if one of them is zero


def distance(a: Tensor, b: Tensor) -> Distance:
    """In fp64, however close they are."""
    a, b = a.detach().flatten().double(), b.detach().flatten().double()
    change = b - a
    return Distance(float(change.abs().sum()), float(change.norm()), _angle(a, b))


def _angle(a: Tensor, b: Tensor) -> float:
    """2 atan2(|u - v|, |u + v|) of the unit vectors: arccos of a cosine near 1 loses half the
    digits, and these angles are small."""
    lengths = a.norm(), b.norm()
    if not all(lengths):
        return math.nan
    u, v = a / lengths[0], b / lengths[1]
    return 2 * math.atan2(float((u - v).norm()), float((u + v).norm()))


def table(solution: Solution) -> pd.DataFrame:
    """One row a parameter of the encoder.

    Columns: layer, kind, name, numel, l1, l2, angle, l1_random, l2_random, angle_random, ratio
    (l2 / l2_random), and the norms of the pre-trained tensor, l1_pretrained and l2_pretrained.
    """
    frame = pd.DataFrame(map(_row, solution.changes()))
    return frame.astype({"layer": "Int64"})


def _row(change: ParameterChange) -> dict[str, object]:
    moved, random = distance(change.before, change.after), distance(change.before, change.random)
    before = change.before.flatten().double()
    return {
        **change.columns,
        **vars(moved),
        **{f"{name}_random": value for name, value in vars(random).items()},
        "ratio": moved.l2 / random.l2 if random.l2 else math.nan,
        "l1_pretrained": float(before.abs().sum()),
        "l2_pretrained": float(before.norm()),
    }
