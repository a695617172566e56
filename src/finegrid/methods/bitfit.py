"""BitFit: train the bias terms, keep the weights (Ben Zaken et al. 2022, arXiv 2106.10199).

y = W x + b with W frozen and b trained, for every bias of the encoder: attention, feed-forward,
LayerNorm, embeddings and, as in the authors' code, the pooler's. `roles` restricts it to the
biases of some roles; the paper's subset is b_q and b_m2 (query and intermediate).

Where we differ: the authors always train `pooler.dense.bias`; with `roles` we train exactly the
roles named, so the subset on BERT-base is 46,080 numbers instead of 46,848. Where query, key and
value are one matrix, `query` means all of its bias.
"""

from collections.abc import Sequence

from torch import nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites


class BitFit(TuningMethod):
    """Train all biases of the backbone, or those of some roles."""

    def __init__(self, *, roles: Sequence[str] | None = YAML) -> None:
        self.roles = roles

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze the biases.

        Raises:
            MatchError: on a backbone without biases, such as ModernBERT or Llama.
        """
        modules = sites.scope(backbone) if self.roles is None else _chosen(sites, self.roles)
        for module in modules:
            biases = [
                p for name, p in module.named_parameters() if name.rpartition(".")[2] == "bias"
            ]
            if not biases:
                raise surgery.MatchError(
                    f"{sites.architecture} has no biases to train"
                    + (f" at method.roles={list(self.roles)}" if self.roles else "")
                    + "; method=bitfit_added adds some, which start at zero"
                )
            surgery.unfreeze(biases)


def _chosen(sites: Sites, roles: Sequence[str]) -> list[nn.Module]:
    return [site.module for _, site in sites.select(roles, None)]
