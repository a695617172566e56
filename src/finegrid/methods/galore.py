"""GaLore: full fine-tuning whose optimizer sees low-rank gradients (Zhao et al. 2024, 2403.03507).

Of a layer's matrix W (m, n), m >= n, with gradient G, every `update_proj_gap` steps

    P = the first `rank` right singular vectors of G      (n, rank); of a wide matrix the left ones

and in each step AdamW's moments are those of G P (m, rank):

    W <- W - lr * scale * AdamW(G P) P^T                  lr * weight_decay * W off too

All else (embeddings, biases, norms, pooler, head) trains by AdamW as in full. The optimizer is the
authors' own, `GaLoreAdamW` of their package galore-torch: `pip install 'finegrid[galore]'`. That
imports bitsandbytes, whatever is asked of it.

Where we differ: eps is 1e-8 as in every other method, theirs 1e-6. Their script for GLUE projects
what peft's LoRA would reach, ours every weight matrix of the layers. Their per-layer updates during
the backward pass and 8-bit moments are left out, so that a step holds all gradients: of full's
memory the moments alone shrink.
"""

import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites
from finegrid.tasks.task import Task


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
        sorts = {True: self.projection(), False: {}}
        parts = {
            projected: [p for p in group["params"] if (id(p) in low) is projected]
            for projected in sorts
        }
        return [group | {"params": parts[of]} | more for of, more in sorts.items() if parts[of]]
