"""LayerNorm tuning: train the gains and shifts of every LayerNorm.

Houlsby et al. 2019 (arXiv 1902.00751) use it as a baseline; ValizadehAslani & Liang 2024
(arXiv 2403.20284) report it as comparable to full fine-tuning on BERT:
y = g * (x - mean) / std + b with g and b trained, 38,400 numbers on BERT-base, the
embeddings' LayerNorm included.
"""

from torch import nn

from finegrid.methods.base import TuningMethod
from finegrid.models import surgery
from finegrid.models.anatomy import is_norm
from finegrid.models.sites import Sites


class LayerNorm(TuningMethod):
    """Train LayerNorm gains and shifts."""

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every LayerNorm.

        Raises:
            MatchError: if the backbone has none.
        """
        inside = (module for part in sites.scope(backbone) for module in part.modules())
        norms = [module for module in inside if is_norm(module)]
        if not norms:
            raise surgery.MatchError(f"{type(backbone).__name__} has no LayerNorm to train")
        for norm in norms:
            surgery.unfreeze(norm.parameters())
