"""Hard-concrete masks under an L0 penalty: subnetwork probing (Cao, Sanh & Rush 2021, 2104.03514).

Which few frozen weights does a task need? With one score a per weight, u ~ U(0, 1), l = -0.1,
r = 1.1 and b = 2/3,

    training     w = w_0 * z,  z = clamp(sigmoid((logit(u) + a) / b) (r - l) + l, 0, 1)
    penalty      l0(t) * mean over matrices of the mean of sigmoid(a - b log(-l / r)) = P(z > 0)
    evaluation   w = w_0 * [a > 0]                                       evaluate: binary
                 w = w_0 * clamp(sigmoid(a) (r - l) + l, 0, 1)           evaluate: gate
    start        a such that the gate without noise is 0.9 everywhere

l0(t) is 0 for the first quarter of the budget, rises linearly over the next half and stays at
`l0`. `gate` is what the authors' code (stevenxcao/subnetwork-probing) evaluates; its delta holds a
number a weight. `binary` rounds these gates, nearly all of which end at 0 or 1, so that a delta
holds one bit a weight and the run starts from the pre-trained model.

Where we differ: one score per weight; the authors' coarser masks, whose scores are shared by
blocks of a matrix, are left out. The task's own head trains beside the masks, at its own rate, in
place of a linear map of their own. Warm-up and decay are the run's (theirs: a tenth of the budget,
then constant), and a run ends with its budget, not when score and sparsity stand still.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import one_of, require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.mask import LearnedMask
from finegrid.models import surgery
from finegrid.models.sites import Sites

LEFT, RIGHT, TEMPERATURE, START = -0.1, 1.1, 2 / 3, 0.9
QUIET, RISE = 0.25, 0.5  # shares of the budget without a penalty, and over which it rises


class HardConcreteMask(LearnedMask):
    """A mask of gates in [0, 1], drawn anew in every training pass."""

    def __init__(self, shape: Sequence[int], *, evaluate: str, device: torch.device) -> None:
        share = (START - LEFT) / (RIGHT - LEFT)
        super().__init__(torch.full(tuple(shape), math.log(share / (1 - share)), device=device))
        self.evaluate = evaluate

    def straight_through(self) -> Tensor:
        """A draw of the gates, flat; its gradient is exact where it is neither 0 nor 1."""
        noise = torch.rand_like(self.scores).clamp(1e-4, 1 - 1e-4).logit()
        return _stretched(torch.sigmoid((noise + self.scores) / TEMPERATURE))

    def binarize(self) -> Tensor:
        """The gates without noise, flat, rounded to booleans with `evaluate: binary`."""
        if self.evaluate == "binary":
            return self.scores > 0
        return _stretched(torch.sigmoid(self.scores))

    def expected(self) -> Tensor:
        """The share of gates above 0, in expectation."""
        return torch.sigmoid(self.scores - TEMPERATURE * math.log(-LEFT / RIGHT)).mean()


class MaskL0(TuningMethod):
    """Learn which weights of the chosen matrices are set to zero, as many as the task allows."""

    def __init__(
        self,
        *,
        l0: float = YAML,
        evaluate: str = YAML,
        roles: Sequence[str] | None = YAML,
        layers: Sequence[int] | str | None = YAML,
    ) -> None:
        require(l0 >= 0, f"method.l0={l0:g} is negative")
        one_of("method.evaluate", evaluate, ("binary", "gate"))
        self.l0, self.evaluate = l0, evaluate
        self.roles, self.layers = roles, layers
        self.starts_pretrained = evaluate == "binary"

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put gates on every chosen matrix."""
        for module, weight in sites.matrices(self.roles, self.layers):
            mask = HardConcreteMask(weight.shape, evaluate=self.evaluate, device=weight.device)
            mask.train(module.training)  # a model in eval mode reads no noise
            surgery.reparametrize(module, "weight", "mask_l0", mask)

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Add the gradient of the penalty, whose weight follows the budget."""
        strength = self.l0 * min(1.0, max(0.0, (progress - QUIET) / RISE))
        masks = [module for module in backbone.modules() if isinstance(module, HardConcreteMask)]
        if strength and masks:
            penalty = torch.stack([mask.expected() for mask in masks]).mean()
            (strength * penalty).backward()  # type: ignore[no-untyped-call]


def _stretched(share: Tensor) -> Tensor:
    """From (0, 1) to [0, 1], whose ends have a probability of their own."""
    return (share * (RIGHT - LEFT) + LEFT).clamp(0, 1)
