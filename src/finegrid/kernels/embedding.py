"""The part of a vocabulary that training rows use, trained in place of the whole.

The embeddings of tokens in no training row get no gradient: all that AdamW does to them is to let
them decay. So while a model trains, a small matrix of the embeddings in use stands for the large
one in forward, backward, clipping and AdamW, which spares 20 to 40 bytes of traffic a number of the
rest in every step: in MiniLM half of all parameters are embeddings. A further row of ones, which
no token uses, tells by what is left of it how much the rest has decayed. Both are written back
before the whole matrix is read. The result is that of training the whole.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.models.sites import Sites


class Compact(nn.Embedding):
    """An `nn.Embedding` that trains the rows in use."""

    part: "Part"

    def forward(self, input: Tensor) -> Tensor:
        """ids -> ids E, from the part while it trains."""
        part = self.part
        if torch.is_grad_enabled():
            part.changes = True
            return functional.embedding(part.places[input], part.rows, padding_idx=part.padding)
        part.write_back(self.weight)
        return super().forward(input)


class Part:
    """The rows in use, and where they belong."""

    def __init__(self, whole: Tensor, used: Tensor, padding: int | None) -> None:
        self.used = used
        self.places = used.new_full((len(whole),), -1)
        self.places[used] = torch.arange(len(used), device=used.device)
        self.padding = None if padding is None else int(self.places[padding])
        ones = whole.new_ones(1, whole.shape[1])
        self.rows = nn.Parameter(torch.cat([whole.detach()[used], ones]))
        self.left = 1.0  # of what decays, when it was written back last
        self.changes = False  # whether the rows have been in a pass that may have changed them

    def write_back(self, whole: Tensor) -> None:
        """Bring the whole matrix up to date."""
        if not self.changes:
            return
        with torch.inference_mode(False), torch.no_grad():
            left = float(self.rows[-1, 0])
            whole.mul_(left / self.left)
            whole[self.used] = self.rows[:-1]
        self.left, self.changes = left, False


def compact(sites: Sites, ids: Tensor) -> dict[nn.Parameter, nn.Parameter]:
    """Let word embeddings train by the rows of these token ids: whole matrix -> its part.

    They stay as they are where they do not train, where most rows are in use, or where a method
    changes what they give.
    """
    stand_ins: dict[nn.Parameter, nn.Parameter] = {}
    if "word_embeddings" not in sites:
        return stand_ins
    for site in sites["word_embeddings"]:
        module: Any = site.module
        whole: Any = module.weight
        if type(module) is nn.Embedding and _plain(module) and 2 * len(ids) < len(whole):
            part = Part(whole, ids.to(whole.device), module.padding_idx)
            module.__class__, module.__dict__["part"] = Compact, part
            stand_ins[whole] = part.rows
    return stand_ins


def _plain(module: nn.Embedding) -> bool:
    """Whether an embedding trains, and nothing was injected into it."""
    injected = any((module._forward_hooks, module._forward_pre_hooks, module._modules))
    return "weight" in module._parameters and module.weight.requires_grad and not injected
