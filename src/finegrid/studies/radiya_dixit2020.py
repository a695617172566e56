"""The claims of Radiya-Dixit & Wang 2020 (arXiv 2004.14129) as tests.

Their distances' normalisation, their critical layers, sparsities and numbers are not known to us.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd

from finegrid.studies.contrasts import Cells, Contrast, Where, detail, differences, parts
from finegrid.studies.study import Given, Study
from finegrid.studies.verdict import (
    Claim,
    Estimate,
    Finding,
    Verdict,
    judge_all,
    of_paper,
    of_values,
    over_tasks,
)
from finegrid.studies.weights import OUTSIDE, by_layer, jackknife, over_runs, ratios, shared, trend

TITLE = "How fine can fine-tuning be? (arXiv 2004.14129)"
LAYERS = ("critical_layers", "layers")
MASK, CONTROLS = "supermask", ("mask_random", "mask_magnitude")
AMONG = "that are among the results, at the largest fraction"
OF_MASK = ("method.initial=", "method.evaluate=")  # arguments that a control does not have
ALIKE = 0.5  # of what masks can share beyond chance

CLOSE = Claim(
    "stays close",
    "Fine-tuned weights are close to the pre-trained ones.",
    "distance moved by full / distance to a random re-initialisation (l2, a layer's tensors "
    "together), below 1 in every layer: t test over runs on the log",
    measure="distance moved / distance to random",
    untested=f"needs --distances of two runs of full or more {AMONG}",
    ratio=True,
)
DIFFERS = Claim(
    "closeness differs by layer",
    "How close they stay differs from layer to layer.",
    "that ratio of a layer / its geometric mean over the layers, above 1 for some layer, or below "
    "(its inverse above 1): t test over runs on the log",
    measure="a layer's ratio / the layers' mean, or its inverse",
    untested=f"needs --distances of two runs of full or more, with two layers or more, {AMONG}",
    everywhere=False,
    ratio=True,
)
SUFFICE = Claim(
    "critical layers suffice",
    "Tuning only the most critical layers is enough.",
    "a choice of layers - full, mean over tasks, above minus the margin for some choice, at the "
    "largest fraction",
    measure="chosen layers - full",
    untested=f"needs {' or '.join(LAYERS)}, and full, two seeds or more",
    everywhere=False,
)
NEAR = Claim(
    "masked is good",
    "Setting some pre-trained weights to zero, chosen by training, solves the tasks well.",
    "supermask - full, mean over tasks, above minus the margin for some sparsity, at the largest "
    "fraction",
    measure="supermask - full",
    untested="needs supermask and full, two seeds or more",
    everywhere=False,
)
ABOVE = Claim(
    "learned beats fixed masks",
    "It takes a learned mask: one that is not learned does worse.",
    "supermask - a random mask and - a magnitude mask of the same starting sparsity, mean over "
    "tasks, above 0 for each, at the largest fraction",
    measure="supermask - control",
    untested=f"needs supermask, {' and '.join(CONTROLS)} of one sparsity, two seeds or more",
)
MANY = Claim(
    "many solutions",
    "Many different sparse solutions are good.",
    "what masks of different seeds of a task share (Jaccard of the zeros), from 0 for chance to 1 "
    f"for equal masks, mean over tasks, below {ALIKE:g}: jackknife over runs",
    measure="shared beyond chance",
    untested=f"needs --overlap of supermask's runs, three seeds of a task or more, {AMONG}",
)
SMALL = Claim(
    "masks are small",
    "A task takes no more than masks of some layers to store.",
    "bytes of supermask's delta / bytes of full's, below 1, at the largest fraction",
    measure="bytes of supermask / bytes of full",
    untested="needs supermask and full, two runs or more",
    ratio=True,
)


def verdicts(given: Given) -> dict[int, list[Verdict]]:
    """The claims on every setting."""
    measured = {"distances": given.distances, "overlap": given.overlap}
    return judge_all({
        n: findings(given.runs(n), given.cells(n), margin=given.margin, **measured)
        for n in given.settings
    })  # fmt: skip


def findings(
    runs: pd.DataFrame,
    cells: Cells,
    *,
    margin: float,
    distances: pd.DataFrame | None = None,
    overlap: pd.DataFrame | None = None,
) -> list[Finding]:
    """What the runs of one setting, and measurements of their weights, say on each claim.

    Args:
        runs: of one setting.
        cells: of these runs.
        margin: in units of the score.
        distances: rows of the files of that name by finegrid analyse; none: not measured.
        overlap: likewise.
    """
    full = [where.fraction for method, where in cells if method == "full"]
    largest = max(full or [where.fraction for _, where in cells], default=0.0)
    cells = {key: cell for key, cell in cells.items() if key[1].fraction == largest}
    named = runs[runs["fraction"] == largest][["cell", "method"]].dropna().astype(str)
    names: dict[str, str] = dict(zip(named["cell"], named["method"], strict=True))
    layers = by_layer(distances, names)
    return [
        _close(layers),
        _differs(layers),
        _against_full(SUFFICE, cells, LAYERS, margin),
        _against_full(NEAR, cells, [MASK], margin),
        _above(cells),
        _many(overlap, names),
        _small(cells),
    ]


def _close(layers: pd.DataFrame) -> Finding:
    if len(layers) < 2:
        return Finding(CLOSE)
    estimates = {str(place): over_runs(layers[place]) for place in layers}
    return Finding(CLOSE, estimates, (-inf, 0.0), ratios(layers), (trend(layers),))


def _differs(layers: pd.DataFrame) -> Finding:
    numbered = layers[[place for place in layers if place != OUTSIDE]]
    if len(numbered) < 2 or numbered.shape[1] < 2:
        return Finding(DIFFERS)
    apart = numbered.sub(numbered.mean(axis=1), axis=0)
    estimates: dict[str, Estimate] = {}
    for place in apart:
        estimates[f"{place} farther"] = over_runs(apart[place])
        estimates[f"{place} nearer"] = over_runs(-apart[place])
    return Finding(DIFFERS, estimates, (0.0, inf), remarks=(trend(numbered),))


def _base(method: str) -> str:
    return method.partition(" ")[0]


def _variants(cells: Cells, names: Sequence[str]) -> list[str]:
    return sorted({method for method, _ in cells if _base(method) in names})


def _compared(
    claim: Claim, compared: Mapping[str, Sequence[Contrast]], region: tuple[float, float]
) -> Finding:
    """A part for each comparison and budget."""
    several = {
        f"{name}, {budget}": estimate
        for name, contrasts in compared.items()
        for budget, estimate in parts(contrasts, Where.budget_text).items()
    }
    places = [one for contrasts in compared.values() for one in contrasts]
    return Finding(claim, several, region, detail(places))


def _against_full(claim: Claim, cells: Cells, names: Sequence[str], margin: float) -> Finding:
    methods = _variants(cells, names)
    compared = {method: differences(cells, method, "full") for method in methods}
    return _compared(claim, compared, (-margin, inf))


def _above(cells: Cells) -> Finding:
    run, compared = {method for method, _ in cells}, {}
    for learned in _variants(cells, [MASK]):
        arguments = [word for word in learned.split(" ")[1:] if not word.startswith(OF_MASK)]
        for control in (" ".join([name, *arguments]) for name in CONTROLS):
            if control in run:
                compared[f"{learned} - {control}"] = differences(cells, learned, control)
    finding = _compared(ABOVE, compared, (0.0, inf))
    both = all(any(f"- {control}" in part for part in finding.parts) for control in CONTROLS)
    remark = "training may change a learned mask's sparsity; its controls keep the start's"
    return replace(finding, parts=finding.parts if both else {}, remarks=(remark,))


def _many(overlap: pd.DataFrame | None, names: Mapping[str, str]) -> Finding:
    remarks = (
        "masks that start from the smallest weights share these by construction",
        "that each solution is a good one is the claim `masked is good`",
    )
    pairs = shared(overlap, names, MASK)
    if pairs.empty:
        return Finding(MANY, remarks=remarks)
    estimates = defaultdict(list)
    same = pairs[pairs["relation"] == "seed"]
    for (method, _), of_task in same.groupby(["method", "task"]):
        if (one := jackknife(of_task)) is not None:
            estimates[str(method)].append(one)
    means = pairs.groupby(["method", "relation"])["shared"].agg(["mean", "min", "max"])
    pooled = {method: over_tasks(several) for method, several in estimates.items()}
    return Finding(MANY, pooled, (-inf, ALIKE), means.reset_index(), remarks)


def _small(cells: Cells) -> Finding:
    sizes: dict[str, list[float]] = defaultdict(list)
    for (method, where), cell in cells.items():
        if _base(method) == MASK and ("full", where) in cells:
            full = float(cells["full", where].runs["delta_bytes"].mean())
            sizes[method] += np.log(cell.runs["delta_bytes"] / full).dropna().tolist()
    estimates = {name: of_values(np.array(logs)) for name, logs in sizes.items() if len(logs) > 1}
    return Finding(SMALL, estimates, (-inf, 0.0))


STUDY = Study(TITLE, of_paper, verdicts)
