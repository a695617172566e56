"""How many labels does each way of fine-tuning need? Common advice on few labelled rows, as claims.

Labels are the rows to train on and to select on. That an instruction is worth many labels is what
Le Scao & Rush 2021 (arXiv 2103.08493) find, of an encoder that fills a gap; here a decoder is asked
in words (`head=pattern`). The other claims have no paper.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf

import pandas as pd

from finegrid.report.stats.compare import label_rows
from finegrid.studies.contrasts import Cell, Cells, Contrast, Where, detail, differences, parts
from finegrid.studies.models import model_of, with_model
from finegrid.studies.study import Given, Study
from finegrid.studies.verdict import Claim, Estimate, Finding, Verdict, judge_all, rule

FEW, SOME, MANY = 128, 512, 2048  # labels
TUNED_LITTLE = ("bitfit", "lora_all", "lora")
PROTOTYPE, PATTERN = "head head=prototype", " head=pattern"

LITTLE_IS_ENOUGH = Claim(
    "little training is enough with few labels",
    f"With {SOME} labels or fewer BitFit and LoRA do as well as full fine-tuning.",
    "each - full, mean over tasks, above minus the margin at every number of labels",
    measure="method - full",
    untested="needs full, and bitfit or lora_all, two seeds or more",
)
FULL_PAYS = Claim(
    "full pays with many labels",
    f"With {MANY:,} labels or more full fine-tuning is better than BitFit.",
    "full - bitfit, mean over tasks, above 0 at every number of labels",
    measure="full - bitfit",
    untested="needs full and bitfit, two seeds or more",
)
HEAD_IS_ENOUGH = Claim(
    "the head is enough with few labels",
    f"With {FEW} labels or fewer the head alone does as well as full fine-tuning.",
    "head - full, mean over tasks, above minus the margin at every number of labels",
    measure="head - full",
    untested="needs head and full, two seeds or more",
)
CLASS_MEANS = Claim(
    "class means beat a trained head with few labels",
    f"With {FEW} labels or fewer a head of class means scores more than one that is trained.",
    "head=prototype - head, mean over tasks, above 0 at every number of labels",
    measure="prototype - head",
    untested="needs head with head=prototype and without, two seeds or more",
)
WORDS = Claim(
    "words are worth labels",
    f"With {FEW} labels or fewer a model that is asked in words beats full fine-tuning of another.",
    "head=pattern - full of each other model, mean over tasks, above 0 at every number of labels",
    measure="pattern - full",
    untested="needs a model with head=pattern, and full of another, two seeds or more",
)


def verdicts(given: Given) -> dict[int, list[Verdict]]:
    """The claims on every setting, whose heads and models are mixed."""
    return judge_all({n: findings(given.cells(n), margin=given.margin) for n in given.settings})


def findings(cells: Cells, *, margin: float) -> list[Finding]:
    """What the cells of one setting say on each claim."""
    level = (-margin, inf)
    return [
        _finding(LITTLE_IS_ENOUGH, cells, _pairs(cells, TUNED_LITTLE, "full"), level, most=SOME),
        _finding(FULL_PAYS, cells, _pairs(cells, ("full",), "bitfit"), (0.0, inf), least=MANY),
        _finding(HEAD_IS_ENOUGH, cells, _pairs(cells, ("head",), "full"), level, most=FEW),
        _finding(CLASS_MEANS, cells, _pairs(cells, (PROTOTYPE,), "head"), (0.0, inf), most=FEW),
        _finding(WORDS, cells, _asked(cells), (0.0, inf), most=FEW),
    ]


def _pairs(cells: Cells, methods: Sequence[str], other: str) -> list[tuple[str, str]]:
    """Names of cells of one model: each method there is, and what it is held against."""
    names = {name for name, _ in cells}
    pairs = [
        (with_model(method, model), with_model(other, model))
        for model in sorted(set(map(model_of, names)))
        for method in methods
    ]
    return [pair for pair in pairs if names.issuperset(pair)]


def _asked(cells: Cells) -> list[tuple[str, str]]:
    """Models that are asked in words, each against full fine-tuning of every other."""
    names = sorted({name for name, _ in cells})
    full = [name for name in names if name.split(" ")[0] == "full" and " head=" not in name]
    return [
        (one, other)
        for one in names
        for other in full
        if PATTERN in one and model_of(one) != model_of(other)
    ]


def _finding(
    claim: Claim,
    cells: Cells,
    pairs: Sequence[tuple[str, str]],
    region: tuple[float, float],
    *,
    least: float = 0,
    most: float = inf,
) -> Finding:
    """A part for each pair and number of labels between `least` and `most`, over the tasks."""
    labels = {where: _labels(cell) for (_, where), cell in cells.items()}
    every: list[Contrast] = []
    found: dict[str, Estimate] = {}
    for one, other in pairs:
        both = differences(cells, one, other)
        within = [each for each in both if least <= labels[each.where] <= most]
        every += within
        found |= parts(within, _part(f"{one} - {other}", labels))
    return Finding(claim, found, region, _detail(every, labels))


def _detail(contrasts: Sequence[Contrast], labels: Mapping[Where, float]) -> pd.DataFrame:
    """A row a place, by its number of labels, as a share of some rows says little here."""
    table = detail(contrasts)
    if table.empty:
        return table
    table["fraction"] = [f"{labels[each.where]:,.0f}" for each in contrasts]
    return table.rename(columns={"fraction": "labels"})


def _part(name: str, labels: Mapping[Where, float]) -> Callable[[Where], str]:
    return lambda where: f"{name} at {labels[where]:,.0f} labels"


def _labels(cell: Cell) -> float:
    return float(label_rows(cell.runs).median())


STUDY = Study(
    "How many labels does each way of fine-tuning need", rule, verdicts, mix=("head", "model")
)
