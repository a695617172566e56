"""SHiRA: as many single weights as LoRA has numbers (Bhardwaj et al. 2024, arXiv 2406.13175).

W' = W + S(v), v being rank (in + out) values at entries of W that are drawn from the run's seed,
zero at the start; `sparse_random` draws a share of each matrix instead. A delta holds the values
and which entries they are.

Where we differ: the random mask alone; `sparse_magnitude` and `sparse` choose by size and by
gradients. The values are the only parameters, where the authors mask the gradients of W.
"""

from collections.abc import Sequence

import torch
from torch import nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.sparse_delta import SparseDifference
from finegrid.methods.modules.update import bounded
from finegrid.models import surgery
from finegrid.models.sites import Sites


class SHiRA(TuningMethod):
    """Train random entries of the matrices of some roles."""

    def __init__(self, *, roles: Sequence[str] | None = YAML, rank: int = YAML) -> None:
        self.roles, self.rank = roles, rank

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Put a sparse difference on each; raises UserError for more values than entries."""
        for role, site in sites.select(self.roles, None):
            inputs, outputs = bounded(site.module, role, self.rank)
            count = self.rank * (inputs + outputs)
            require(
                count <= inputs * outputs,
                f"method.rank={self.rank} gives {count} values and the matrix of {role} has "
                f"{inputs * outputs} entries; use a lower rank",
            )
            weight = surgery.raw_parameter(site.module, "weight")
            assert weight is not None
            places = torch.randperm(weight.numel(), device=weight.device)[:count]
            difference = SparseDifference(weight.shape, places)
            surgery.reparametrize(site.module, "weight", "shira", difference)
