"""GaLore and APOLLO: full fine-tuning whose optimizer keeps low-rank moments.

Of a layer's matrix W (m, n), m >= n, with gradient G (of a wide matrix the other way round), every
`update_proj_gap` steps a projection P (n, rank) is taken, and AdamW's moments are those of
R = G P (m, rank):

    GaLore   P = the first right singular vectors of G       W <- W - lr * scale * AdamW(R) P^T
    APOLLO   P random, s_i = |AdamW(R)_i| / |R_i|            W <- W - lr * sqrt(scale) * s G

with a factor s_i for each of the m channels, or (`scale_type=tensor`) one for the matrix; a scaled
gradient's norm may grow by 1 % a step at most. Weight decay is AdamW's. All else (embeddings,
biases, norms, pooler, head) trains by AdamW as in full. GaLore: Zhao et al. 2024, arXiv 2403.03507;
APOLLO: Zhu et al. 2024, arXiv 2412.05270; APOLLO-Mini is `method.scale_type=tensor method.rank=1
method.scale=128`. The optimizers are the authors' own, of their packages galore-torch and
apollo-torch: `pip install 'finegrid[galore]'`. Both import bitsandbytes, whatever is asked of them.

Where we differ: eps is 1e-8 as in every other method, theirs 1e-6. GaLore's script for GLUE
projects what peft's LoRA would reach, ours every weight matrix of the layers. Updates of one layer
at a time during the backward pass and 8-bit moments are left out, so that a step holds all
gradients: of full's memory the moments alone shrink. apollo-torch draws P by numbers of its own,
the same in every run: a run's seed does not change them.
"""

import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from finegrid.errors import one_of, require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.tasks.task import Task

SCALES = ("channel", "tensor")


class GaLore(TuningMethod):
    """Train every parameter, the layers' matrices by low-rank moments."""

    package: ClassVar[str] = "galore_torch"
    name_of_optimizer: ClassVar[str] = "GaLoreAdamW"

    def __init__(
        self, *, rank: int = YAML, scale: float = YAML, update_proj_gap: int = YAML
    ) -> None:
        for name, value in (("rank", rank), ("update_proj_gap", update_proj_gap)):
            require(value >= 1, f"method.{name}={value} must be at least 1")
        require(scale > 0, f"method.scale={scale:g} must be above 0")
        self.rank, self.scale, self.update_proj_gap = rank, scale, update_proj_gap
        self.matrices: list[nn.Parameter] = []

    def read_task(self, task: Task) -> None:
        """Refuse a run whose optimizer is not installed.

        Raises:
            UserError: if the library, or bitsandbytes, which it imports, is missing.
        """
        lacks = [name for name in (self.package, "bitsandbytes") if find_spec(name) is None]
        require(
            not lacks,
            f"the method's optimizer needs {' and '.join(lacks)}: pip install 'finegrid[galore]'",
        )

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every parameter, and know the layers' matrices.

        Raises:
            UserError: for a rank above a matrix's own.
        """
        self.matrices = []
        for _, weight in sites.matrices(None, None):
            require(
                self.rank <= min(weight.shape),
                f"method.rank={self.rank} is above the {min(weight.shape)} that a matrix of "
                f"{' x '.join(map(str, weight.shape))} can have",
            )
            self.matrices.append(weight)
        for part in sites.scope(backbone):
            surgery.unfreeze(part.parameters())

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> Optimizer:
        """The library's AdamW, with the matrices in groups of their own."""
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # seeks kernels not needed
        made = getattr(import_module(self.package), self.name_of_optimizer)
        optimizer: Optimizer = made(
            [part for group in groups for part in self._split(group)],
            eps=1e-8,
            no_deprecation_warning=True,
        )
        return optimizer

    def projection(self) -> dict[str, Any]:
        """What the library's optimizer reads of a group whose gradients it projects."""
        return {
            "rank": self.rank,
            "scale": self.scale,
            "update_proj_gap": self.update_proj_gap,
            "proj_type": "std",
        }

    def _split(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """A group as what is projected, and what is not."""
        low = set(map(id, self.matrices))
        projected = [p for p in group["params"] if id(p) in low]
        others = [p for p in group["params"] if id(p) not in low]
        parts = [group | {"params": projected} | self.projection(), group | {"params": others}]
        return [part for part in parts if part["params"]]


class APOLLO(GaLore):
    """Train every parameter, the layers' matrices by scaled gradients."""

    yaml = "apollo"
    package: ClassVar[str] = "apollo_torch"
    name_of_optimizer: ClassVar[str] = "APOLLOAdamW"

    def __init__(
        self,
        *,
        rank: int = YAML,
        scale: float = YAML,
        update_proj_gap: int = YAML,
        scale_type: str = YAML,
    ) -> None:
        super().__init__(rank=rank, scale=scale, update_proj_gap=update_proj_gap)
        one_of("method.scale_type", scale_type, SCALES)
        self.scale_type = scale_type

    def projection(self) -> dict[str, Any]:
        """What the library's optimizer reads of a group whose gradients it projects."""
        return super().projection() | {"proj": "random", "scale_type": self.scale_type}
