"""Masked language modelling: hidden tokens, and the checkpoint's own head that predicts them.

As BERT was pre-trained: 15 % of the tokens are to be predicted; of these 80 % are read as the mask,
10 % as a random token and 10 % as they are. Special tokens are never among them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.config import ModelConfig
from finegrid.errors import UserError, require
from finegrid.models import backbone
from finegrid.models.heads.language_model import LM_HEAD, vocabulary_logits

HIDDEN = 0.15  # of the tokens
MASKED, KEPT = 0.8, 0.1  # of the hidden ones


class MaskedLanguageModel:
    """A masked language model's head without the model below it, frozen."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network, self.plain = network.eval(), type(network)
        network._modules[network.base_model_prefix] = nn.Identity()  # its memory is not needed
        self.mask = int(tokenizer.mask_token_id)
        self.special = torch.tensor(sorted(tokenizer.all_special_ids))
        self.vocabulary = len(tokenizer)

    def hide(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B T) as they are to be read, and which of them are to be predicted."""
        hidden = torch.rand(ids.shape, device=ids.device) < HIDDEN
        hidden &= ~torch.isin(ids, self.special.to(ids.device))
        draw = torch.rand(ids.shape, device=ids.device)
        drawn = torch.randint_like(ids, self.vocabulary)
        read = torch.where(draw < MASKED, self.mask, torch.where(draw < 1 - KEPT, drawn, ids))
        return torch.where(hidden, read, ids), hidden

    def loss(self, h: Tensor, ids: Tensor) -> Tensor:
        """Mean cross-entropy of tokens (N) by their states (N H), in fp32; 0 of none."""
        if not len(ids):
            return h.sum() * 0.0
        self.network.to(h.device)
        return functional.cross_entropy(vocabulary_logits(self.network, self.plain, h).float(), ids)


def of(model: ModelConfig | None) -> MaskedLanguageModel:
    """The masked-language-model head of a run's checkpoint.

    Raises:
        UserError: if it has none.
    """
    if model is None:
        raise UserError("the masked-language-model head is not known of a model made elsewhere")
    require(model.pretrained, f"model {model.name}: a head of random weights predicts no tokens")
    causal = backbone.is_decoder(model)
    require(not causal, f"model {model.name} is a decoder, without a masked-language-model head")
    backbone.need_language_model(model, LM_HEAD[False])
    made = backbone.build(model, outputs=2, seed=0, auto_class=LM_HEAD[False])
    return MaskedLanguageModel(made.model, backbone.tokenizer(model))
