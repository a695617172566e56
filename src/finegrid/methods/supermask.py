"""Supermask: fine-tune by zeroing pre-trained weights; a task costs one bit per weight or less.

Radiya-Dixit & Wang 2020, arXiv 2004.14129. With w_0 frozen and one score m per weight,

    training     w = w_0 * b, b ~ Bernoulli(sigmoid(m)), gradient straight through the draw
    evaluation   w = w_0 * [m > 0]
    start        m = -initial for the smallest floor(sparsity n) |w_0| of each matrix, else initial

so the run starts near magnitude pruning: with initial = 5 an unpruned weight is used with
probability 0.993.

Evaluation uses one deterministic mask, stored as one bit a weight. `evaluate: mode` takes the most
probable mask, [m > 0]. `evaluate: draw` takes one Bernoulli sample with a fixed seed, a typical
mask of training. The expected weight w_0 * sigmoid(m) is no binary mask.

Where we differ: the paper's own initial value and grid of sparsities are not known to us; the value
5 is that of its second author's later public code. Biases are not masked.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import one_of, require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.mask import LearnedMask, smallest
from finegrid.models import surgery
from finegrid.models.sites import Sites


class BernoulliMask(LearnedMask):
    """A mask sampled anew in every training pass."""

    def __init__(self, scores: Tensor, *, evaluate: str) -> None:
        super().__init__(scores)
        self.evaluate = evaluate

    def straight_through(self) -> Tensor:
        """A Bernoulli sample; its gradient is that of the probability sigmoid(score)."""
        p = torch.sigmoid(self.scores)
        return torch.bernoulli(p.detach()) + p - p.detach()

    def binarize(self) -> Tensor:
        """The most probable mask, or a sample with a fixed seed."""
        if self.evaluate == "mode":
            return self.scores > 0
        generator = torch.Generator(self.scores.device).manual_seed(0)
        level = torch.rand(self.scores.shape, generator=generator, device=self.scores.device)
        return level < torch.sigmoid(self.scores)


class Supermask(TuningMethod):
    """Learn which weights of the chosen matrices are set to zero."""

    starts_pretrained = False

    def __init__(
        self,
        *,
        sparsity: float = YAML,
        initial: float = YAML,
        evaluate: str = YAML,
        roles: Sequence[str] | None = YAML,
        layers: Sequence[int] | str | None = YAML,
    ) -> None:
        one_of("method.evaluate", evaluate, ("mode", "draw"))
        require(initial > 0, f"method.initial={initial:g} must be above 0")
        self.sparsity, self.initial, self.evaluate = sparsity, float(initial), evaluate
        self.roles, self.layers = roles, layers

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put scores on every chosen matrix, negative where the weight is small."""
        for module, weight in sites.matrices(self.roles, self.layers):
            pruned = smallest(weight, self.sparsity)
            scores = torch.where(pruned, -self.initial, self.initial)
            mask = BernoulliMask(scores, evaluate=self.evaluate)
            surgery.reparametrize(module, "weight", "supermask", mask)
