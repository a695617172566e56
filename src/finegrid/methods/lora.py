"""LoRA: a low-rank update beside frozen matrices (Hu et al. 2021, arXiv 2106.09685).

y = W x + b + (alpha / rank) B A dropout(x), with A (rank, in) drawn uniformly as a fresh Linear
is and B (out, rank) zero, so the start is exactly the pre-trained model. The paper tunes query and
value; rank 8 and alpha 16 are its setting for RoBERTa. `fold` merges the update into W after
training.

With `gated` the update is multiplied by sigmoid(w x + c), as in UniPELT (Mao et al. 2022, arXiv
2110.07577); it then depends on x and cannot be folded.

Where query, key and value are one matrix (GPT-2, GPT-NeoX, Phi-3, ModernBERT), an update of query
or value is one of that matrix, as in peft: A is shared by the three, B has the rows of all.

Where we differ: UniPELT gates a row by the mean over its tokens. We gate token by token, because
a mean over a padded batch would let the padding matter.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import UserError
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adapter import Gate
from finegrid.models import surgery
from finegrid.models.anatomy import is_transposed, widths
from finegrid.models.sites import Sites


class Update(nn.Module):
    """x -> scale B A dropout(x): (..., in) -> (..., out); zero at the start."""

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The update to add to the site's output."""
        return functional.linear(functional.linear(self.dropout(x), self.a), self.b) * self.scale


class LowRank(Update):
    """An update that can be merged, being the same matrix for every input."""

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: add scale B A to the site's weight."""
        update = self.b @ self.a
        site.weight.add_(update.T if is_transposed(site) else update, alpha=self.scale)


class GatedLowRank(Update):
    """An update times a gate per token; depends on the input, so it cannot be merged."""

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__(inputs, outputs, rank=rank, alpha=alpha, dropout=dropout)
        self.gate = Gate(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """The update times its gate."""
        gate: Tensor = self.gate(x)
        return gate * super().forward(x)


def _add(site: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    update: Tensor = site.get_submodule("lora")(inputs[0])
    return y + update


class LoRA(TuningMethod):
    """Inject a low-rank update at the matrices of some roles."""

    def __init__(
        self,
        *,
        roles: Sequence[str] = YAML,
        rank: int = YAML,
        alpha: float = YAML,
        dropout: float = YAML,
        gated: bool = YAML,
    ) -> None:
        self.roles = roles
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.update = GatedLowRank if gated else LowRank

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach an update to every matrix of the roles.

        Raises:
            UserError: for a rank that is no rank of such a matrix, or a dropout of everything.
        """
        if not 0 <= self.dropout < 1:
            raise UserError(f"method.dropout={self.dropout:g} must lie in [0, 1)")
        for role, site in sites.select(self.roles, None):
            surgery.attach(site.module, "lora", self._made_for(site.module, role), _add)

    def _made_for(self, linear: nn.Module, role: str) -> Update:
        inputs, outputs = widths(linear)
        if not 1 <= self.rank <= min(inputs, outputs):
            raise UserError(
                f"method.rank={self.rank} must lie in [1, {min(inputs, outputs)}], the matrix of "
                f"{role} being {outputs} x {inputs}"
            )
        return self.update(inputs, outputs, rank=self.rank, alpha=self.alpha, dropout=self.dropout)
