"""The claims of Radiya-Dixit & Wang 2020 (arXiv 2004.14129) as tests.

Their distances' normalisation, their critical layers, sparsities and numbers are not known to us.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
import pandas as pd

from finegrid.studies.contrasts import Cells, Contrast, detail, differences, parts
from finegrid.studies.verdict import Claim, Estimate, Finding, of_values, over_tasks
from finegrid.studies.weights import OUTSIDE, by_layer, jackknife, over_runs, ratios, shared, trend

TITLE = "How fine can fine-tuning be? (arXiv 2004.14129)"
LAYERS, MASK, CONTROLS = (
    ("critical_layers", "layers"),
    "supermask",
    ("mask_random", "mask_magnitude"),
)
AMONG = "that are among the results, at the largest fraction"
OF_MASK = ("method.initial=", "method.evaluate=")  # arguments that a control does not have
ALIKE = 0.5  # of what masks can share beyond chance

CLOSE = Claim(
    "stays close",
    "Fine-tuned weights are close to the pre-trained ones.",
    "distance moved by full / distance to a random re-initialisation (l2, a layer's tensors "
    "together), below 1 in every layer: t test over runs on the log",
)
DIFFERS = Claim(
    "closeness differs by layer",
    "How close they stay differs from layer to layer.",
    "that ratio of a layer / its geometric mean over the layers, above 1 for some layer, or below "
    "(its inverse above 1): t test over runs on the log",
)
SUFFICE = Claim(
    "critical layers suffice",
    "Tuning only the most critical layers is enough.",
    "a choice of layers - full, mean over tasks, above minus the margin for some choice, at the "
    "largest fraction",
)
NEAR = Claim(
    "masked is good",
    "Setting some pre-trained weights to zero, chosen by training, solves the tasks well.",
    "supermask - full, mean over tasks, above minus the margin for some sparsity, at the largest "
    "fraction",
)
ABOVE = Claim(
    "learned beats fixed masks",
    "It takes a learned mask: one that is not learned does worse.",
    "supermask - a random mask and - a magnitude mask of the same starting sparsity, mean over "
    "tasks, above 0 for each, at the largest fraction",
)
MANY = Claim(
    "many solutions",
    "Many different sparse solutions are good.",
    "what masks of different seeds of a task share (Jaccard of the zeros), from 0 for chance to 1 "
    f"for equal masks, mean over tasks, below {ALIKE:g}: jackknife over runs",
)
SMALL = Claim(
    "masks are small",
    "A task takes no more than masks of some layers to store.",
    "bytes of supermask's delta / bytes of full's, below 1, at the largest fraction",
)


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
        distances: rows of the files of that name by scripts/analyse.py; none: not measured.
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
        _suffice(cells, margin),
        _near(cells, margin),
        _above(cells),
        _many(overlap, names),
        _small(cells),
    ]


def _close(layers: pd.DataFrame) -> Finding:
    enough = len(layers) > 1
    return Finding(
        CLOSE,
        "distance moved / distance to random",
        {str(place): over_runs(layers[place]) for place in layers} if enough else {},
        (-inf, 0.0),
        ratio=True,
        untested=f"needs --distances of two runs of full or more {AMONG}",
        remarks=(trend(layers),) if enough else (),
        detail=ratios(layers) if enough else pd.DataFrame(),
    )


def _differs(layers: pd.DataFrame) -> Finding:
    numbered = layers[[place for place in layers if place != OUTSIDE]]
    enough = len(numbered) > 1 and numbered.shape[1] > 1
    apart = numbered.sub(numbered.mean(axis=1), axis=0)
    found: dict[str, Estimate] = {}
    for place in apart if enough else []:
        found[f"{place} farther"] = over_runs(apart[place])
        found[f"{place} nearer"] = over_runs(-apart[place])
    return Finding(
        DIFFERS,
        "a layer's ratio / the layers' mean, or its inverse",
        found,
        (0.0, inf),
        everywhere=False,
        ratio=True,
        untested=f"needs --distances of two runs of full or more, with two layers or more, {AMONG}",
        remarks=(trend(numbered),) if enough else (),
    )


def _base(method: str) -> str:
    return method.partition(" ")[0]


def _variants(cells: Cells, names: Sequence[str]) -> list[str]:
    return sorted({method for method, _ in cells if _base(method) in names})


def _against_full(cells: Cells, methods: Sequence[str]) -> dict[str, list[Contrast]]:
    return {method: differences(cells, method, "full") for method in methods}


def _parts(compared: Mapping[str, Sequence[Contrast]]) -> dict[str, Estimate]:
    """A part for each comparison and budget."""
    several: dict[str, Estimate] = {}
    for name, contrasts in compared.items():
        of_budget = parts(contrasts, lambda w: f"{w.budget:g} {w.unit}")
        several |= {f"{name}, {budget}": found for budget, found in of_budget.items()}
    return several


def _suffice(cells: Cells, margin: float) -> Finding:
    found = _against_full(cells, _variants(cells, LAYERS))
    return Finding(
        SUFFICE,
        "chosen layers - full",
        _parts(found),
        (-margin, inf),
        everywhere=False,
        untested=f"needs {' or '.join(LAYERS)}, and full, two seeds or more",
        detail=detail([one for several in found.values() for one in several]),
    )


def _near(cells: Cells, margin: float) -> Finding:
    found = _against_full(cells, _variants(cells, [MASK]))
    return Finding(
        NEAR,
        "supermask - full",
        _parts(found),
        (-margin, inf),
        everywhere=False,
        untested="needs supermask and full, two seeds or more",
        detail=detail([one for several in found.values() for one in several]),
    )


def _above(cells: Cells) -> Finding:
    found = {}
    for learned in _variants(cells, [MASK]):
        for control in CONTROLS:
            other = _control(learned, control)
            if any(method == other for method, _ in cells):
                found[f"{learned} - {other}"] = differences(cells, learned, other)
    told = _parts(found)
    both = all(any(f"- {control}" in part for part in told) for control in CONTROLS)
    return Finding(
        ABOVE,
        "supermask - control",
        told if both else {},
        (0.0, inf),
        untested=f"needs supermask, {' and '.join(CONTROLS)} of one sparsity, two seeds or more",
        remarks=("training may change a learned mask's sparsity; its controls keep the start's",),
        detail=detail([one for several in found.values() for one in several]),
    )


def _control(learned: str, control: str) -> str:
    """The name of a control with a learned mask's arguments, but for those it does not have."""
    kept = [word for word in learned.split(" ")[1:] if not word.startswith(OF_MASK)]
    return " ".join([control, *kept])


def _many(overlap: pd.DataFrame | None, names: Mapping[str, str]) -> Finding:
    pairs = shared(overlap, names, MASK)
    same = pairs[pairs["relation"] == "seed"] if len(pairs) else pairs
    found = defaultdict(list)
    for (method, _), of_task in same.groupby(["method", "task"]) if len(same) else ():
        if (one := jackknife(of_task)) is not None:
            found[str(method)].append(one)
    means = pairs.groupby(["method", "relation"])["shared"] if len(pairs) else None
    return Finding(
        MANY,
        "shared beyond chance",
        {method: over_tasks(estimates) for method, estimates in found.items()},
        (-inf, ALIKE),
        untested=f"needs --overlap of supermask's runs, three seeds of a task or more, {AMONG}",
        remarks=(
            "masks that start from the smallest weights share these by construction",
            "that each solution is a good one is the claim `masked is good`",
        ),
        detail=pd.DataFrame() if means is None else means.agg(["mean", "min", "max"]).reset_index(),
    )


def _small(cells: Cells) -> Finding:
    sizes: dict[str, list[float]] = defaultdict(list)
    for (method, where), cell in cells.items():
        if _base(method) == MASK and ("full", where) in cells:
            whole = float(cells["full", where].runs["delta_bytes"].mean())
            sizes[method] += np.log(cell.runs["delta_bytes"] / whole).dropna().tolist()
    return Finding(
        SMALL,
        "bytes of supermask / bytes of full",
        {name: of_values(np.array(logs)) for name, logs in sizes.items() if len(logs) > 1},
        (-inf, 0.0),
        ratio=True,
        untested="needs supermask and full, two runs or more",
    )
