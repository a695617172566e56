"""BitFit where there are no biases: one of zeros is added to every matrix, and trains.

    y = W x + b        b = 0 at the start, for every matrix of the layers that has no bias

After BitFit (Ben Zaken et al. 2022, arXiv 2106.10199), whose method needs biases that most decoders
since Llama, and ModernBERT, do not have. What biases a backbone has train as in BitFit, norms' and
embeddings' included, so that on BERT both methods are one. `fold` makes an added bias the site's.

Where we differ: the paper adds no biases. RMSNorms get none.
"""

from typing import Any

import torch
from torch import Tensor, nn

from finegrid.methods.base import TuningMethod
from finegrid.models import surgery
from finegrid.models.anatomy import widths
from finegrid.models.sites import Sites


class AddedBias(nn.Module):
    """y -> y + b, zero at the start: (..., width) -> (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, y: Tensor) -> Tensor:
        """The site's output with the bias."""
        return y + self.bias.to(y.dtype)

    @torch.no_grad()
    def fold(self, site: nn.Linear) -> None:
        """Merge: let the bias be the site's own."""
        site.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)


def _add(site: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    biased: Tensor = site.get_submodule("added_bias")(y)
    return biased


class BitFitAdded(TuningMethod):
    """Train all biases, and add those that the matrices of the layers lack."""

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze the biases that there are; inject one at every matrix without."""
        named = (pair for module in sites.scope(backbone) for pair in module.named_parameters())
        surgery.unfreeze([p for name, p in named if name.rpartition(".")[2] == "bias"])
        for role in sites.linear:
            for site in sites[role]:
                if site.module._parameters.get("bias") is None:
                    bias = AddedBias(widths(site.module)[1])
                    surgery.attach(site.module, "added_bias", bias, _add)
