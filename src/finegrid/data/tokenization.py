"""Tokenise texts into flat arrays of token ids, cached on disk and memory-mapped by later runs.

A cache entry holds one split as a run uses it, not the full table, so that a run on a hundredth of
a large table does not wait for the rest. Its key is a hash of the texts, the tokenizer, the longest
length, what the task's kind adds to them and the libraries' versions: methods, seeds and sweeps
share an entry.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
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
from finegrid.tasks.modules.encoding import plain_encoding
from finegrid.tasks.modules.reader import Reader

FORMAT = 3  # of an entry
FIELDS: dict[str, type] = {
    "input_ids": np.int32,
    "token_type_ids": np.uint8,
    "labels": np.int32,
    "option": np.uint8,  # these two are of choices
    "characters": np.int32,
}
# What tokenizers treat unlike each other: case, accents, numbers, punctuation, spaces, scripts
PROBE = "It's  2,026 Naïve CAFÉS -- don't\tpre-train\n漢字 и \u200b🙂 [MASK]"


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows end to end; row i lies from `offsets[i]` to `offsets[i + 1]` in each field."""

    fields: dict[str, Array]  # input_ids and, where there are any, token_type_ids and labels
    offsets: Array
    padding: int  # the token id
    unknown: int = -1  # the token id; -1: there is none
    truncated: int = 0  # rows that were cut

    def without_types(self) -> "Tokens":
        """The same for a model that tells no first text from a second."""
        fields = {name: flat for name, flat in self.fields.items() if name != "token_type_ids"}
        return replace(self, fields=fields)

    def take(self, index: Array) -> "Tokens":
        """The rows at these positions, in this order."""
        lengths = np.diff(self.offsets)[index]
        offsets = np.cumsum([0, *lengths])
        shift = np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        places = np.arange(offsets[-1]) + shift
        fields = {name: flat[places] for name, flat in self.fields.items()}
        return replace(self, fields=fields, offsets=offsets)

    def joined(self, other: "Tokens") -> "Tokens":
        """These rows and those of another, in this order."""
        fields = {k: np.concatenate([flat, other.fields[k]]) for k, flat in self.fields.items()}
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return replace(self, fields=fields, offsets=offsets)

    @property
    def unknown_share(self) -> float:
        """How much of the texts the tokenizer could not read."""
        ids = self.fields["input_ids"]
        return float((ids == self.unknown).mean()) if len(ids) else 0.0


class Tokeniser:
    """A model's way from texts to tokens; its tokenizer is loaded when texts are new."""

    def __init__(
        self,
        model: str,
        revision: str,
        *,
        max_length: int,
        load: Callable[[], Any],
        task: Reader | None = None,
        decoder: bool = False,
        separator: str | None = None,
        chat_template: str = "none",
    ) -> None:
        """`model` is a folder or a hub id; `load` refuses a `max_length` that it cannot read.

        `task` decides how a row becomes tokens, on a causal decoder or on an encoder; None: as
        texts alone. `separator` is what the tokenizer puts between two texts, where that is a
        setting; with `chat_template=own` it makes a row a user's turn.
        """
        self.model, self.revision, self.max_length, self.load = model, revision, max_length, load
        self.task, self.decoder = task, decoder
        self.separator, self.chat_template = separator, chat_template

    def __call__(
        self, texts: Sequence[list[Any]], labels: Array | None = None, *, train: bool = False
    ) -> Tokens:
        """The tokens of rows of one or two texts, one list a column, and of their labels."""
        source = identity(self.model, self.revision)
        if source is None:
            return self._encoded(texts, labels, train)
        if self.separator is not None:
            source += f" separated by {self.separator!r}"
        if self.chat_template != "none":
            source += f" in the {self.chat_template} chat template"
        path = cache.place(f"tokens/{self._key(texts, labels, source, train)}")
        if stored := cache.read(path):
            fields = {name: stored[name] for name in FIELDS if name in stored}
            return Tokens(fields, stored["offsets"], *map(int, stored["special"]))
        new = self._encoded(texts, labels, train)
        special = np.asarray([new.padding, new.unknown, new.truncated])
        cache.keep(path, {**new.fields, "offsets": new.offsets, "special": special})
        return new

    def _key(
        self, texts: Sequence[list[Any]], labels: Array | None, source: str, train: bool
    ) -> str:
        about = self.task.encoding(self.decoder) if self.task else {}
        about |= {"train": True} if about and train else {}
        return _key(texts, labels if about else None, source, self.max_length, about)

    def _encoded(self, texts: Sequence[list[Any]], labels: Array | None, train: bool) -> Tokens:
        return encode(
            texts,
            self.tokenizer,
            self.max_length,
            task=self.task,
            labels=labels,
            decoder=self.decoder,
            train=train,
        )

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
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


def fingerprint(model: str, revision: str, load: Callable[[], Any]) -> str:
    """Hash of a tokenizer's vocabulary and of what a text becomes: copies have the same.

    `load` gives the tokenizer; it is called once for the same files.
    """
    source = identity(model, revision)
    name = hashlib.blake2b(json.dumps([source, FORMAT]).encode(), digest_size=16).hexdigest()
    path = cache.place(f"tokenizers/{name}") if source else None
    if path and (stored := cache.read(path)):
        return bytes(stored["fingerprint"]).hex()
    tokenizer = load()
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    about = json.dumps([sorted(tokenizer.get_vocab().items()), list(ids)])
    digest = hashlib.blake2b(about.encode(), digest_size=8).digest()
    if path:
        cache.keep(path, {"fingerprint": np.frombuffer(digest, np.uint8)})
    return digest.hex()


def encode(
    texts: Sequence[Sequence[Any]],
    tokenizer: Any,
    max_length: int,
    *,
    task: Reader | None = None,
    labels: Array | None = None,
    decoder: bool = False,
    train: bool = False,
) -> Tokens:
    """Tokenise rows of one or two texts, each row cut to `max_length`, as their task says."""
    encoded: Any
    if task is None:
        encoded = plain_encoding(texts, tokenizer, max_length)
    else:
        labels = task.unknown_labels(texts) if labels is None else labels
        encoded = task.encode(
            texts, labels, tokenizer, max_length=max_length, decoder=decoder, train=train
        )
    offsets = np.cumsum([0, *map(len, encoded["input_ids"])])
    fields: dict[str, Array] = {
        name: np.fromiter(chain.from_iterable(encoded[name]), kind, count=offsets[-1])
        for name, kind in FIELDS.items()
        if name in encoded
    }
    unknown = getattr(tokenizer, "unk_token_id", None)
    return Tokens(
        fields,
        offsets,
        padding_of(tokenizer),
        -1 if unknown is None else int(unknown),
        encoded["truncated"] if "truncated" in encoded else _cut(encoded, texts, max_length),
    )


def padding_of(tokenizer: Any) -> int:
    """The id that fills a row up, which the mask alone tells from text: eos where none is named."""
    named = (tokenizer.pad_token_id, getattr(tokenizer, "eos_token_id", None))
    return int(next((one for one in named if one is not None), 0))


def _cut(encoded: Any, texts: Sequence[Sequence[Any]], max_length: int) -> int:
    """How many rows were longer; a tokenizer in Python keeps no account, so as many as are full."""
    full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) >= max_length]
    parts = getattr(encoded, "encodings", None)
    return sum(bool(parts[row].overflowing) for row in full) if parts else len(full)


def _key(
    texts: Sequence[list[Any]],
    labels: Array | None,
    source: str,
    max_length: int,
    encoding: Mapping[str, Any],
) -> str:
    """Hash of all that decides the tokens."""
    versions = [tokenizers.__version__, transformers.__version__, FORMAT]
    about = json.dumps(
        [source, max_length, versions, len(texts), *([encoding] if encoding else [])]
    )
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    more = [] if labels is None else [labels.tolist()]
    for column in (*texts, *more):
        rows = [row if isinstance(row, str) else json.dumps(row) for row in column]
        digest.update(np.asarray([len(rows), *map(len, rows)]).data)  # where each text ends
        digest.update("".join(rows).encode())
    return digest.hexdigest()
