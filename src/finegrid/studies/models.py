"""Which model? Whether one scores more than another with the same method, on the same rows.

A claim for each pair of models and each method: that the one named first is ahead. It has no paper;
that the contrary is shown says as much.
"""

from collections.abc import Sequence
from itertools import combinations
from math import inf

from finegrid.report.load.rankings import ordered
from finegrid.studies.contrasts import Cells, differences, finding
from finegrid.studies.study import Given, Study
from finegrid.studies.verdict import Claim, Finding, Verdict, judge_all, rule

MODEL = " model="  # in a cell's name, before the model


def verdicts(given: Given) -> dict[int, list[Verdict]]:
    """The claims on every setting, whose models are mixed."""
    return judge_all({number: findings(given.cells(number)) for number in given.settings})


def findings(cells: Cells) -> list[Finding]:
    """What the cells of one setting say on each pair of models and method."""
    names = {name for name, _ in cells if MODEL in name}
    models = sorted({model_of(name) for name in names})
    methods = ordered({name.replace(MODEL + model_of(name), "") for name in names})
    return [_ahead(cells, pair, method) for pair in combinations(models, 2) for method in methods]


def model_of(name: str) -> str:
    """The model in a cell's name; nothing where models are not mixed."""
    return name.partition(MODEL)[2].split(" ")[0]


def with_model(method: str, model: str) -> str:
    """A cell's name: the model stands before what else tells a method."""
    name, space, rest = method.partition(" ")
    return f"{name}{MODEL}{model}{space}{rest}" if model else method


def _ahead(cells: Cells, pair: Sequence[str], method: str) -> Finding:
    first, second = pair
    claim = Claim(
        f"{first} above {second}: {method}",
        f"With {method} {first} scores more than {second}.",
        f"{first} - {second} with {method}, mean over tasks, fractions and budgets, above 0",
        measure=f"{first} - {second}",
        untested=f"needs {method} with both, on the same rows, with two seeds or more",
    )
    one, other = (with_model(method, model) for model in pair)
    return finding(claim, differences(cells, one, other), (0.0, inf), label=lambda _: "all places")


STUDY = Study(
    "Which model is better with a method", rule, verdicts, mix=("model",),
    needs="runs of two models that agree in the rest of their setting",
)  # fmt: skip
