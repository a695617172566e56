"""APOLLO: full fine-tuning by gradients that are scaled (Zhu et al. 2024, arXiv 2412.05270).

Of a layer's matrix W (m, n), m >= n, with gradient G and a random projection P (n, rank), drawn
anew every `update_proj_gap` steps, R = G P are what AdamW's moments are of, and

    s_i = |AdamW(R)_i| / |R_i|          a factor for each of the m channels
    W  <- W - lr * sqrt(scale) * s G    lr * weight_decay * W off too

A wide matrix is projected, and has its channels, the other way round. A scaled gradient's norm may
grow by 1 % a step at most. All else trains by AdamW as in full. The optimizer is the authors' own,
`APOLLOAdamW` of their package apollo-torch: `pip install 'finegrid[galore]'`. That imports
bitsandbytes, whatever is asked of it.

Where we differ: eps is 1e-8 as in every other method, theirs 1e-6. The library draws P by numbers
of its own, the same in every run: a run's seed does not change them. One factor a matrix
(APOLLO-Mini) is `method.scale_type=tensor method.rank=1 method.scale=128`.
"""

from typing import Any, ClassVar

from finegrid.errors import one_of
from finegrid.methods.base import YAML
from finegrid.methods.galore import GaLore

SCALES = ("channel", "tensor")


class APOLLO(GaLore):
    """Train every parameter, the layers' matrices by scaled gradients."""

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
