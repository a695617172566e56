"""Task-agnostic mask training (TAMT): masks by unlabelled text, then fine-tuning inside them.

Liu et al. 2022, arXiv 2204.11218. With one score m per weight of the layers' matrices and a
threshold t, both phases compute with

    w * [m > t]      start: m = 0 for the smallest s of |w_0| in each matrix, else 0.02; t = 0.01

phase 1   the scores alone train, straight through, on the training rows' texts without labels
              mlm      cross-entropy of hidden tokens, by the checkpoint's own head
              distil   mean over layers and tokens of 1 - cos(h, h_0), h_0 the unmasked model's
phase 2   the mask is fixed; all weights inside it, biases, norms and embeddings train on the task

Ten times in phase 1 t moves to where the share s of each matrix is zero, and the last cut is exact.
`mask_share: 0` has no phase 1: magnitude pruning, then fine-tuning, the paper's baseline. With
`objective: auto` it is mlm where the checkpoint has that head, and distil elsewhere.

Where we differ: the authors train one mask on WikiText-103 for all tasks, two epochs of 512 tokens;
here phase 1 reads the run's own training rows and is part of its budget and schedule. Their code
(llyx97/TAMT) masks pooler and word embeddings too and trains the masked-language-model head, moves
t every 100 steps or more, and counts padding in the cosine; theirs is a learning rate for each
phase, ours one with a ratio. Of a generation task the answers are part of the text.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finegrid.errors import UserError, one_of, require
from finegrid.methods.base import YAML, Texts, TuningMethod
from finegrid.methods.modules.mask import (
    THRESHOLD,
    Mask,
    ThresholdMask,
    lowest,
    pruned_count,
    smallest,
)
from finegrid.methods.modules.text_losses import distillation, hidden_tokens
from finegrid.models import surgery
from finegrid.models.heads.masked_language import MaskedLanguageModel
from finegrid.models.sites import Sites

log = logging.getLogger(__name__)
CUTS = 10  # times that the threshold moves in phase 1
NAME = "mask_agnostic"


class LiftableMask(ThresholdMask):
    """A mask of a set sparsity that can be lifted: the weight is then as it was."""

    lifted = False

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight; same shape."""
        return weight if self.lifted else super().forward(weight)

    @torch.no_grad()
    def cut(self, sparsity: float) -> None:
        """Move the threshold to where this share of the scores lies at or below it."""
        count = pruned_count(sparsity, self.scores.numel())
        self.threshold = float(self.scores.kthvalue(count).values) if count else -float("inf")

    @torch.no_grad()
    def fix(self, sparsity: float) -> None:
        """Keep the mask of exactly this share of zeros, and drop the scores."""
        self.fixed = ~lowest(self.scores, sparsity)
        self.scores.requires_grad_(False)
        self.scores.grad, self.scores.data = None, self.scores.new_empty(0)


class MaskAgnostic(TuningMethod):
    """Learn a mask from texts alone, then fine-tune what it leaves."""

    starts_pretrained = False

    def __init__(
        self,
        *,
        sparsity: float = YAML,
        mask_share: float = YAML,
        mask_rate: float = YAML,
        objective: str = YAML,
        roles: Sequence[str] | None = YAML,
    ) -> None:
        pruned_count(sparsity, 1)  # refuses a sparsity out of range
        require(
            0 <= mask_share < 1,
            f"method.mask_share={mask_share:g} is no share of the budget in [0, 1)",
        )
        require(mask_rate > 0, f"method.mask_rate={mask_rate:g} must be above 0")
        one_of("method.objective", objective, ("auto", "mlm", "distil"))
        self.sparsity, self.mask_share, self.objective = sparsity, mask_share, objective
        self.roles = roles
        self.texts_only = mask_share > 0
        self.checkpointable = not self.texts_only
        self.lr_scale = mask_rate if self.texts_only else 1.0
        self.cuts = 0
        self.waiting: list[nn.Parameter] = []  # for phase 2
        self.language: MaskedLanguageModel | None = None

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every parameter, as a run delivers it, and mask the smallest weights."""
        for part in sites.scope(backbone):
            surgery.unfreeze(part.parameters())
        for module, weight in sites.matrices(self.roles, None):
            pruned = smallest(weight, self.sparsity)
            mask: nn.Module = Mask(~pruned)
            if self.texts_only:
                mask = LiftableMask(torch.where(pruned, 0.0, 2 * THRESHOLD))
            surgery.reparametrize(module, "weight", NAME, mask)

    def acts(self) -> tuple[str, ...]:
        """A mask that is not learned needs no loop of its own."""
        return super().acts() if self.mask_share else ()

    def lr_ratio(self, name: str) -> float:
        """Nothing but scores moves in phase 1, also in the step before all else is frozen."""
        return float(name.endswith(f".{NAME}.scores")) if self.texts_only else 1.0

    def text_loss(self, texts: Texts) -> Tensor:
        """Hidden tokens' cross-entropy, or the distance to the unmasked model's states."""
        if self.objective != "distil" and self.language is None:
            self._load_language(texts)
        if self.language is not None:
            return hidden_tokens(texts, self.language)
        return distillation(texts, _lifted(_masks(texts.base)))

    def _load_language(self, texts: Texts) -> None:
        try:
            self.language = texts.language()
        except UserError as error:
            require(self.objective == "auto", f"method.objective=mlm: {error}; use distil")
            self.objective = "distil"
        log.info("masks are trained by %s", "mlm" if self.language else self.objective)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Freeze all but the scores after the first step; fix the masks when the phase ends."""
        if not self.texts_only:
            return False
        if progress >= self.mask_share:
            self._end_phase(backbone)
            return True
        if int(CUTS * progress / self.mask_share) > self.cuts:
            self.cuts = int(CUTS * progress / self.mask_share)
            for mask in _masks(backbone):
                mask.cut(self.sparsity)
        if self.waiting:
            return False
        scores = {id(mask.scores) for mask in _masks(backbone)}
        trained = surgery.trainable(backbone).values()
        self.waiting = [parameter for parameter in trained if id(parameter) not in scores]
        for parameter in self.waiting:
            parameter.requires_grad_(False)
        return True

    def _end_phase(self, backbone: nn.Module) -> None:
        for mask in _masks(backbone):
            mask.fix(self.sparsity)
        surgery.unfreeze(self.waiting)
        self.texts_only, self.checkpointable, self.lr_scale = False, True, 1.0
        self.waiting, self.language = [], None


def _masks(backbone: nn.Module) -> list[LiftableMask]:
    return [module for module in backbone.modules() if isinstance(module, LiftableMask)]


@contextmanager
def _lifted(masks: Sequence[LiftableMask]) -> Iterator[None]:
    """Compute without the masks inside."""
    for mask in masks:
        mask.lifted = True
    try:
        yield
    finally:
        for mask in masks:
            mask.lifted = False
