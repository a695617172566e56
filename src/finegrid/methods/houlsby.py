"""Houlsby adapters: a bottleneck after attention and after feed-forward, in every layer.

Houlsby et al. 2019, arXiv 1902.00751: the output h of each sub-layer becomes
h + W_up act(W_down h + b_down) + b_up before it joins the residual and the LayerNorm.
AdapterHub calls it `double_seq_bn`; its reduction factor 16 and swish are our defaults.

Where we differ: W_up starts at zero (the authors draw it from N(0, 0.01), truncated), so the start
is exactly the pre-trained model; LayerNorm trains only with `train_layernorm`, as in the authors'
code but not in AdapterHub's.
"""

from functools import partial

from torch import nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adapter import Bottleneck, residual
from finegrid.models import surgery
from finegrid.models.sites import Site, Sites


class Houlsby(TuningMethod):
    """Inject two bottlenecks a layer."""

    def __init__(
        self,
        *,
        reduction_factor: float = YAML,
        activation: str = YAML,
        train_layernorm: bool = YAML,
    ) -> None:
        self.bottleneck = partial(
            Bottleneck, reduction_factor=reduction_factor, activation=activation
        )
        self.train_layernorm = train_layernorm

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the bottlenecks where a sub-layer's output leaves for the residual sum."""
        for site in (*sites["attention_block"], *sites["output_block"]):
            bottleneck = self.bottleneck(sites.hidden_size)
            surgery.attach(site.module, "houlsby", bottleneck, residual("houlsby"))
        if self.train_layernorm:
            for site in _norms(sites):
                surgery.unfreeze(site.module.parameters(recurse=False))


def _norms(sites: Sites) -> list[Site]:
    """The norms behind the residual sums; on a pre-LN backbone all that its layers have."""
    if "output_norm" in sites:
        return [*sites["attention_norm"], *sites["output_norm"]]
    return [site for site in sites["layernorm"] if site.layer is not None]
