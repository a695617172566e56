"""SubTuning: train the few layers that a greedy search finds (Kaplun et al. 2023, 2302.06354).

Which layers are worth training depends on the task. With c(S) the cross-validated score of a short
training of the layers S and the head from the pre-trained weights,

    S_1 = {argmax_l c({l})},   S_i = S_{i-1} + {argmax_l c(S_{i-1} + {l})}

while c(S_i) > c(S_{i-1}) + tolerance, with at most `most` layers. Then the weights are the
pre-trained ones again, and what is left of the budget trains S and the head, with a schedule of its
own. Everything comes from one budget: each batch that the search trains on or is scored on counts
as a step, with its examples, tokens and time, and the search takes at most `search_share`. It stops
before a round that its share cannot pay; where that is the first, the top layer trains, with a
warning.

Where we differ, from the authors' code (github.com/talswisa/SubTuning): each of its trainings is a
full one, in 5 folds, and none is counted; here they have `steps` steps at the run's rate, and are
scored on at most as many batches of the rows held out. Its search goes on while a round is at most
0.01 of accuracy below the best, and takes the best set; ours ends at the first round that gains no
more than `tolerance`. It begins with the head alone, which may win, or takes layers away from all;
here one layer trains at least (`method=head` trains none). Its layers are blocks of ResNets and
vision transformers, ours the transformer's layers; an encoder's pooler stays frozen, as in
`layers`.
"""

import logging
import math
from collections.abc import Collection, Sequence

from torch import nn

from finegrid.errors import require
from finegrid.methods.base import YAML, CrossValidation, SearchPlan, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites

log = logging.getLogger(__name__)


class SubTuning(TuningMethod):
    """Choose layers greedily by cross-validation, then train them."""

    def __init__(
        self,
        *,
        search_share: float = YAML,
        folds: int = YAML,
        steps: int = YAML,
        most: int | None = YAML,
        tolerance: float = YAML,
    ) -> None:
        require(
            0 < search_share < 1,
            f"method.search_share={search_share:g} is no share of the budget in (0, 1)",
        )
        require(folds >= 2, f"method.folds={folds} must be at least 2")
        require(steps >= 1, f"method.steps={steps} must be at least 1")
        require(most is None or most >= 1, f"method.most={most} must be at least 1, or null")
        require(tolerance >= 0, f"method.tolerance={tolerance:g} is negative")
        self.search_plan = self.plan = SearchPlan(search_share, folds, steps)
        self.most, self.tolerance = most, tolerance
        self.layers: dict[int, nn.Module] = {}

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every layer, among which the search chooses."""
        self.layers = {site.layer: site.module for site in sites["layer"] if site.layer is not None}
        for layer in self.layers.values():
            surgery.unfreeze(layer.parameters())

    def search(self, backbone: nn.Module, validation: CrossValidation) -> None:
        """Add the best layer as long as that gains enough; the others are frozen."""
        chosen: list[int] = []
        scores: dict[str, float] = {}
        best, most = -math.inf, self.most or len(self.layers)
        others = sorted(self.layers, reverse=True)  # of equals the upper one, which is cheaper
        while others and len(chosen) < most and validation.affords(len(others)):
            of_round = {}
            for layer in others:
                self._train([*chosen, layer])
                of_round[layer] = scores[_named([*chosen, layer])] = validation.score()
            winner = max(others, key=of_round.__getitem__)
            if chosen and of_round[winner] <= best + self.tolerance:
                break
            best = of_round[winner]
            chosen.append(winner)
            others.remove(winner)
        if not chosen:
            chosen = others[:1]
            log.warning(
                "method.search_share=%g of the budget does not pay %d layers in %d folds of %d "
                "steps: the top layer trains, unsearched; raise the budget, or lower method.steps",
                *(self.plan.share, len(others), self.plan.folds, self.plan.steps),
            )
        self._train(chosen)
        self.chosen, self.chosen_by = [str(layer) for layer in chosen], scores

    def recall(self, backbone: nn.Module, stored: Collection[str]) -> None:
        """Let those layers train of which a delta holds tensors."""
        paths = {id(module): f"{path}." for path, module in backbone.named_modules()}
        held = [
            number
            for number, layer in self.layers.items()
            if any(name.startswith(paths[id(layer)]) for name in stored)
        ]
        self._train(held)

    def _train(self, chosen: Sequence[int]) -> None:
        """Let these layers train and no other."""
        for number, layer in self.layers.items():
            layer.requires_grad_(number in chosen)


def _named(layers: Sequence[int]) -> str:
    """A set of layers in the order they were added, such as `2-0`."""
    return "-".join(map(str, layers))
