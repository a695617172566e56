"""A language-model head by itself: hidden states to logits of the vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

LM_HEAD = {True: "AutoModelForCausalLM", False: "AutoModelForMaskedLM"}  # of a decoder, or not


class Given(nn.Module):
    """Stands in for a base model: its output is what it is given."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h = h

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        """Hidden states 1 N H."""
        return BaseModelOutputWithPast(last_hidden_state=self.h)


def vocabulary_logits(network: Any, plain: Any, h: Tensor) -> Tensor:
    """Logits (N, V) that a language model's own head makes of hidden states (N, H).

    `plain` is the class whose forward pass puts the head on the base model's output. Every
    architecture has a head of its own (dense layers, norms, caps), and that pass is where all are
    known.
    """
    prefix = network.base_model_prefix
    base = network._modules[prefix]
    network._modules[prefix] = Given(h[None])
    try:
        ids = torch.zeros(1, len(h), dtype=torch.long, device=h.device)
        logits: Tensor = plain.forward(network, input_ids=ids).logits[0]
    finally:
        network._modules[prefix] = base
    return logits
