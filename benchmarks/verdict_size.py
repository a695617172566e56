"""How often the verdicts lie, and what they find: simulated rankings, shipped statistics.

    python benchmarks/verdict_size.py          # the tables of statistics.md: 20 minutes
    python benchmarks/verdict_size.py --quick  # a minute: fewer shapes and draws

A ranking is M methods, S seeds, and N test rows. A score is the method's mean, the seed's luck
(normal, Student's t with 3 degrees of freedom, or `collapse`: one run in ten falls by three
deviations; a tenth of its variance common to all methods of a seed) and the luck of the test rows.
`wrong` is the share of rankings of equal methods in which some method is called worse; 5 % is what
the report states. Each ranking is judged by itself, so that several of a task change nothing.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from finegrid.report.stats import compare, row_noise, simultaneous
from finegrid.report.stats.bootstrap import Resampler
from finegrid.report.stats.paired import Scores
from finegrid.report.stats.scores import Known
from finegrid.report.stats.shrunken_variance import spreads

NOISES = ("normal", "t3", "collapse")
SPREADS = ("equal", "unlike", "one wild")
ROWS = 400
SHARE = 0.1  # of a run's variance that all methods of a seed have in common
DRAWS = 200  # of test rows


@dataclass(frozen=True)
class Shape:
    """One kind of ranking."""

    methods: int
    seeds: int
    noise: str = "normal"
    spread: str = "equal"  # unlike: log-normal with deviation 0.5; one wild: four times the others'
    of_rows: float = 0.0  # variance of the rows' luck; 1 is that of a run's seed
    predictions: bool = True
    gain: float = 0.0  # of the first method, in deviations of a run


def noise(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Of deviation about 1."""
    if kind == "t3":
        return rng.standard_t(3, shape) / np.sqrt(3)
    fall = 3 * (rng.random(shape) < 0.1) if kind == "collapse" else 0
    return rng.normal(size=shape) - fall


def ranking(shape: Shape, rng: np.random.Generator) -> list[Scores]:
    """The scores of its methods, with draws of test rows or an estimate of what these do."""
    m, s = shape.methods, shape.seeds
    spread = np.ones(m)
    if shape.spread == "unlike":
        spread = np.exp(rng.normal(0, 0.5, m))
    elif shape.spread == "one wild":
        spread[0] = 4
    values = spread[:, None] * np.sqrt(1 - SHARE) * noise(shape.noise, (m, s), rng)
    values += np.sqrt(SHARE) * rng.normal(size=s) + np.sqrt(shape.of_rows) * rng.normal(size=(m, 1))
    values[0] += shape.gain
    found = []
    for own in values:
        if shape.predictions and shape.of_rows:
            drawn = np.sqrt(shape.of_rows) * rng.normal(size=(DRAWS, 1))
            known = np.broadcast_to(drawn, (DRAWS, s))
            found.append(Scores(tuple(range(s)), own, known, ROWS))
        else:
            found.append(Scores(tuple(range(s)), own, None, ROWS, shape.of_rows))
    return found


def of_predictions(
    methods: int, seeds: int, metric: str, known: bool, rng: np.random.Generator
) -> list[Scores]:
    """The same from row to row: what a row is worth depends on row, method and run."""
    labels = (rng.random(ROWS) < 0.4).astype(int)
    logits = 1.2 + 0.8 * rng.normal(size=ROWS) + 0.8 * rng.normal(size=(methods, 1, ROWS))
    logits = logits + 0.15 * rng.normal(size=(methods, seeds, 1))
    right = logits + 0.5 * rng.normal(size=(methods, seeds, ROWS)) > 0
    predicted = np.where(right, labels, 1 - labels).reshape(-1, ROWS)
    draws = Resampler(labels, [metric], draws=DRAWS, seed=int(rng.integers(1 << 30)))
    if not known:
        draws.weights = draws.weights[:, :1]
    scores = draws.scores(predicted).reshape(-1, methods, seeds)
    accuracy = (predicted == labels).mean(axis=1).reshape(methods, seeds).mean(axis=1)
    return [
        Scores(
            tuple(range(seeds)), scores[0, m], scores[1:, m] if known else None, ROWS,
            row_noise.VARIANCES[metric](float(scores[0, m].mean()), float(accuracy[m]), ROWS),
        )
        for m in range(methods)
    ]  # fmt: skip


def wrong(cells: list[Scores]) -> bool:
    """Whether some method is called worse than the leader."""
    told = simultaneous.pairs(cells, spreads(cells)).above()
    return bool(told[np.argmax([cell.values.mean() for cell in cells])].any())


def found(cells: list[Scores]) -> float:
    """The share of the others that the first method, which is better, is told apart from."""
    told = simultaneous.pairs(cells, spreads(cells)).above()
    return float(told[0].sum()) / (len(cells) - 1)


def margins_hold(cells: list[Scores], truth: np.ndarray) -> bool:
    """Whether all intervals of the leader's differences hold the true ones."""
    pairs = simultaneous.pairs(cells, spreads(cells))
    leader = int(np.argmax([cell.values.mean() for cell in cells]))
    far = pairs.difference[leader] - (truth[leader] - truth)
    return bool((np.abs(far) <= pairs.half()[leader] + 1e-12).all())


def band_holds(cell: Scores, truth: float) -> bool:
    """Whether a cell's interval holds the true mean."""
    low, high, *_ = compare.interval(Known(cell, {}), "", 0.95)
    return low <= truth <= high


def shapes(quick: bool) -> Iterator[Shape]:
    """What is measured: seeds' luck alone in all combinations, rows' luck in some."""
    sizes = ((4, 3), (10, 5)) if quick else tuple(product((2, 3, 4, 10, 34), (3, 5, 10)))
    for (methods, seeds), kind, spread in product(sizes, NOISES, SPREADS):
        if kind == "normal" or spread == "equal" or methods == 4:
            yield Shape(methods, seeds, kind, spread)
    sizes = ((4, 3),) if quick else ((4, 3), (10, 3), (34, 3), (4, 10))
    for (methods, seeds), of_rows, known in product(sizes, (0.1, 10.0), (True, False)):
        yield Shape(methods, seeds, "normal", "equal", of_rows, known)


def share(hits: int, draws: int) -> str:
    """Per cent, and the lower end of its 95 % binomial interval."""
    from scipy.stats import binomtest

    low = binomtest(hits, draws).proportion_ci(0.95).low
    return f"{100 * hits / draws:.1f} ({100 * low:.1f})"


def sizes(quick: bool, draws: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """A row a shape."""
    for shape in shapes(quick):
        hits = sum(wrong(ranking(shape, rng)) for _ in range(draws))
        chance = "seeds alone" if not shape.of_rows else f"rows {shape.of_rows:g} x seeds"
        how = "" if not shape.of_rows else "predictions" if shape.predictions else "estimated"
        yield [str(shape.methods), str(shape.seeds), shape.noise, shape.spread, chance, how,
               share(hits, draws)]  # fmt: skip


def sizes_by_row(draws: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """A row a metric: rankings whose predictions are simulated row by row."""
    methods, seeds = 4, 3
    for metric, known in product(("accuracy", "f1", "matthews"), (True, False)):
        hits = sum(wrong(of_predictions(methods, seeds, metric, known, rng)) for _ in range(draws))
        how = "predictions" if known else "estimated"
        yield [str(methods), str(seeds), "of each row", metric, "both", how, share(hits, draws)]


def coverage(draws: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """Of the leader's margins, of a cell's interval, and `the best` of two equals."""
    for methods, seeds in product((2, 4, 10), (3, 5)):
        for gain, of_rows in ((0.0, 0.0), (1.0, 0.3)):
            shape = Shape(methods, seeds, of_rows=of_rows, gain=gain)
            truth = np.array([gain, *[0.0] * (methods - 1)])
            drawn = [ranking(shape, rng) for _ in range(draws)]
            margins = np.mean([margins_hold(cells, truth) for cells in drawn])
            band = np.mean([band_holds(cells[0], gain) for cells in drawn])
            best = np.mean([wrong(cells) for cells in drawn]) if methods == 2 and not gain else None
            yield [str(methods), str(seeds), f"{gain:g}", f"{of_rows:g}", f"{margins:.3f}",
                   f"{band:.3f}", "" if best is None else f"{100 * best:.1f} %"]  # fmt: skip


def power(quick: bool, draws: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """The share of worse methods found, the first being better by so many deviations of a run."""
    for methods, seeds in product((2, 4, 10), (3, 5) if quick else (3, 5, 10)):
        shares = [
            np.mean([found(ranking(Shape(methods, seeds, gain=gain), rng)) for _ in range(draws)])
            for gain in (1.0, 2.0, 3.0, 5.0)
        ]
        yield [str(methods), str(seeds), *(f"{one:.2f}" for one in shares)]


def show(head: list[str], rows: Iterator[list[str]]) -> None:
    """A Markdown table, row by row as it comes."""
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Measure and print, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes and draws: a minute")
    parser.add_argument("--draws", type=int, help="rankings a shape (2000, or 300 if quick)")
    parser.add_argument("--only", default="sizes,rows,coverage,power", help="which tables")
    given = parser.parse_args()
    draws = given.draws or (300 if given.quick else 2000)
    rng = np.random.default_rng(0)
    which = [name.strip() for name in given.only.split(",")]
    head = ["methods", "seeds", "luck of seeds", "spreads", "chance", "rows by", "wrong % (low)"]
    if "sizes" in which:
        show(head, sizes(given.quick, draws, rng))
    if "rows" in which:
        show(head, sizes_by_row(draws, rng))
    if "coverage" in which:
        head = ["methods", "seeds", "gain", "rows", "margins hold", "interval holds", "best of 2"]
        show(head, coverage(draws, rng))
    if "power" in which:
        head = ["methods", "seeds", "1 sd", "2 sd", "3 sd", "5 sd"]
        show(head, power(given.quick, draws // 4, rng))


if __name__ == "__main__":
    main()
