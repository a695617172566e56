"""Pfeiffer adapters: one bottleneck a layer, after feed-forward.

Pfeiffer et al. 2020, arXiv 2005.00247. With h the feed-forward output, x its residual input
and LN the layer's frozen LayerNorm, AdapterHub's `seq_bn` (reduction factor 16, relu, LayerNorm
before and after, residual taken before the LayerNorm) computes

    LN(x + h + W_up act(W_down LN(x + h) + b_down) + b_up)

and so does this, with one hook on that LayerNorm. W_up starts at zero, so the start is exactly the
pre-trained model. A pre-LN backbone has no such LayerNorm; there the bottleneck reads and corrects
h itself, as AdapterHub does.

With `gated` the correction is multiplied by sigmoid(w x + c), x being what the bottleneck reads, as
in UniPELT (Mao et al. 2022, arXiv 2110.07577).

Where we differ: UniPELT gates a row by the mean over its tokens. We gate token by token, because a
mean over a padded batch would let the padding matter.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adapter import Bottleneck, GatedBottleneck, residual
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.models.surgery import Hook


def _around_norm(norm: nn.Module, inputs: tuple[Any, ...], normed: Tensor) -> Tensor:
    total: Tensor = inputs[0]  # x + h: B T H
    corrected: Tensor = norm.forward(total + norm.get_submodule("pfeiffer")(normed))
    return corrected


class Pfeiffer(TuningMethod):
    """Inject one bottleneck a layer."""

    def __init__(
        self, *, reduction_factor: float = YAML, activation: str = YAML, gated: bool = YAML
    ) -> None:
        self.bottleneck = partial(
            GatedBottleneck if gated else Bottleneck,
            reduction_factor=reduction_factor,
            activation=activation,
        )

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach a bottleneck at each layer's output."""
        post_ln = "output_norm" in sites
        hook: Hook = _around_norm if post_ln else residual("pfeiffer")
        role = "output_norm" if post_ln else "output_block"
        for site in sites[role]:
            surgery.attach(site.module, "pfeiffer", self.bottleneck(sites.hidden_size), hook)
