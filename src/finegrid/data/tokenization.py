"""Tokenise texts into flat arrays of token ids, cached on disk and memory-mapped by later runs.

A cache entry holds one split as a run uses it, not the full table, so that a run on a hundredth of
a large table does not wait for the rest. Its key is a hash of the texts, the tokenizer, the longest
length and the libraries' versions: methods, seeds and sweeps share an entry.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers

from finegrid.storage import cache, hub, paths
from finegrid.storage.cache import Array

FORMAT = 2  # of an entry
FIELDS = {"input_ids": np.int32, "token_type_ids": np.uint8}


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows end to end; row i lies from `offsets[i]` to `offsets[i + 1]` in each field."""

    fields: dict[str, Array]  # input_ids and, if the tokenizer gives them, token_type_ids
    offsets: Array
    padding: int  # the token id
    unknown: int = -1  # the token id; -1: there is none

    def without_types(self) -> "Tokens":
        """The same for a model that tells no first text from a second."""
        fields = {name: flat for name, flat in self.fields.items() if name != "token_type_ids"}
        return replace(self, fields=fields)

    @property
    def unknown_share(self) -> float:
        """How much of the texts the tokenizer could not read."""
        ids = self.fields["input_ids"]
        return float((ids == self.unknown).mean()) if len(ids) else 0.0


class Tokeniser:
    """A model's way from texts to tokens; its tokenizer is loaded when texts are new."""

    def __init__(
        self, model: str, revision: str, *, max_length: int, load: Callable[[], Any]
    ) -> None:
        """`model` is a folder or a hub id; `load` refuses a `max_length` that it cannot read."""
        self.model, self.revision, self.max_length, self.load = model, revision, max_length, load

    def __call__(self, texts: Sequence[list[str]]) -> Tokens:
        """The tokens of rows of one or two texts, one list a column."""
        source = identity(self.model, self.revision)
        if source is None:
            return self._encoded(texts)
        path = cache.place(f"tokens/{_key(texts, source, self.max_length)}")
        if stored := cache.read(path):
            fields = {name: stored[name] for name in FIELDS if name in stored}
            return Tokens(fields, stored["offsets"], *map(int, stored["special"]))
        new = self._encoded(texts)
        special = np.asarray([new.padding, new.unknown])
        cache.keep(path, {**new.fields, "offsets": new.offsets, "special": special})
        return new

    def _encoded(self, texts: Sequence[list[str]]) -> Tokens:
        return encode(texts, self._tokenizer, self.max_length)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.load()


def identity(model: str, revision: str) -> str | None:
    """What tells a model's tokenizer from others: hash of its files, or its commit on the hub.

    None before anything of it was downloaded: a revision such as `main` may be another one by then.
    """
    folder = Path(model)
    if folder.is_dir():
        return paths.digest(paths.tokenizer_files(folder))
    commit = hub.commit(model, revision)
    return commit and f"hub {model}@{commit}"


def encode(texts: Sequence[list[str]], tokenizer: Any, max_length: int) -> Tokens:
    """Tokenise rows of one or two texts, each row cut to `max_length`."""
    encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
    offsets = np.cumsum([0, *map(len, encoded["input_ids"])])
    fields: dict[str, Array] = {
        name: np.fromiter(chain.from_iterable(encoded[name]), kind, count=offsets[-1])
        for name, kind in FIELDS.items()
        if name in encoded
    }
    unknown = getattr(tokenizer, "unk_token_id", None)
    return Tokens(fields, offsets, padding_of(tokenizer), -1 if unknown is None else int(unknown))


def padding_of(tokenizer: Any) -> int:
    """The id that fills a row up, which the mask alone tells from text: eos where none is named."""
    named = (tokenizer.pad_token_id, getattr(tokenizer, "eos_token_id", None))
    return int(next((one for one in named if one is not None), 0))


def _key(texts: Sequence[list[str]], source: str, max_length: int) -> str:
    """Hash of all that decides the tokens."""
    versions = [tokenizers.__version__, transformers.__version__, FORMAT]
    about = json.dumps([source, max_length, versions, len(texts)])
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for column in texts:
        digest.update(np.asarray([len(column), *map(len, column)]).data)  # where each text ends
        digest.update("".join(column).encode())
    return digest.hexdigest()
