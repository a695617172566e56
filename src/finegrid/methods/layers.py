"""Partial fine-tuning: train chosen layers and roles, freeze the others.

Radiya-Dixit & Wang 2020, arXiv 2004.14129: fine-tuned weights stay close to the pre-trained ones,
not equally close in every layer, and tuning only the most critical layers suffices. Also the
"variable fine-tuning" baseline (top k layers) of Houlsby et al. 2019, arXiv 1902.00751.

    theta = theta_0 + delta, delta = 0 outside the chosen layers and roles

Where we differ: the paper's own choice of layers is not known to us; `critical_layers` names the
ones that full fine-tuning moved most here (see its YAML). An encoder's own pooler counts as a role
of its own and stays frozen unless named.
"""

from collections.abc import Sequence

from torch import nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites


class Layers(TuningMethod):
    """Train the chosen layers and roles, or with `invert` all others."""

    def __init__(
        self,
        *,
        layers: Sequence[int] | str | None = YAML,
        roles: Sequence[str] | None = YAML,
        invert: bool = YAML,
    ) -> None:
        self.layers, self.roles, self.invert = layers, roles, invert

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze weights and biases of the choice; `roles` null means whole layers.

        Raises:
            SiteError: for a layer or role that the backbone does not have.
        """
        chosen = {
            id(parameter): parameter
            for _, site in sites.select(
                ["layer"] if self.roles is None else self.roles, self.layers
            )
            for parameter in site.module.parameters()
        }
        every = {id(parameter): parameter for parameter in backbone.parameters()}
        trained = every.keys() - chosen.keys() if self.invert else chosen.keys()
        surgery.unfreeze(every[key] for key in every if key in trained)
