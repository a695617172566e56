"""Compacter: adapters of Kronecker products (Karimi Mahabadi et al. 2021, arXiv 2106.04647).

Houlsby's two adapters a layer, h + phm_up(act(phm_down(h))), each matrix (in, out) of phm(x) =
x W + b being

    W = sum_i A_i kron (s_i t_i^T),  i = 1 .. n, with n `phm_dim`

with A_i (n, n) shared by every matrix of the backbone, and s_i (in/n) and t_i (out/n) its own.
AdapterHub's `compacter` (reduction factor 32, gelu, n = 4, rank 1, shared A, bias) is our default.

Where we differ: t of the up projection starts at zero, so the start is exactly the pre-trained
model. A starts from N(0, 0.2), where AdapterHub takes 0.0001: on BERT-base W_down then starts
about as wide as the other bottlenecks' N(0, 0.02). LayerNorm stays frozen, as in AdapterHub but
not in the authors' code.
"""

import torch
from torch import Tensor, nn

from finegrid.errors import UserError
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adapter import activation_of, residual, width_of
from finegrid.models import surgery
from finegrid.models.sites import Sites


class Rule(nn.Module):
    """A: n matrices (n, n) shared by all Kronecker products (AdapterHub: shared PHM rule)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.empty(n, n, n).normal_(std=0.2))


class Phm(nn.Module):
    """PHM layer: x -> x W + b with W = sum_i A_i kron (s_i t_i^T): (..., in) -> (..., out).

    W is never built. A is the backbone's, s (n, in/n) and t (n, out/n) belong to the layer.
    """

    def __init__(self, rule: Rule, inputs: int, outputs: int) -> None:
        super().__init__()
        n = len(rule.matrices)
        self.rule = (
            rule,
        )  # in a tuple, so that it is not registered: it is a child of the backbone
        self.s = nn.Parameter(torch.empty(n, inputs // n))
        self.t = nn.Parameter(torch.empty(n, outputs // n))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for factor in (self.s, self.t):
            nn.init.normal_(factor, std=(2 / (factor.shape[1] + 1)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x W + b, computed blockwise: project with s_i, mix by A_i, expand with t_i."""
        rule = self.rule[0].matrices  # i a b
        blocks = x.reshape(*x.shape[:-1], len(rule), -1)  # ... a in/n
        mixed = torch.einsum("...ai,iab->...bi", blocks @ self.s.T, rule)
        return (mixed @ self.t).flatten(-2) + self.bias


class KroneckerAdapter(nn.Module):
    """x -> phm_up(act(phm_down(x))), without the residual; zero at the start: (..., H) -> same."""

    def __init__(self, rule: Rule, hidden: int, width: int, activation: str) -> None:
        super().__init__()
        self.down = Phm(rule, hidden, width)
        self.activation = activation_of(activation)
        self.up = Phm(rule, width, hidden)
        nn.init.zeros_(self.up.t)

    def forward(self, x: Tensor) -> Tensor:
        """Correction to add to the residual stream; same shape as `x`."""
        correction: Tensor = self.up(self.activation(self.down(x)))
        return correction


class Compacter(TuningMethod):
    """Inject two Kronecker adapters in every layer."""

    def __init__(
        self, *, reduction_factor: float = YAML, activation: str = YAML, phm_dim: int = YAML
    ) -> None:
        self.reduction_factor, self.activation = reduction_factor, activation
        self.phm_dim = phm_dim

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the shared matrices, and an adapter before each residual sum.

        Raises:
            UserError: for widths that do not consist of `phm_dim` blocks, or an unknown activation.
        """
        hidden, width = sites.hidden_size, self._width(sites.hidden_size)
        rule = Rule(self.phm_dim)
        surgery.add_child(backbone, "compacter", rule)
        for site in (*sites["attention_block"], *sites["output_block"]):
            module = KroneckerAdapter(rule, hidden, width, self.activation)
            surgery.attach(site.module, "compacter", module, residual("compacter"))

    def _width(self, hidden: int) -> int:
        """Width of the bottleneck, checked to consist of `phm_dim` blocks."""
        width = width_of(hidden, self.reduction_factor)
        if self.phm_dim < 1 or hidden % self.phm_dim or width % self.phm_dim:
            raise UserError(
                f"method.phm_dim={self.phm_dim} must divide the backbone's hidden size {hidden} "
                f"and the bottleneck's width {width} (hidden size / method.reduction_factor)"
            )
        return width
