"""VeRA: vectors that scale shared random projections (Kopiczko et al. 2024, arXiv 2310.11454).

dW = diag(b) B diag(d) A. A (rank, in) and B (out, rank) are drawn once for all matrices, uniformly
with variance 2 / fan in, frozen, and cut to each matrix's widths; the vectors d (rank, 0.1 at the
start) and b (out, zero) train, so the start is exactly the pre-trained model. The projections
follow from `key` alone: a delta holds d and b. They are drawn as peft 0.21 draws them
(`projection_prng_key`).

Where we differ: no dropout.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach, widest
from finegrid.models.anatomy import widths
from finegrid.models.sites import Sites


class Projections(nn.Module):
    """The A and B that all matrices share, as wide as the widest."""

    a: Tensor
    b: Tensor

    def __init__(self, inputs: int, outputs: int, *, rank: int, key: int) -> None:
        super().__init__()
        self.key = key
        generator = torch.Generator(device="cpu").manual_seed(key)
        device = torch.empty(0).device  # the current default, such as `meta`
        for name, shape in (("a", (rank, inputs)), ("b", (outputs, rank))):
            bound = math.sqrt(6 / shape[1])
            drawn = torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, drawn.to(device), persistent=False)


class VectorUpdate(Update):
    """dW = diag(b) B diag(d) A, with A and B shared."""

    def __init__(self, shared: Projections, inputs: int, outputs: int, *, start: float) -> None:
        super().__init__()
        self.shared, self.inputs, self.outputs = shared, inputs, outputs
        self.d = nn.Parameter(torch.full((len(shared.a),), start))
        self.b = nn.Parameter(torch.zeros(outputs))

    def matrix(self) -> Tensor:
        """diag(b) B diag(d) A, out x in."""
        return (self.b[:, None] * self.shared.b[: self.outputs]) @ (
            self.d[:, None] * self.shared.a[:, : self.inputs]
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same without making the matrix."""
        inner = self.d * functional.linear(x, self.shared.a[:, : self.inputs])
        return self.b * functional.linear(inner, self.shared.b[: self.outputs])


class VeRA(TuningMethod):
    """Inject scaled random projections at the matrices of some roles."""

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        rank: int = YAML,
        start: float = YAML,
        key: int = YAML,
    ) -> None:
        require(rank >= 1, f"method.rank={rank} must be at least 1")
        self.roles, self.rank, self.start, self.key = roles, rank, start, key

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the vectors; the projections are as wide as the widest matrix."""
        shared = Projections(*widest(sites, self.roles), rank=self.rank, key=self.key)
        attach(
            sites,
            self.roles,
            "vera",
            lambda linear, _: VectorUpdate(shared, *widths(linear), start=self.start),
        )
