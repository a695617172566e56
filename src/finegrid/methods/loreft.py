"""LoReFT: linear interventions on hidden states (Wu et al. 2024, arXiv 2404.03592).

    h' = h + R^T (W h + b - R h)        with the rows of R orthonormal, both R and W (rank, H)

on the states h that leave a layer, at the first `first` and the last `last` tokens of each row;
all other states stay as they are. By `tied` both ends share one R, W and b a layer, else each has
its own. Which tokens a row has is read from the attention mask, whichever side its padding is on;
a token that is first and last counts as last. After a key-value cache only prompts change, as in
the authors' code: of the tokens behind it none is the last.

The defaults are rank 1 as in the authors' command for GLUE, which intervenes at the first token
alone; the last one is here for decoders, whose head reads it.

Where we differ: no dropout of what an intervention returns (0.05 in that command), no
nonlinearity. R is Q^T of the QR decomposition of a trained (H, rank) matrix whose triangle has a
positive diagonal, so that a delta holds rank H numbers for R; the authors and the adapters library
use `torch.nn.utils.parametrizations.orthogonal`, Householder reflections of a fixed (H, H) basis.
Both reach every R; a step of the same rate goes elsewhere. In a row shorter than first + last the
authors shorten both ends. A task that generates text is refused with `last`, since in training a
row ends with its answer, whose tokens are not there yet when it is to be generated.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.tasks.task import Task


class Positions(nn.Module):
    """Which tokens of a pass are real; the backbone tells it before its layers run."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None  # B and the tokens in a cache and of the pass; None: all
        self.past = 0  # tokens in a cache

    def read(self, named: dict[str, Any]) -> None:
        """Take note of a pass by the backbone's keyword arguments."""
        mask, cache = named.get("attention_mask"), named.get("past_key_values")
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        self.past = 0 if cache is None else int(cache.get_seq_length())

    def ends(self, h: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Whether each token of h (B T H) is among the first, or the last, of its row: B T 1."""
        tokens = h.shape[1]
        mask = h.new_ones(len(h), self.past + tokens) if self.mask is None else self.mask
        require(
            mask.shape[1] >= tokens,
            f"method=loreft reads {tokens} states of {mask.shape[1]} tokens; in a composition name "
            "a prompt before it",
        )
        real = mask != 0
        rank = real.cumsum(dim=1)
        ahead = real & (rank <= first)
        behind = real & (rank > rank[:, -1:] - last) & (self.past == 0)
        return ahead[:, -tokens:, None], behind[:, -tokens:, None]


class Subspace(nn.Module):
    """h -> R^T (W h + b - R h): (..., H) -> (..., H)."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.empty(rank, hidden))
        nn.init.orthogonal_(self.basis)
        self.target = nn.Linear(hidden, rank)

    def rotation(self) -> Tensor:
        """R, rank H: what Gram and Schmidt make of the basis."""
        q, triangle = torch.linalg.qr(self.basis.T)
        signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        rows: Tensor = (q * signs).T
        return rows

    def forward(self, h: Tensor) -> Tensor:
        """What is added to the states."""
        rotation = self.rotation()
        difference = self.target(h) - functional.linear(h, rotation)
        return functional.linear(difference, rotation.T)


class Intervention(nn.Module):
    """Corrects the states of the first and last tokens: B T H -> B T H."""

    def __init__(
        self, hidden: int, positions: Positions, *, rank: int, first: int, last: int, tied: bool
    ) -> None:
        super().__init__()
        self.positions, self.first, self.last = positions, first, last
        count = 1 if tied or not (first and last) else 2
        self.units = nn.ModuleList(Subspace(hidden, rank) for _ in range(count))

    def forward(self, h: Tensor) -> Tensor:
        """The states with the correction."""
        ahead, behind = self.positions.ends(h, self.first, self.last)
        corrections = [unit(h).to(h.dtype) for unit in self.units]
        none = torch.zeros_like(h)
        chosen = torch.where(ahead, corrections[0], none)
        return h + torch.where(behind, corrections[-1], chosen)


def _read(backbone: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    names = inspect.signature(backbone.forward).parameters
    positions: Any = backbone.get_submodule("loreft")
    positions.read(dict(zip(names, inputs, strict=False)) | named)


def _leave(backbone: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """The backbone's own output stays."""


def _corrected(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    intervene = layer.get_submodule("loreft")
    if isinstance(output, tuple):
        return (intervene(output[0]), *output[1:])
    return intervene(output)


class LoReFT(TuningMethod):
    """Inject an intervention after every layer."""

    starts_pretrained = False

    def __init__(
        self, *, rank: int = YAML, first: int = YAML, last: int = YAML, tied: bool = YAML
    ) -> None:
        require(
            first >= 0 and last >= 0 and first + last > 0,
            f"method.first={first} and method.last={last} must be at least 0, and one of them 1",
        )
        self.rank, self.first, self.last, self.tied = rank, first, last, tied

    def read_task(self, task: Task) -> None:
        """Refuse the last tokens of a row where these are the text that is to be generated."""
        require(
            not (self.last and task.new_tokens),
            f"method.last={self.last} does not fit task.kind={task.kind}, whose rows end with the "
            "answer in training; use method.last=0",
        )

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach an intervention to each layer, and to the backbone what tells it the tokens.

        Raises:
            UserError: for a rank that the hidden states do not have.
        """
        hidden = sites.hidden_size
        require(
            1 <= self.rank <= hidden,
            f"method.rank={self.rank} must lie in [1, {hidden}], {hidden} being the backbone's "
            "hidden size",
        )
        positions = Positions()
        stack = sites["stack"][0].module if "stack" in sites else backbone
        surgery.attach_around(stack, "loreft", positions, _read, _leave)
        for site in sites["layer"]:
            intervention = Intervention(
                hidden,
                positions,
                rank=self.rank,
                first=self.first,
                last=self.last,
                tied=self.tied,
            )
            surgery.attach(site.module, "loreft", intervention, _corrected)
