"""A dense difference behind hard-concrete gates that becomes a sparse one (2012.07463)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.methods.modules.sparse_delta import SparseDifference, top

LEFT, RIGHT, START, PACE = -1.5, 1.5, 5.0, 50.0


class GatedDifference(nn.Module):
    """w -> w + z * d with hard-concrete gates z; its delta is a sparse difference."""

    def __init__(self, weight: Tensor, *, structured: bool) -> None:
        super().__init__()
        self.shape = weight.shape
        self.difference = nn.Parameter(weight.new_zeros(weight.numel()))
        self.gates = nn.Parameter(weight.new_zeros(weight.numel()))
        self.group = nn.Parameter(weight.new_zeros(1)) if structured else None
        self.sparse: SparseDifference | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """The weight plus the delta; same shape."""
        if self.sparse is not None:
            tuned: Tensor = self.sparse(weight)
            return tuned
        return weight + self.gated().view_as(weight)

    def gated(self) -> Tensor:
        """z * d, flat; in training the gates are sampled."""
        gate = self._open(self.gates)
        if self.group is not None:
            gate = gate * self._open(self.group)
        return gate * self.difference

    def expected(self) -> Tensor:
        """The expected number of open gates, the L0 penalty of this matrix."""
        opened = torch.sigmoid(START + PACE * self.gates).sum()
        return (
            opened if self.group is None else opened * torch.sigmoid(START + PACE * self.group[0])
        )

    def project(self, places: Tensor) -> None:
        """Drop the gates and train only the entries at these flat indices from now on."""
        self.sparse = SparseDifference(self.shape, places)
        with torch.no_grad():
            self.sparse.values.copy_(self.gated()[self.sparse.places])
        self._drop()

    def to_delta(self) -> dict[str, Tensor]:
        """Values and mask of the chosen entries; none of them before the projection."""
        if self.sparse is not None:
            return self.sparse.to_delta()
        return SparseDifference(self.shape, self._nowhere()).to_delta()

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load values and mask, and drop the gates."""
        self.sparse = SparseDifference(self.shape, self._nowhere())
        self.sparse.from_delta(state)
        self._drop()

    def _drop(self) -> None:
        """Free the memory of the search; its parameters do not train."""
        for parameter in (self.difference, self.gates, self.group):
            if parameter is not None:
                parameter.requires_grad_(False)
                parameter.grad = None
                parameter.data = parameter.new_empty(0)

    def _nowhere(self) -> Tensor:
        return torch.empty(0, dtype=torch.int64, device=self.gates.device)

    def _open(self, gates: Tensor) -> Tensor:
        logits = START + PACE * gates
        if self.training:
            logits = logits + torch.rand_like(gates).clamp(1e-6, 1 - 1e-6).logit()
        return (torch.sigmoid(logits) * (RIGHT - LEFT) + LEFT).clamp(0, 1)


def penalty(gated: Sequence[GatedDifference]) -> Tensor:
    """The expected number of open gates of several matrices together."""
    return torch.stack([module.expected() for module in gated]).sum()


def project(gated: Sequence[GatedDifference], density: float) -> None:
    """Let only the largest |z * d| of all matrices together train from now on."""
    training = [module.training for module in gated]
    for module in gated:
        module.eval()  # the expected gates, not a sample
    chosen = top([module.gated().detach().abs() for module in gated], density, together=True)
    for module, places, mode in zip(gated, chosen, training, strict=True):
        module.project(places)
        module.train(mode)
