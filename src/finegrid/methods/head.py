"""Linear probe: the backbone stays as pre-trained, only the head trains.

The floor of every comparison: what the frozen features already know. It is stricter than the
feature-based baselines of some papers because a pooler inside the backbone stays frozen too.
"""

from torch import nn

from finegrid.methods.base import TuningMethod
from finegrid.models.sites import Sites


class Head(TuningMethod):
    """Train nothing but the head."""

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Leave the backbone frozen."""
