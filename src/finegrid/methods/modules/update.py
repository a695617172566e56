"""Updates of frozen matrices, the common part of LoRA's family: y = W x + b + dW x."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import UserError
from finegrid.models import surgery
from finegrid.models.anatomy import weight_matrix, widths
from finegrid.models.sites import Sites


class Update(nn.Module):
    """dW beside a frozen matrix: x -> dW x, (..., in) -> (..., out)."""

    def matrix(self) -> Tensor:
        """dW, out x in."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the site's output."""
        return functional.linear(x, self.matrix())

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: add dW to the site's weight."""
        weight_matrix(site).add_(self.matrix())


class Product(nn.Module):
    """x -> scale B A dropout(x), A (rank, in) drawn as a fresh Linear is and B (out, rank) zero."""

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the site's output."""
        return functional.linear(functional.linear(self.dropout(x), self.a), self.b) * self.scale


class LowRank(Product, Update):
    """dW = scale B A, without making the matrix before it is merged."""

    def matrix(self) -> Tensor:
        """Scale B A."""
        return self.b @ self.a * self.scale


def attach(
    sites: Sites,
    roles: Sequence[str] | None,
    name: str,
    make: Callable[[nn.Module, str], nn.Module],
) -> None:
    """Attach what `make(site's module, role)` returns to every matrix of the roles, to be added.

    `roles`: null for every matrix of the layers.
    """
    for role, site in sites.select(roles, None):
        surgery.attach(site.module, name, make(site.module, role), added(name))


def added(name: str) -> surgery.Hook:
    """A forward hook that adds what the site's child `name` makes of the site's input."""

    def hook(site: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        update: Tensor = site.get_submodule(name)(inputs[0])
        return y + update

    return hook


def widest(sites: Sites, roles: Sequence[str] | None) -> tuple[int, int]:
    """The largest widths, in and out, of the matrices of the roles."""
    inputs, outputs = zip(
        *(widths(site.module) for _, site in sites.select(roles, None)), strict=True
    )
    return max(inputs), max(outputs)


def bounded(linear: nn.Module, role: str, rank: int, *, option: str = "rank") -> tuple[int, int]:
    """A matrix's widths, in and out; `option` is what the rank is called in the config.

    Raises:
        UserError: for a rank that is no rank of such a matrix.
    """
    inputs, outputs = widths(linear)
    if not 1 <= rank <= min(inputs, outputs):
        raise UserError(
            f"method.{option}={rank} must lie in [1, {min(inputs, outputs)}], the matrix of "
            f"{role} being {outputs} x {inputs}"
        )
    return inputs, outputs
