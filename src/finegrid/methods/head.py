"""Linear probe: the backbone stays frozen, only the head trains.

The lower baseline of every comparison. Unlike in the feature-based baselines of some papers, a
pooler inside the backbone stays frozen too.
"""

from torch import nn

from finegrid.methods.base import TuningMethod
from finegrid.models.sites import Sites


class Head(TuningMethod):
    """Train nothing but the head."""

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Leave the backbone frozen."""
