"""IA3: rescale activations by learned vectors (Liu et al. 2022, arXiv 2205.05638).

k' = l_k * k, v' = l_v * v and y = W_2 (l_ff * x) + b_2, x being what enters the second matrix of
the feed-forward block; every l starts at one, so the start is exactly the pre-trained model. At
role `output` the vector multiplies the input, at every other role the output. `fold` merges the
vectors into the matrices after training.

Where query heads share keys and values, l_k and l_v are as narrow as these; in a gated block l_ff
multiplies the product of both matrices. Where query, key and value are one matrix, l_k and l_v are
part of a vector for all of its output, the query's too, as in peft.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.anatomy import weight_matrix, widths
from finegrid.models.sites import Sites


class ScaleOutput(nn.Module):
    """y -> l * y, l of one factor a unit: (..., width) -> (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The activations times l."""
        return x * self.scale.to(x.dtype)

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: multiply the rows of the site's weight and its bias by l."""
        weight_matrix(site).mul_(self.scale[:, None])
        if site.bias is not None:
            site.bias.mul_(self.scale)


class ScaleInput(ScaleOutput):
    """x -> l * x, before the site's matrix."""

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: multiply the columns of the site's weight by l."""
        weight_matrix(site).mul_(self.scale)


def _after(site: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    scaled: Tensor = site.get_submodule("ia3")(y)
    return scaled


def _before(site: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    scaled: Tensor = site.get_submodule("ia3")(inputs[0])
    return scaled


class IA3(TuningMethod):
    """Inject a vector of factors at the matrices of some roles."""

    def __init__(self, *, roles: Sequence[str] = YAML) -> None:
        self.roles = roles

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the vectors: before the second feed-forward matrix, after every other one."""
        for role, site in sites.select(self.roles, None):
            inputs, outputs = widths(site.module)
            if role == "output":
                surgery.attach_before(site.module, "ia3", ScaleInput(inputs), _before)
            else:
                surgery.attach(site.module, "ia3", ScaleOutput(outputs), _after)
