"""Forgetting: what tuning costs the backbone as a language model, on a fixed neutral text.

The loss of the pre-trained language-model head on `data/neutral.txt` (19 kB of encyclopaedic
English written for this), once on the pre-trained backbone and once on the tuned one, with what the
method injected in it; the record holds the second less the first, in nats a token. A decoder
predicts each next token of windows of at most 128 tokens; a masked model predicts 15 % of the
tokens of such windows, the same for every run, behind masks. Where the head is tied to embeddings
that were tuned it reads with these. Both losses are computed after training by the same modules in
fp32, so that a delta that changes nothing gives exactly 0.

It takes two passes over about 4,500 tokens (of SmolLM2; more of a small vocabulary), with logits of
the complete vocabulary, and memory for a second copy of the model.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finegrid.data import neutral
from finegrid.errors import UserError
from finegrid.kernels.optimize import optimize
from finegrid.models import backbone
from finegrid.models.backbone import Backbone
from finegrid.models.heads import texts
from finegrid.models.heads.language_model import LM_HEAD
from finegrid.training.components import RunComponents

log = logging.getLogger(__name__)
WINDOW = 128  # tokens, or half of the model's positions: a method may need some for itself
ROWS = 8  # windows of a pass
MASKED = 0.15  # of the tokens
SEED = 0  # of the masks

Loss = Callable[[Any], float]  # of a language model


def measure(components: RunComponents) -> float | None:
    """The rise of the loss by tuning; None, with the reason in the log, where there is none."""
    config, tuned = components.config, components.module.backbone
    if reason := _obstacle(components):
        log.info("forgetting is not measured: %s", reason)
        return None
    decoder = tuned.sites.decoder
    try:
        fresh = backbone.build(config.model, outputs=2, seed=0, auto_class=LM_HEAD[decoder])
    except UserError as error:
        log.info("forgetting is not measured: %s", error)
        return None
    if config.trainer.kernels:
        optimize(fresh.model)
    loss = _loss(backbone.tokenizer(config.model), fresh)
    device = next(tuned.model.parameters()).device
    training = tuned.model.training
    fresh.model.to(device).eval()
    tuned.model.eval()
    with torch.inference_mode():
        before = loss(fresh.model)
        _adopt(fresh.model, tuned)
        after = loss(fresh.model)
    tuned.model.train(training)
    return after - before


def _obstacle(components: RunComponents) -> str:
    config = components.config
    if not config.model.pretrained:
        return "random weights know nothing"
    return "a trial is not reported" if config.trial is not None else ""


def _adopt(network: Any, tuned: Backbone) -> None:
    """Put a tuned base below a language model's head, and the tuned head too if it was that one."""
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    prefix = network.base_model_prefix
    if tuned.language_model:
        head = {n: v for n, v in tuned.model.state_dict().items() if not n.startswith(f"{prefix}.")}
        network.load_state_dict(head, strict=False)
    network._modules[prefix] = tuned.model.base_model
    if tied:
        network.get_output_embeddings().weight = network.get_input_embeddings().weight


def _loss(tokenizer: Any, base: Backbone) -> Loss:
    """The loss on the neutral text, of a model that reads the tokenizer's tokens."""
    windows = list(_windows(tokenizer, min(WINDOW, base.sites.positions // 2)))
    mask = None if base.sites.decoder else int(tokenizer.mask_token_id)
    hidden = _hidden(windows)

    def loss(network: Any) -> float:
        device = next(network.parameters()).device
        total, count = 0.0, 0
        for start in range(0, len(windows), ROWS):
            ids = torch.stack(windows[start : start + ROWS]).to(device)
            targets = hidden[start : start + ROWS].to(device)
            if mask is None:
                targets = torch.ones_like(targets)
                targets[:, 0] = False
            read = ids if mask is None else ids.masked_fill(targets, mask)
            logits = _logits(network, read)
            if mask is None:
                logits, ids, targets = logits[:, :-1], ids[:, 1:], targets[:, 1:]
            each = functional.cross_entropy(logits[targets].float(), ids[targets], reduction="none")
            total, count = total + float(each.double().sum()), count + len(each)
        return total / count

    return loss


def _logits(network: Any, ids: Tensor) -> Tensor:
    inputs: Mapping[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits: Tensor = network(**inputs).logits
    return logits[:, -ids.shape[1] :]  # a soft prompt may stand before the text


def _windows(tokenizer: Any, length: int) -> Iterator[Tensor]:
    """The text as windows of equal length, each between the tokenizer's special tokens."""
    left, right = texts.frame(tokenizer)
    (ids,) = texts.tokens_of(tokenizer, [neutral.text()])
    room = length - len(left) - len(right)
    for start in range(0, len(ids) - room + 1, room):
        yield torch.tensor([*left, *ids[start : start + room], *right])


def _hidden(windows: list[Tensor]) -> Tensor:
    """Which tokens a masked model has to predict, the same in every run; no special ones."""
    generator = torch.Generator().manual_seed(SEED)
    chosen = torch.rand(len(windows), len(windows[0]), generator=generator) < MASKED
    chosen[:, [0, -1]] = False
    return chosen
