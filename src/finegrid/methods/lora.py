"""LoRA: a low-rank update beside frozen matrices (Hu et al. 2021, arXiv 2106.09685).

y = W x + b + (alpha / rank) B A dropout(x), with A (rank, in) drawn uniformly as a fresh Linear
is and B (out, rank) zero, so the start is exactly the pre-trained model. The paper tunes query and
value; rank 8 and alpha 16 are its setting for RoBERTa. `fold` merges the update into W after
training.

With `gated` the update is multiplied by sigmoid(w x + c), as in UniPELT (Mao et al. 2022, arXiv
2110.07577); it then depends on x and cannot be folded.

Variants of the same formula, each a class:
- rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): alpha / sqrt(rank) instead of alpha / rank.
- LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B learns `ratio` times as fast as A.
- LoRA-FA (Zhang et al. 2023, arXiv 2308.03303): A stays as it was drawn, B alone trains.

Where we differ: UniPELT gates a row by the mean over its tokens. We gate token by token, because
a mean over a padded batch would let the padding matter. LoRA-FA's paper draws A from a normal
distribution; we draw it as LoRA's. Its saving of activation memory follows from A's frozen state,
and a run's delta holds A, which no seed is then needed to draw again. LoRA+ suggests ratios of 2 to
16 (2^4 for RoBERTa); its rate is A's, as in the authors' code.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adapter import Gate
from finegrid.methods.modules.update import LowRank, Product, attach, bounded
from finegrid.models.sites import Sites


class GatedLowRank(Product):
    """An update times a gate per token; depends on the input, so it cannot be merged."""

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__(inputs, outputs, rank=rank, scale=scale, dropout=dropout)
        self.gate = Gate(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """The update times its gate."""
        gate: Tensor = self.gate(x)
        return gate * super().forward(x)


class FrozenDown(LowRank):
    """An update whose A does not train; a delta holds both."""

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__(inputs, outputs, rank=rank, scale=scale, dropout=dropout)
        self.a.requires_grad_(False)

    def to_delta(self) -> dict[str, Tensor]:
        """A and B."""
        return {"a": self.a, "b": self.b}

    @torch.no_grad()
    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load A and B."""
        self.a.copy_(state["a"])
        self.b.copy_(state["b"])


class LoRA(TuningMethod):
    """Inject a low-rank update at the matrices of some roles; null for all of the layers'."""

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        rank: int = YAML,
        alpha: float = YAML,
        dropout: float = YAML,
        gated: bool = YAML,
    ) -> None:
        self.roles = roles
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.update: type[Product] = GatedLowRank if gated else LowRank

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach an update to every matrix of the roles.

        Raises:
            UserError: for a rank that is no rank of such a matrix, or a dropout of everything.
        """
        require(0 <= self.dropout < 1, f"method.dropout={self.dropout:g} must lie in [0, 1)")
        attach(sites, self.roles, "lora", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> Product:
        inputs, outputs = bounded(linear, role, self.rank)
        return self.update(inputs, outputs, rank=self.rank, scale=self.scale, dropout=self.dropout)


class RankStabilised(LoRA):
    """rsLoRA: alpha / sqrt(rank), so that a step's size does not shrink as the rank grows."""

    yaml = "rslora"

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / math.sqrt(self.rank)


class LoRAPlus(LoRA):
    """LoRA+: B learns faster than A, which learns at the run's rate."""

    yaml = "lora_plus"

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        rank: int = YAML,
        alpha: float = YAML,
        dropout: float = YAML,
        ratio: float = YAML,
    ) -> None:
        super().__init__(roles=roles, rank=rank, alpha=alpha, dropout=dropout, gated=False)
        require(ratio > 0, f"method.ratio={ratio:g} must be positive; 16 is the paper's")
        self.ratio = ratio

    def lr_ratio(self, name: str) -> float:
        """The ratio for B, else 1."""
        return self.ratio if name.endswith(".lora.b") else 1.0


class LoRAFrozenA(LoRA):
    """LoRA-FA: A stays as drawn, so what enters it need not be held for the backward pass."""

    yaml = "lora_fa"

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        rank: int = YAML,
        alpha: float = YAML,
        dropout: float = YAML,
    ) -> None:
        super().__init__(roles=roles, rank=rank, alpha=alpha, dropout=dropout, gated=False)
        self.update = FrozenDown
