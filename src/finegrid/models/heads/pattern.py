"""A word for each class, read by the pre-trained language-model head (pattern-exploiting).

Schick & Schuetze 2020 (arXiv 2001.07676) turn a row into a cloze and read the classes' words with
the masked-language-model head, which few rows need not teach what a fresh head must learn. With
the word of class c in tokens w_c1 .. w_ck,

    logit_c = mean over j of log p(w_cj | text)

masked model    the template with as many masks as the longest word has tokens; w_cj at mask j
decoder         the template before the word; w_cj behind it and w_c1 .. w_c,j-1

The head starts pre-trained. It trains where the method trains the embeddings that it is tied to,
and is frozen elsewhere (`Backbone.train_tied_head`).

Where we differ: no unlabelled rows, distillation or ensemble of patterns; the loss is
cross-entropy over the classes alone, without the auxiliary language-model loss. Masks are filled
at once, not one after the other (as PET does to train, not to score). A decoder reads nothing
behind the word's place. Texts that are too long for the model lose their ends, never the template.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from finegrid.config import ModelConfig
from finegrid.errors import require
from finegrid.models import backbone, decoder
from finegrid.models.backbone import Backbone
from finegrid.models.heads import cloze
from finegrid.models.heads.base import Head
from finegrid.models.heads.language_model import LM_HEAD, vocabulary_logits
from finegrid.tasks.modules.pattern import Pattern
from finegrid.tasks.modules.reader import Reader
from finegrid.tasks.task import Task


@dataclass(frozen=True)
class Words:
    """The classes' words as token ids, and the id of the mask; a decoder has none."""

    ids: tuple[tuple[int, ...], ...]
    mask: int | None

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(map(len, self.ids))


class PatternHead(Head):
    """The language-model head, read at the classes' words."""

    needs_rows = False
    one_state = False
    exports = False

    def check(self, model: ModelConfig, task: Task) -> None:
        """Refuse a checkpoint without a language-model head, or a template that does not fit."""
        causal = backbone.is_decoder(model)
        require(
            not causal or _reads_all(pattern_of(task)),
            f"{cloze.WHERE}: a decoder reads nothing behind {{label}}, but a text of {task.name} "
            "stands there; move it to the front",
        )
        backbone.need_language_model(model, LM_HEAD[causal])

    def auto_class(self, task: Task, decoder: bool) -> str:
        """With a language-model head."""
        return LM_HEAD[decoder]

    def reader(self, task: Task) -> Reader:
        """The template, filled with a row's texts."""
        return cloze.Cloze(pattern_of(task), task)

    def attach(self, backbone: Backbone, task: Task, tokenizer: Callable[[], Any]) -> None:
        """Let the model give the words' log-likelihoods in place of logits of its vocabulary."""
        network: Any = backbone.model
        words = cloze.word_ids(pattern_of(task), tokenizer())
        mask = None if backbone.sites.decoder else cloze.mask_id(tokenizer())
        plain: Any = type(network)
        network.__class__ = _reading(plain)
        network.__dict__["words"] = Words(tuple(map(tuple, words)), mask)


def pattern_of(task: Task) -> Pattern:
    """The pattern of a task that has one (see `tasks.modules.heads`)."""
    assert task.pattern is not None
    return task.pattern


def _reads_all(pattern: Pattern) -> bool:
    return not cloze.PLACE.search(pattern.ends[1])


@cache
def _reading(plain: Any) -> Any:
    """A language model's class whose logits (B, C) are those of the classes' words."""

    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        **named: Any,
    ) -> SequenceClassifierOutput:
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        read = _behind_prompt if self.words.mask is None else _at_masks
        return SequenceClassifierOutput(logits=read(self, plain, input_ids, seen, named))

    return type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})


def _at_masks(
    network: Any, plain: Any, ids: Tensor, mask: Tensor, named: Mapping[str, Any]
) -> Tensor:
    """Mean log-likelihoods of the words at each text's masks, B C."""
    words: Words = network.words
    output = network.base_model(input_ids=ids, attention_mask=mask, **named)
    h = output.last_hidden_state[:, -ids.shape[1] :]  # a soft prompt may stand before the text
    at = h[ids == words.mask]  # B K H in one
    likely = vocabulary_logits(network, plain, at).float().log_softmax(-1)
    likely = likely.view(len(ids), words.longest, -1)
    each = [likely[:, range(len(word)), list(word)].mean(1) for word in words.ids]
    return torch.stack(each, dim=1)


def _behind_prompt(
    network: Any, plain: Any, ids: Tensor, mask: Tensor, named: Mapping[str, Any]
) -> Tensor:
    """Mean log-likelihoods of the words behind each text, B C; a text is read once a long word."""
    words: Words = network.words
    last = decoder.last_token(mask)
    rows = torch.arange(len(ids), device=ids.device)
    if words.longest == 1:
        h = _states(network, ids, mask, named)
        likely = vocabulary_logits(network, plain, h[rows, last]).float().log_softmax(-1)
        return likely[:, [word[0] for word in words.ids]]
    scores = []
    for word in words.ids:
        more = len(word) - 1
        told, seen = (nn.functional.pad(x, (0, more)) for x in (ids, mask))
        places = last[:, None] + torch.arange(1, more + 1, device=ids.device)  # B more
        told = told.scatter(1, places, told.new_tensor(word[:-1]).expand(len(ids), -1))
        seen = seen.scatter(1, places, 1)
        h = _states(network, told, seen, named)
        at = h[rows[:, None], last[:, None] + torch.arange(more + 1, device=ids.device)]
        likely = vocabulary_logits(network, plain, at.flatten(0, 1)).float().log_softmax(-1)
        likely = likely.view(len(ids), len(word), -1)
        scores.append(likely[:, range(len(word)), list(word)].mean(1))
    return torch.stack(scores, dim=1)


def _states(network: Any, ids: Tensor, mask: Tensor, named: Mapping[str, Any]) -> Tensor:
    """What a decoder's layers make of texts, B T H."""
    where = decoder.positions(mask)
    output = network.base_model(
        input_ids=ids, attention_mask=mask, position_ids=where, use_cache=False, **named
    )
    h: Tensor = output.last_hidden_state[:, -ids.shape[1] :]
    return h
