"""Sparse fine-tuning: a fixed small set of individual weights trains.

    w = w_0 + S(v), S scattering the trained values v to chosen entries of w_0; v = 0 at the start

`rule` chooses the entries, a share `density` of each tensor or of all together:
    random      drawn from the run's seed; a control
    magnitude   the largest |w_0|
    residual    the largest |w_0 - W_r|, W_r the best approximation of rank r (DSEE, Chen et al.
                2023, arXiv 2111.00160)
    fisher      the largest sum of squared gradients of single examples at w_0: FISH mask (Sung et
                al. 2021, arXiv 2111.09839)
    sam         the largest |sum of gradients| at w_0: second-order approximation (Fu et al. 2023,
                arXiv 2211.15583)

Where we differ: the values are the only parameters, where the authors of FISH and SAM mask the
gradients of whole matrices, whose frozen entries weight decay still moves. Gradients for the choice
are taken without dropout and with the untrained head. `residual` uses a truncated SVD in place of
the GreBsmo decomposition. The choice is not counted in the training budget.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import one_of, require
from finegrid.methods.base import YAML, Losses, TuningMethod
from finegrid.methods.modules.sparse_delta import SparseDifference, count, top
from finegrid.models import surgery
from finegrid.models.sites import Sites

BY_GRADIENT = {"fisher": 1, "sam": 32}  # rule -> examples whose gradients are summed at a time
RULES = ("random", "magnitude", "residual", *BY_GRADIENT)


class Sparse(TuningMethod):
    """Train a share `density` of the chosen tensors, chosen by `rule`."""

    def __init__(
        self,
        *,
        rule: str = YAML,
        density: float = YAML,
        scope: str = YAML,
        roles: Sequence[str] | None = YAML,
        layers: Sequence[int] | str | None = YAML,
        tensors: Sequence[str] = YAML,
        samples: int = YAML,
        rank: int = YAML,
    ) -> None:
        one_of("method.rule", rule, RULES)
        one_of("method.scope", scope, ("tensor", "global"))
        require(samples >= 1, f"method.samples={samples} must be at least 1")
        require(rank >= 1, f"method.rank={rank} must be at least 1")
        self.rule, self.density, self.together = rule, density, scope == "global"
        self.roles, self.layers, self.tensors = roles, layers, tensors
        self.samples, self.rank = samples, rank

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put a sparse difference on every chosen tensor; `choose` may move it."""
        chosen = [
            (site.module, tensor, weight)
            for _, site in sites.select(self.roles, self.layers)
            for tensor in self.tensors
            if (weight := surgery.raw_parameter(site.module, tensor)) is not None
        ]
        require(bool(chosen), f"no {' or '.join(self.tensors)} among method.roles={self.roles}")
        placed = self._places([weight for *_, weight in chosen])
        for (site, tensor, weight), places in zip(chosen, placed, strict=True):
            difference = SparseDifference(weight.shape, places)
            surgery.reparametrize(site, tensor, f"sparse_{tensor}", difference)

    def acts(self) -> tuple[str, ...]:
        """Only some rules need gradients to choose."""
        return super().acts() if self.rule in BY_GRADIENT else ()

    def choose(self, backbone: nn.Module, losses: Losses) -> None:
        """Choose the entries by the gradients of training rows at the pre-trained weights."""
        if self.rule not in BY_GRADIENT:
            return
        children = [
            (child, weight)
            for _, site, name in surgery.injected(backbone)
            if isinstance(child := site.get_submodule(name), SparseDifference)
            and (weight := surgery.raw_parameter(site, name.removeprefix("sparse_"))) is not None
        ]
        scores = self._gradients([weight for _, weight in children], losses)
        for (child, _), places in zip(
            children, top(scores, self.density, together=self.together), strict=True
        ):
            child.move(places)

    def _places(self, weights: Sequence[nn.Parameter]) -> list[Tensor]:
        if self.rule in ("magnitude", "residual"):
            score = self._residual if self.rule == "residual" else torch.abs
            scores = [score(weight.detach()) for weight in weights]
            return top(scores, self.density, together=self.together)
        return [
            torch.randperm(w.numel(), device=w.device)[: count(self.density, w.numel())]
            for w in weights
        ]

    def _residual(self, weight: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
        low: Tensor = left[:, : self.rank] * values[: self.rank] @ right[: self.rank]
        return (weight - low).abs()

    def _gradients(self, weights: Sequence[nn.Parameter], losses: Losses) -> list[Tensor]:
        """Scores a weight: sum of squared gradients (fisher) or |sum of gradients| (sam)."""
        totals = [torch.zeros_like(weight) for weight in weights]
        power = 2 if self.rule == "fisher" else 1
        for weight in weights:
            weight.requires_grad_(True)
        for loss in losses(self.samples, BY_GRADIENT[self.rule]):
            for total, gradient in zip(totals, torch.autograd.grad(loss, weights), strict=True):
                total.add_(gradient**power)
        for weight in weights:
            weight.requires_grad_(False)
        return [total.abs() for total in totals]
