"""Bottleneck adapter (down-projection, activation, up-projection) and the gate of UniPELT."""

from typing import Any

import torch
from torch import Tensor, nn

from finegrid.errors import UserError, nearest
from finegrid.models.surgery import Hook

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "swish": nn.SiLU}


def activation_of(name: str) -> nn.Module:
    """The activation module of that name.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"method.activation={name} is unknown; {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def width_of(hidden: int, reduction_factor: float) -> int:
    """Width of a bottleneck: hidden size / reduction factor, rounded down.

    Raises:
        UserError: for a reduction factor outside (0, hidden].
    """
    if not 0 < reduction_factor <= hidden:
        raise UserError(
            f"method.reduction_factor={reduction_factor:g} must lie in (0, {hidden}], "
            f"{hidden} being the backbone's hidden size"
        )
    return int(hidden // reduction_factor)


class Bottleneck(nn.Module):
    """x -> W_up act(W_down x + b_down) + b_up, without the residual; zero at the start.

    Acts on each token separately: (..., hidden) -> (..., hidden). W_down is initialised like BERT's
    weights, N(0, 0.02); W_up and both biases are zero, so the model starts as pre-trained.

    Raises:
        UserError: for a reduction factor that leaves no unit, or an unknown activation.
    """

    def __init__(self, hidden: int, *, reduction_factor: float, activation: str) -> None:
        super().__init__()
        width = width_of(hidden, reduction_factor)
        self.down = nn.Linear(hidden, width)
        self.activation = activation_of(activation)
        self.up = nn.Linear(width, hidden)
        nn.init.normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Correction to add to the residual stream; same shape as `x`."""
        correction: Tensor = self.up(self.activation(self.down(x)))
        return correction


def residual(name: str) -> Hook:
    """A forward hook that adds the output of the site's child `name` to the site's output."""

    def hook(site: nn.Module, inputs: tuple[Any, ...], h: Tensor) -> Tensor:
        correction: Tensor = site.get_submodule(name)(h)  # B T H
        return h + correction

    return hook


class Gate(nn.Module):
    """x -> sigmoid(w x + c): (..., width) -> (..., 1); about one half at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """One factor per token."""
        return torch.sigmoid(self.linear(x))


class GatedBottleneck(Bottleneck):
    """A bottleneck with a gate per token: x -> gate(x) bottleneck(x)."""

    def __init__(self, hidden: int, *, reduction_factor: float, activation: str) -> None:
        super().__init__(hidden, reduction_factor=reduction_factor, activation=activation)
        self.gate = Gate(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Correction to add to the residual stream; same shape as `x`."""
        gate: Tensor = self.gate(x)
        return gate * super().forward(x)
