"""Prompt tuning: learned vectors among the token embeddings (Lester et al. 2021, 2104.08691).

With E(x) the embeddings of the text x_0 .. x_T-1, the encoder reads

    [P; E(x)]                     place: front
    [E(x_0); P; E(x_1 ..)]        place: after_cls

with P (length, E) trained, before positions and types are added. It starts as copies of the
embeddings of random words. With `deep` every later layer gets vectors of its own (length, H),
drawn from N(0, 0.02), in place of the previous layer's output for the prompt (VPT-deep, Jia et al.
2022, arXiv 2203.12119).

Visual Fourier prompt tuning (Zeng et al. 2024, arXiv 2411.01327), here on text: in every layer the
first floor(fourier * length) vectors F of a prompt stand there as Re(DFT(F)), a discrete Fourier
transform over positions and hidden units, not normalised; the rest as they are.

Where we differ: the paper prompts T5, a decoder that needs no first token; for encoders we default
to `after_cls`, where the pooled token stays the first one and the prompt leaves the encoder's
output again, so that heads see the text's tokens alone. `front` is what peft does: the pooled
token is the prompt's first vector. A causal decoder, whose first token would not see a prompt
behind it, has it in front whatever `place` says; it leaves the output there, too. The words to
copy are drawn from the middle nine tenths of the vocabulary rather than the 5,000 most frequent.
Local layers, as ModernBERT and Gemma have them, attend to a prompt only within their window, which
padding between it and the text uses up. VFPT starts as the other prompts do; its authors draw from
a uniform distribution by the size of an image's patch.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.errors import UserError, nearest, require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.decoder import positions
from finegrid.models.sites import Sites

PLACES = {"front": 0, "after_cls": 1}  # -> the prompt's first position


class PromptSlots(nn.Module):
    """Inserts placeholder tokens for the prompt into the inputs, removes them from the output.

    The child of the base model; `PromptVectors` then replaces the placeholders' embeddings.
    """

    def __init__(
        self, *, start: int, length: int, limit: int, filler: int, stays: bool = False
    ) -> None:
        super().__init__()
        self.start, self.length, self.stays = start, length, stays
        self.limit = limit  # positions that the backbone has
        self.filler = filler  # an id that is not padding; its embedding is never used

    def forward(self, named: dict[str, Any]) -> dict[str, Any]:
        """The backbone's keyword arguments with `length` attended tokens more.

        Where a cache holds the prompt already, the mask and the positions alone tell of it.
        """
        cache = named.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            return self._behind(named)
        tokens = named["input_ids"].shape[1]
        if tokens + self.length > self.limit:
            raise UserError(
                f"method.length={self.length} and {tokens} tokens of text make "
                f"{tokens + self.length}, more than the {self.limit} positions of the backbone"
            )
        fills = {"input_ids": self.filler, "attention_mask": 1, "token_type_ids": 0}
        present = {name: fill for name, fill in fills.items() if named.get(name) is not None}
        filled = {name: self._filled(named[name], fill) for name, fill in present.items()}
        if named.get("position_ids") is not None:
            mask = filled.get("attention_mask")
            named = named | {"position_ids": None if mask is None else positions(mask)}
        return named | filled

    def _behind(self, named: dict[str, Any]) -> dict[str, Any]:
        mask, places = named.get("attention_mask"), named.get("position_ids")
        if mask is not None:
            named = named | {"attention_mask": self._filled(mask, 1)}
        return named if places is None else named | {"position_ids": places + self.length}

    def _filled(self, x: Tensor, fill: int) -> Tensor:
        slots = x.new_full((len(x), self.length), fill)
        return torch.cat([x[:, : self.start], slots, x[:, self.start :]], dim=1)

    def remove(self, output: Any) -> Any:
        """Remove the prompt from the hidden states, B T H, unless it stays or is not in them."""
        h = output["last_hidden_state"]
        if not self.stays and h.shape[1] > self.length:
            text = torch.cat([h[:, : self.start], h[:, self.start + self.length :]], dim=1)
            output["last_hidden_state"] = text
        return output


class PromptVectors(nn.Module):
    """Replaces the hidden states at the prompt's positions by learned vectors: B T H -> B T H.

    Too few states to hold it are those of tokens behind it, the rest being in a cache.
    """

    def __init__(self, vectors: Tensor, start: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)  # length H
        self.start = start

    def forward(self, h: Tensor) -> Tensor:
        """The hidden states with the prompt."""
        if h.shape[1] <= len(self.vectors):
            return h
        prompt = self.prompt().to(h.dtype).expand(len(h), -1, -1)
        end = self.start + len(self.vectors)
        return torch.cat([h[:, : self.start], prompt, h[:, end:]], dim=1)

    def prompt(self) -> Tensor:
        """What stands at the prompt's positions, length H."""
        return self.vectors


class FourierVectors(PromptVectors):
    """The same, but the first `turned` vectors stand there as their 2-D Fourier transform."""

    def __init__(self, vectors: Tensor, start: int, *, turned: int) -> None:
        super().__init__(vectors, start)
        self.turned = turned

    def prompt(self) -> Tensor:
        """The real part of the transform, then the other vectors; length H."""
        spectrum = torch.fft.fft2(self.vectors[: self.turned]).real
        return torch.cat([spectrum, self.vectors[self.turned :]])


def _insert_slots(backbone: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    names = inspect.signature(backbone.forward).parameters
    return (), backbone.get_submodule("prompt")(dict(zip(names, inputs, strict=False)) | named)


def _remove_slots(backbone: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    slots: Any = backbone.get_submodule("prompt")
    return slots.remove(output)


def _replace_embeddings(site: nn.Module, inputs: tuple[Any, ...], embeddings: Tensor) -> Tensor:
    prompted: Tensor = site.get_submodule("prompt")(embeddings)
    return prompted


def _replace_states(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return layer.get_submodule("prompt")(inputs[0]), *inputs[1:]


class Prompt(TuningMethod):
    """Inject a prompt at the embeddings, and with `deep` at every layer."""

    starts_pretrained = False

    def __init__(self, *, length: int = YAML, place: str = YAML, deep: bool = YAML) -> None:
        self.length, self.place, self.deep = length, place, deep
        self.positions = length  # that the prompt takes of the backbone's

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the prompt.

        Raises:
            UserError: if the place is unknown, the backbone has not enough positions, its head
                would average over the prompt, or `deep` finds a single layer.
        """
        config: Any = backbone.config
        limit = sites.positions
        self._check(config, sites, limit)
        start = 0 if sites.decoder else PLACES[self.place]
        slots = PromptSlots(
            start=start,
            length=self.length,
            limit=limit,
            filler=1 if config.pad_token_id == 0 else 0,
            stays=start == 0 and not sites.decoder,
        )
        stack = sites["stack"][0].module if "stack" in sites else backbone
        surgery.attach_around(stack, "prompt", slots, _insert_slots, _remove_slots)
        (words,) = sites["word_embeddings"]
        vectors = self._made_of(_some_words(words.module, self.length), start)
        surgery.attach(words.module, "prompt", vectors, _replace_embeddings)
        for site in sites["layer"] if self.deep else ():
            if site.layer == 0:  # whose input has the prompt that stands at the embeddings
                continue
            deep = torch.empty(self.length, sites.hidden_size).normal_(std=0.02)
            surgery.attach_before(
                site.module, "prompt", self._made_of(deep, start), _replace_states
            )

    def _made_of(self, vectors: Tensor, start: int) -> PromptVectors:
        return PromptVectors(vectors, start)

    def _check(self, config: Any, sites: Sites, limit: int) -> None:
        if self.place not in PLACES:
            raise UserError(f"method.place={self.place} is unknown; {nearest(self.place, PLACES)}")
        if not 1 <= self.length < limit:
            raise UserError(
                f"method.length={self.length} must lie in [1, {limit - 1}], "
                f"{sites.architecture} having {limit} positions"
            )
        if self.place == "front" and getattr(config, "classifier_pooling", "cls") == "mean":
            raise UserError(
                f"method.place=front does not fit {sites.architecture}, whose head averages over "
                "the text; use method.place=after_cls"
            )
        if self.deep and sites.n_layers == 1:
            raise UserError(
                f"method.deep=true needs layers with weights of their own; {sites.architecture} "
                "has one; use method.deep=false"
            )


class FourierPrompt(Prompt):
    """Inject a prompt of which a share is Fourier transformed."""

    yaml = "vfpt"

    def __init__(
        self, *, length: int = YAML, place: str = YAML, deep: bool = YAML, fourier: float = YAML
    ) -> None:
        super().__init__(length=length, place=place, deep=deep)
        self.turned = int(fourier * length)
        require(
            0 < self.turned <= length,
            f"method.fourier={fourier:g} must be a share in (0, 1] of method.length={length} that "
            "holds a vector",
        )

    def _made_of(self, vectors: Tensor, start: int) -> PromptVectors:
        return FourierVectors(vectors, start, turned=self.turned)


def _some_words(embedding: Any, count: int) -> Tensor:
    """Embeddings of random words, away from the special rows at the vocabulary's two ends."""
    weight = embedding.weight.detach()
    margin = len(weight) // 20
    rows = torch.randint(margin, len(weight) - margin, (count,), device="cpu")
    words: Tensor = weight[rows.to(weight.device)].clone()
    return words
