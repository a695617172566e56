"""Full fine-tuning: every parameter of the backbone trains.

The baseline of every comparison (Devlin et al. 2018, arXiv 1810.04805):
theta = theta_0 + delta, with delta unrestricted. The delta file holds all tuned weights.
"""

from torch import nn

from finegrid.methods.base import TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites


class Full(TuningMethod):
    """Train every parameter."""

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every parameter, the pooler and the embeddings included."""
        surgery.unfreeze(backbone.parameters())
