"""From how many labels on one method scores more than another: where their mean scores cross.

Between the amounts that were measured the difference of two methods is a line over log2(labels);
a zero of the means is a crossing, of several the first that the signs told around it fit. Its
interval holds all amounts around it at which the sign of the difference could be chance (Fieller's
way): with J amounts fewer than 1 - 0.025 / J of draws agree on it, for 95 % at all together. It is
told if the sign is told at an amount that was measured. A draw strays by seeds, as Student's
t with the ranking's shrunken variance, along the deviations of the paired differences, so that a
seed's luck at several amounts goes together (a wild bootstrap); and by test rows, on the same
resampled ones at all amounts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import inf, log2, nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from finegrid.report.load.rankings import RANKING, TABLE, Results, ordered
from finegrid.report.stats import simultaneous
from finegrid.report.stats.compare import label_rows
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Evidence, Key, Known
from finegrid.report.stats.shrunken_variance import spreads
from finegrid.report.stats.significance import Floats
from finegrid.report.stats.simultaneous import Pairs

SIZES = 3  # amounts of labels, the fewest that are looked into
SEEDS = 2  # in common at an amount, the fewest that count
DRAWS = 2000
STEPS = 64  # at which the interval is looked for, between two amounts
COLUMNS = [
    *TABLE, "first", "second", "labels", "low", "high", "times", "told", "sizes", "smallest",
    "largest", "why",
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """One ranking: its amount of labels, and all differences of its methods."""

    labels: float
    methods: Mapping[str, Known]
    at: Mapping[str, int]  # place in `pairs`
    pairs: Pairs


@dataclass(frozen=True)
class Luck:
    """Standard normal draws that all pairs of a table share, B each."""

    seeds: Mapping[int, Floats]
    spread: Floats  # uniform: how far an estimated variance is off
    rows: Floats
    rest: Floats  # sizes x B: of a size whose paired differences are all the same


@dataclass(frozen=True)
class Curve:
    """The difference of two methods at J amounts of labels, and draws of it."""

    x: Floats  # log2(labels), rising
    mean: Floats  # J
    drawn: Floats  # J B


@dataclass(frozen=True)
class Turn:
    """Where the means cross, in log2(labels)."""

    zero: float
    rises: bool  # whether the difference does
    low: float  # nearest amounts at which the sign is told; infinite if at none
    high: float
    fits: bool  # whether these signs go with it: one does, and none denies it


def crossings(results: Results, known: Evidence, *, level: float = 0.95) -> pd.DataFrame:
    """A row a pair of methods, of the tables with three amounts of labels or more.

    `first` overtakes `second` at about `labels` (with rows to select on, as `label_rows` counts)
    and scores more above; `low` and `high` bound that, infinite beyond the amounts measured;
    `times` is how often the means cross. Where `labels` is nan they do not, and `first` has the
    higher ones. `told` counts the amounts at which a difference is no chance, of `sizes`; `why`
    says why nothing can be told.
    """
    labels = label_rows(results.runs).groupby([results.runs[name] for name in RANKING]).median()
    tables: dict[Key, list[Key]] = defaultdict(list)
    for key in known.rankings:
        if labels.get(key, nan) >= 1:
            tables[key[:-1]].append(key)
    rows = [
        [*table, *row]
        for table, keys in tables.items()
        if len({labels[key] for key in keys}) >= SIZES
        for row in _of_table([_size(labels[key], known.rankings[key]) for key in keys], level)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _size(labels: float, methods: Mapping[str, Known]) -> Size:
    scores = [cell.scores for cell in methods.values()]
    at = {name: number for number, name in enumerate(methods)}
    return Size(float(labels), methods, at, simultaneous.pairs(scores, spreads(scores)))


def _of_table(sizes: Sequence[Size], level: float) -> list[list[object]]:
    """All pairs that met at enough amounts, baselines first."""
    sizes = sorted({size.labels: size for size in sizes}.values(), key=lambda size: size.labels)
    luck = _luck(sizes)
    names = ordered({name for size in sizes for name in size.methods})
    rows = []
    for a, b in combinations(names, 2):
        met = [n for n, size in enumerate(sizes) if {a, b} <= set(size.methods)]
        if len(met) >= SIZES:
            rows.append(_of_pair(a, b, [(sizes[n], luck.rest[n]) for n in met], luck, level))
    return rows


def _luck(sizes: Sequence[Size]) -> Luck:
    rng = np.random.default_rng(0)
    cells = [cell.scores for size in sizes for cell in size.methods.values()]
    seeds = sorted({seed for scores in cells for seed in scores.seeds})
    drawn = rng.standard_normal((len(seeds), DRAWS))
    return Luck(
        dict(zip(seeds, drawn, strict=True)),
        rng.random(DRAWS),
        rng.standard_normal(DRAWS),
        rng.standard_normal((len(sizes), DRAWS)),
    )


def _of_pair(
    a: str, b: str, met: Sequence[tuple[Size, Floats]], luck: Luck, level: float
) -> list[object]:
    """A row, from `first` on."""
    tested = [(size, rest) for size, rest in met if _testable(size, a, b)]
    span = [len(met), met[0][0].labels, met[-1][0].labels]
    if len(tested) < 2:
        return [a, b, nan, nan, nan, 0, 0, *span, _untested([size for size, _ in met], a, b)]
    curve = _curve(a, b, tested, luck)
    span = [len(tested), tested[0][0].labels, tested[-1][0].labels]
    share = (curve.drawn > 0).mean(axis=1)
    sure = 1 - (1 - level) / 2 / len(tested)  # Bonferroni's: at all amounts
    told = int((np.maximum(share, 1 - share) >= sure).sum())
    zeros = _zeros(curve.x, curve.mean)
    leads = float(curve.mean[curve.mean != 0][0]) if curve.mean.any() else 0.0
    if not zeros:
        names = [b, a] if leads < 0 else [a, b]
        return [*names, nan, nan, nan, 0, told, *span, "" if told else "chance"]
    turn = _turn(curve, zeros, leads < 0, sure)
    why = "chance" if not told else "" if turn.fits else "side"
    names = [a, b] if turn.rises else [b, a]
    return [*names, 2.0**turn.zero, 2.0**turn.low, 2.0**turn.high, len(zeros), told, *span, why]


def _testable(size: Size, a: str, b: str) -> bool:
    """Whether the difference has a spread, and one of the two learned anything."""
    at = size.at[a], size.at[b]
    learned = size.methods[a].learned or size.methods[b].learned
    several = size.pairs.seeds[at] >= SEEDS
    return bool(learned and several and size.pairs.variance[at] > 0)


def _untested(sizes: Sequence[Size], a: str, b: str) -> str:
    if not any(size.methods[a].learned or size.methods[b].learned for size in sizes):
        return "learned"
    few = all(size.pairs.seeds[size.at[a], size.at[b]] < SEEDS for size in sizes)
    return "seeds" if few else "sizes"


def _curve(a: str, b: str, tested: Sequence[tuple[Size, Floats]], luck: Luck) -> Curve:
    x = np.array([log2(size.labels) for size, _ in tested])
    mean = np.array([size.pairs.difference[size.at[a], size.at[b]] for size, _ in tested])
    strays = [_strayed(a, b, size, luck, rest) for size, rest in tested]
    return Curve(x, mean, mean[:, None] + np.stack(strays))


def _strayed(a: str, b: str, size: Size, luck: Luck, rest: Floats) -> Floats:
    """How far draws of a difference are from its mean."""
    at, strayed = (size.at[a], size.at[b]), np.zeros(DRAWS)
    one, other = size.methods[a].scores, size.methods[b].scores
    for source in size.pairs.sources:
        se = sqrt(max(float(source.variance[at]), 0.0))
        if source.chance == "seeds":
            df = float(source.df[at])
            scale = np.sqrt(df / special.chdtri(df, luck.spread))
            strayed += se * scale * _direction(one, other, luck, rest)
        else:
            rows = _over_rows(one, other)
            strayed += se * luck.rows if rows is None else rows
    return strayed


def _direction(a: Scores, b: Scores, luck: Luck, rest: Floats) -> Floats:
    """Standard normal draws that follow each seed's deviation."""
    common, at_a, at_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
    paired = a.values[at_a] - b.values[at_b]
    off = paired - paired.mean()
    length = float(np.linalg.norm(off))
    if not length > 1e-12:
        return rest
    return np.asarray((off / length) @ np.stack([luck.seeds[seed] for seed in common.tolist()]))


def _over_rows(a: Scores, b: Scores) -> Floats | None:
    """On resampled test rows, which are the same at all amounts; none without predictions."""
    means = simultaneous.resampled_mean(a), simultaneous.resampled_mean(b)
    if means[0] is None or means[1] is None:
        return None
    draws = min(map(len, means))  # type: ignore[arg-type]
    off = means[0][:draws] - means[1][:draws]
    return np.resize((off - off.mean()) * sqrt(a.rows / max(a.rows - 1, 1)), DRAWS)


def _zeros(x: Floats, mean: Floats) -> list[float]:
    """Where the line through points changes its sign; of zeros between two signs the middle."""
    apart = np.flatnonzero(mean)
    found = []
    for left, right in pairwise(apart.tolist()):
        if mean[left] * mean[right] > 0:
            continue
        if right > left + 1:
            found.append(float(x[left + 1] + x[right - 1]) / 2)
        else:
            share = mean[left] / (mean[left] - mean[right])
            found.append(float(x[left] + share * (x[right] - x[left])))
    return found


def _turn(curve: Curve, zeros: Sequence[float], rises: bool, sure: float) -> Turn:
    """The first zero that the signs told around it fit, else the first.

    `rises`: whether the difference does at the first, and so at every second one.
    """
    grid, shares = _on_grid(curve)
    signs = np.where(shares >= sure, 1, 0) - np.where(1 - shares >= sure, 1, 0)
    turns = [_around(grid, signs, zero, rises == (n % 2 == 0)) for n, zero in enumerate(zeros)]
    return next((turn for turn in turns if turn.fits), turns[0])


def _around(grid: Floats, signs: NDArray[np.int64], zero: float, rises: bool) -> Turn:
    """A zero with the nearest amounts below and above at which the sign is told."""
    below, above = ((signs != 0) & side for side in (grid < zero, grid > zero))
    low, before = (float(grid[below][-1]), signs[below][-1]) if below.any() else (-inf, 0)
    high, after = (float(grid[above][0]), signs[above][0]) if above.any() else (inf, 0)
    return Turn(zero, rises, low, high, fits=np.sign(after - before) == (1 if rises else -1))


def _on_grid(curve: Curve) -> tuple[Floats, NDArray[np.float64]]:
    """log2(labels), and the share of draws in which the difference is above 0 there."""
    grid, shares = [], []
    part = np.linspace(0, 1, STEPS, endpoint=False)
    for n in range(len(curve.x) - 1):
        grid.append(curve.x[n] + part * (curve.x[n + 1] - curve.x[n]))
        lines = curve.drawn[n] + part[:, None] * (curve.drawn[n + 1] - curve.drawn[n])
        shares.append((lines > 0).mean(axis=1))
    grid.append(curve.x[-1:])
    shares.append((curve.drawn[-1:] > 0).mean(axis=1))
    return np.concatenate(grid), np.concatenate(shares)
