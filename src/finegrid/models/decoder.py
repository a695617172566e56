"""How a decoder and its tokenizer are called: positions by the mask, no cache, one state a text.

transformers numbers the tokens of a padded row from the padding on, fills a key-value cache in
every pass, and reads the state of the last id that is not the padding's: another token's wherever
the padding is a word too, or is not known. A decoder of ours gets its positions from the mask, so
that padding on either side changes nothing; fills a cache only where `use_cache=True` is given, as
`generate` does; and as a classifier reads the last token by the mask.

Its tokenizer puts nothing between two texts, makes no token of an empty one and takes the names of
special tokens in a text for these. Ours joins two texts by a separator, gives an empty one a token
that the model can be read at, and reads a text as text.
"""

import inspect
from collections.abc import Mapping
from functools import cache, partial, wraps
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from finegrid.errors import require
from finegrid.models.chat import Turn

SEPARATOR = "\n"  # of two texts, if the model's settings name none
CLASSIFIER = "ForSequenceClassification"  # ends the name of a class whose output is one a text


def adapt(network: Any) -> None:
    """Let a decoder of transformers compute as this module says, in place.

    Raises:
        UserError: for a classifier whose head is not called `score`.
    """
    plain: Any = type(network)
    if plain.__name__.endswith(CLASSIFIER):
        require(hasattr(network, "score"), f"{plain.__name__} has no head called `score`")
        network.__class__ = _classifier(plain)
    else:
        network.__class__ = _masked(plain)


def positions(mask: Tensor) -> Tensor:
    """The position of each token among those that are none of the padding: B T -> B T."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def last_token(mask: Tensor) -> Tensor:
    """Where each row's last token is, by its mask: B T -> B; 0 in a row of padding alone."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places * (mask != 0)).argmax(-1)


def _inputs(named: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments with the positions, and without a cache unless one is asked for."""
    named.setdefault("use_cache", False)
    mask = named.get("attention_mask")
    cached = named.get("past_key_values") is not None
    if mask is not None and mask.ndim == 2 and not cached and named.get("position_ids") is None:
        named["position_ids"] = positions(mask)
    return named


def pooled(network: Any, named: Mapping[str, Any]) -> Tensor:
    """The state of each text's last token by the mask, B H."""
    h: Tensor = network.base_model(**_inputs(dict(named))).last_hidden_state  # B T H
    mask = named.get("attention_mask")
    mask = h.new_ones(h.shape[:2]) if mask is None else mask
    return h[torch.arange(len(h), device=h.device), last_token(mask)]


@cache
def _masked(plain: type) -> type:
    """The same class, with positions by the mask and no cache of its own accord."""
    complete: Any = plain.__dict__.get("forward") or plain.forward  # type: ignore[attr-defined]
    names = list(inspect.signature(complete).parameters)[1:]

    @wraps(complete)  # `generate` reads the signature
    def forward(self: Any, *inputs: Any, **named: Any) -> Any:
        return complete(self, **_inputs(dict(zip(names, inputs, strict=False)) | named))

    # `save_pretrained` writes the name
    return type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})


@cache
def _classifier(plain: type) -> type:
    """The same class, with its head at each text's last token alone."""

    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **named: Any,
    ) -> SequenceClassifierOutputWithPast:
        given = {"input_ids": input_ids, "attention_mask": attention_mask} | named
        return SequenceClassifierOutputWithPast(logits=self.score(pooled(self, given)))

    return type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})


def adapt_tokenizer(tokenizer: Any, separator: str, turn: Turn | None = None) -> None:
    """Let a decoder's tokenizer read complete texts as this module says, in place.

    With a turn each text becomes a user's, and is cut so that all of the turn fits in. With
    `add_special_tokens=False`, as for parts of a text and chat templates, nothing differs.
    """
    plain: Any = type(tokenizer)
    tokenizer.__class__ = _reading(plain)
    tokenizer.text_separator, tokenizer.text_turn = separator, turn


@cache
def _reading(plain: Any) -> type:
    """The same class of tokenizers, which joins pairs and leaves no row empty."""

    def call(self: Any, text: Any = None, text_pair: Any = None, **named: Any) -> Any:
        if not named.get("add_special_tokens", True):
            return plain.__call__(self, text, text_pair, **named)
        if text_pair is not None:
            text = _joined(text, text_pair, self.text_separator)
        named.setdefault("split_special_tokens", True)
        if self.text_turn is not None:
            return self.text_turn.encode(partial(plain.__call__, self), text, **named)
        encoded = plain.__call__(self, text, **named)
        if named.get("return_tensors") is None:
            _fill_empty(encoded, self)
        return encoded

    return type(plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__})


def _joined(first: Any, second: Any, separator: str) -> Any:
    if isinstance(first, str):
        return f"{first}{separator}{second}"
    return [f"{one}{separator}{other}" for one, other in zip(first, second, strict=True)]


def _fill_empty(encoded: Any, tokenizer: Any) -> None:
    """Give each row without a token one: that which begins a text, or else the one that ends it."""
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    fills = {"input_ids": next((one for one in named if one is not None), 0), "attention_mask": 1}
    ids = encoded["input_ids"]
    single = not ids or not isinstance(ids[0], list)
    empty = [] if single else [row for row, tokens in enumerate(ids) if not tokens]
    for name, values in encoded.items():
        for tokens in [values] if single and not ids else [values[row] for row in empty]:
            tokens.append(fills.get(name, 0))
