"""Self-denoised smoothing of a finished run: predictions by a vote over masked, refilled texts.

Zhang et al. 2024, arXiv 2404.12274. A text x is predicted from copies of itself, in each of which a
random share of the words is masked and filled again by the pre-trained masked language model that
the run started from:

    g(x) = argmax_c sum over copies k of [f(fill(mask_k(x))) = c]

Where we differ: the authors' main denoiser is an instructed decoder; their code also has RoBERTa,
whose likeliest token they take at every position. Here the run's own backbone fills the masks
alone, one token a word, all at once. They vote over 100 copies at a mask rate of 0.7 and certify a
radius from 5,000; no certificate is claimed here. Labels that are numbers get the copies' mean.
"""

import random
from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finegrid.errors import UserError, require
from finegrid.inference import Restored
from finegrid.models import backbone
from finegrid.models.heads.language_model import LM_HEAD

ROWS = 32  # texts of a pass of the language model


class Denoiser:
    """Masks words of texts and lets a pre-trained masked language model fill them."""

    def __init__(self, run: Restored) -> None:
        decoder = backbone.is_decoder(run.config.model)
        require(
            not decoder,
            f"--votes needs a masked language model to fill gaps; {run.config.model.name} is a "
            "decoder, which reads to the left alone",
        )
        made = backbone.build(run.config.model, outputs=2, seed=0, auto_class=LM_HEAD[False])
        self.run = run
        self.model, self.tokenizer = made.model.eval(), run.tokenizer
        self.length = run.config.model.max_length

    def refilled(self, texts: Sequence[str], *, share: float, seed: int) -> list[str]:
        """Texts of which a share of the words, one at least, is the model's."""
        masked = [self._masked(text, share, f"{seed} {text}") for text in texts]
        return [
            text
            for start in range(0, len(masked), ROWS)
            for text in self._filled(masked[start : start + ROWS])
        ]

    def _masked(self, text: str, share: float, seed: str) -> str:
        words = text.split()
        chosen = random.Random(seed).sample(range(len(words)), ceil(share * len(words)))
        gaps = set(chosen)
        mask = self.tokenizer.mask_token
        return " ".join(mask if n in gaps else word for n, word in enumerate(words))

    @torch.inference_mode()
    def _filled(self, texts: Sequence[str]) -> list[str]:
        device = next(self.model.parameters()).device
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        ).to(device)
        ids = batch["input_ids"]
        likeliest = self.model(**batch).logits.argmax(-1)
        filled = torch.where(ids == self.tokenizer.mask_token_id, likeliest, ids)
        found: list[str] = self.tokenizer.batch_decode(filled, skip_special_tokens=True)
        return [text or "?" for text in found]  # a text of nothing but special tokens


def outputs(
    denoiser: Denoiser, texts: tuple[Sequence[Any], ...], *, share: float, votes: int
) -> Tensor:
    """The run's votes for each class, (N, classes), or mean values; one list of texts a column.

    Raises:
        UserError: for nested texts, or a kind of task that has no logits.
    """
    for column in texts:
        require(all(isinstance(text, str) for text in column), "--votes is for plain texts")
    run, total = denoiser.run, torch.zeros(())
    for vote in range(votes):
        copies = tuple(denoiser.refilled(column, share=share, seed=vote) for column in texts)
        found = run.outputs(copies)
        predicted = run.task.predictions(found)
        if not isinstance(predicted, Tensor) or predicted.ndim != 1:
            raise UserError(f"--votes is for one class or number a row, not {run.task.kind}")
        if not predicted.is_floating_point():
            found = functional.one_hot(predicted, found.shape[-1]).float()
        total = total + found / votes
    return total
