"""Tagging: each word of a row has a tag of the scheme IOB2; one logit a tag and word.

A word is read at its first sub-token on an encoder and at its last on a causal decoder, which has
not read the rest of it before. Words that are cut off by `model.max_length` are tagged O: entities
in them count as missed.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from finegrid.errors import UserError, require, shown
from finegrid.tasks.modules.names import listed
from finegrid.tasks.modules.reader import NO_LABEL
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

OUTSIDE = "O"
DROPPED = "?"  # what a word is read as of which the tokenizer keeps nothing, such as a control mark
Entity = tuple[str, int, int]  # type, first word, last word


@dataclass
class Tagging(Task):
    """A tag for each word: cross-entropy over words; F1 of whole entities by seqeval, strict."""

    CLASSES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall")
    USUAL: ClassVar[tuple[str, ...]] = ("entity_f1",)
    AUTO_CLASS: ClassVar[str] = "AutoModelForTokenClassification"
    PROBLEM_TYPE: ClassVar[str | None] = None
    PEFT_TYPE: ClassVar[str] = "TOKEN_CLS"
    NESTED: ClassVar[tuple[str, ...]] = ("text", "label")
    EVERY_CLASS: ClassVar[bool] = False
    ONE_STATE: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.text) == 1, f"task.text={self.text} must name one column, of words")
        require(self.positive is None, "task.positive is for F1 of one class; tagging has many")
        for tag in self.labels:
            require(_is_tag(tag), f"task.labels: {shown(tag)} is neither O nor B-... nor I-...")
        once = len(set(self.labels)) == len(self.labels)
        require(
            not self.labels or (once and OUTSIDE in self.labels),
            f"task.labels={self.labels} must name O and the other tags, each once",
        )

    def with_labels_of(self, values: Sequence[Any], where: str) -> Self:
        """The task with O and, for each type of entity in the rows, B- and I-."""
        types = set()
        for row, value in enumerate(values, start=1):
            for tag in _tags(value, f"{where}, row {row}"):
                require(
                    not tag.isdigit(),
                    f"{where}, row {row}: tags are numbers; name them with task.labels=[O,B-...]",
                )
                _require_tag(tag, f"{where}, row {row}")
                types.add(tag[2:])
        types.discard("")
        require(bool(types), f"{where}: column {self.label!r} holds no entity, only {OUTSIDE}")
        return self.named([OUTSIDE, *(f"{x}-{name}" for name in sorted(types) for x in "BI")])

    def read_text(self, name: str, values: Sequence[Any], where: str) -> list[tuple[str, ...]]:
        """The words of each row, from a list or a text with spaces between."""
        rows = []
        for row, value in enumerate(values, start=1):
            words = value.split() if isinstance(value, str) else value
            fits = isinstance(words, list) and len(words) > 0
            require(fits, f"{where}, row {row}: column {name!r} holds no words ({value!r:.40})")
            for number, word in enumerate(words, start=1):
                good = isinstance(word, str) and word.strip()
                require(
                    bool(good),
                    f"{where}, row {row}: word {number} is empty or no text ({word!r:.40})",
                )
            rows.append(tuple(words))
        return rows

    def read_labels(self, values: Sequence[Any], where: str, *, typed: bool) -> "Array":
        """N lists of tag numbers, from names or numbers."""
        number = {tag: place for place, tag in enumerate(self.labels)}
        number = {str(place): place for place in range(self.outputs)} | number
        labels = np.empty(len(values), dtype=object)
        for row, value in enumerate(values):
            tags = _tags(value, place := f"{where}, row {row + 1}")
            for tag in tags:
                if tag not in number:
                    self._refuse(tag, place)
            labels[row] = [number[tag] for tag in tags]
            self._require_iob2([self.labels[tag] for tag in labels[row]], place)
        return labels

    def _refuse(self, tag: str, where: str) -> None:
        raise UserError(f"{where}: tag {shown(tag)} must be one of {listed(self.labels)}")

    def _require_iob2(self, tags: Sequence[str], where: str) -> None:
        for number, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False), start=1):
            require(
                not tag.startswith("I-") or before[2:] == tag[2:],
                f"{where}: word {number} is {tag} after {before}; in IOB2 an entity begins with "
                f"B-{tag[2:]}",
            )

    def check_rows(self, texts: Sequence[Sequence[Any]], labels: "Array", where: str) -> None:
        """Refuse a row that has not a tag for each word."""
        for row, (words, tags) in enumerate(zip(texts[0], labels, strict=True), start=1):
            require(
                len(words) == len(tags),
                f"{where}, row {row}: {len(words)} words in column {self.text[0]!r} and "
                f"{len(tags)} tags in column {self.label!r}",
            )

    def unknown_labels(self, texts: Sequence[Sequence[Any]]) -> "Array":
        """A list of zeros for each row, one a word."""
        labels = np.empty(len(texts[0]), dtype=object)
        labels[:] = [[0] * len(words) for words in texts[0]]
        return labels

    def strata(self, labels: "Array") -> "Array":
        """The rarest type of a row's entities, by the rows that have it."""
        types = [{self.labels[tag][2:] for tag in row} - {""} for row in labels]
        counts = Counter(name for row in types for name in row)
        ranked = sorted(counts, key=lambda name: (counts[name], name))
        rank = {name: place for place, name in enumerate(ranked)}
        return np.asarray([min((rank[name] for name in row), default=len(rank)) for row in types])

    def class_counts(self, labels: "Array") -> Counter[int]:
        """Tag that an entity begins with -> rows that have it."""
        every = Counter(tag for row in labels for tag in set(row))
        return Counter({tag: every[tag] for tag in every if self.labels[tag].startswith("B-")})

    def encoding(self, decoder: bool) -> dict[str, Any]:
        """Where a word is read."""
        return {"words": "last" if decoder else "first"}

    def encode(
        self,
        texts: Sequence[Sequence[Any]],
        labels: "Array",
        tokenizer: Any,
        *,
        max_length: int,
        decoder: bool,
        train: bool,
    ) -> Mapping[str, Any]:
        """Tokens of the words with a space between; `labels` where a word is read."""
        require(
            tokenizer.is_fast,
            "tagging needs a tokenizer that tells where tokens lie in a text (tokenizer.json)",
        )
        rows = [list(words) for words in texts[0]]
        encoded, places = _located(rows, tokenizer, max_length, last=decoder)
        lacking = False
        for words, at in zip(rows, places, strict=True):
            for number in range(max(at, default=-1)):
                if number not in at:
                    words[number], lacking = DROPPED, True
        if lacking:
            encoded, places = _located(rows, tokenizer, max_length, last=decoder)
        encoded["labels"] = [
            _at_tokens(tags, at, len(ids))
            for tags, at, ids in zip(labels, places, encoded["input_ids"], strict=True)
        ]
        return encoded  # type: ignore[no-any-return]

    def collate(self, labels: "Array") -> "Array":
        """The lists themselves; a batch holds the tags of its tokens."""
        return labels

    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Cross-entropy, the mean over words."""
        from torch.nn import functional

        total = functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum"
        )
        return total / max(1, self.loss_terms(labels))

    def loss_terms(self, labels: "Tensor") -> int:
        """The number of words."""
        return int((labels != NO_LABEL).sum())

    def collect(self, logits: "Tensor", batch: Mapping[str, Any]) -> list["Tensor"]:
        """The logits of each row's words: W C."""
        kept = (batch["labels"] != NO_LABEL).cpu()
        return [one[words].clone() for one, words in zip(logits.cpu(), kept, strict=True)]

    def complete(self, outputs: list["Tensor"], labels: "Array") -> list["Tensor"]:
        """W C of all of a row's words, those that were cut off with a logit of 1 for O alone."""
        import torch

        outside = torch.zeros(1, self.outputs)
        outside[0, self.labels.index(OUTSIDE)] = 1.0
        return [
            torch.cat([one, outside.expand(len(tags) - len(one), -1)])
            for one, tags in zip(outputs, labels, strict=True)
        ]

    def loss_of_all(self, outputs: list["Tensor"], labels: "Array") -> float:
        """Mean loss over all words."""
        import torch

        tags = torch.tensor([tag for row in labels for tag in row])
        return float(self.loss(torch.cat(outputs)[None], tags[None]))

    def predictions(self, outputs: list["Tensor"]) -> list[list[int]]:
        """The tag with the largest logit, by word."""
        return [one.argmax(-1).tolist() for one in outputs]

    def written(self, predicted: Any) -> list[list[str]]:
        """The tags' names."""
        return [[self.labels[tag] for tag in row] for row in predicted]

    @property
    def scored(self) -> list[str]:
        """None: a row has a score for each word."""
        return []

    def chances(self, outputs: list["Tensor"]) -> dict[str, list[float]]:
        """None: a row has probabilities for each word."""
        return {}

    def table(self, outputs: list["Tensor"], labels: "Array") -> dict[str, Any]:
        """The tags of each row's words, gold and predicted, and the words' logits."""
        import pyarrow as pa

        tags = pa.list_(pa.string())
        return {
            "label": pa.array(self.written(labels), tags),
            "prediction": pa.array(self.written(self.predictions(outputs)), tags),
            "scores": pa.array([one.tolist() for one in outputs], pa.list_(pa.list_(pa.float64()))),
        }

    def statistics(self, outputs: list["Tensor"], labels: "Array") -> dict[str, "Array"]:
        """Of each row's entities: predicted and gold, predicted, gold."""
        pairs = zip(self.written(self.predictions(outputs)), self.written(labels), strict=True)
        counts = [(set(entities(ours)), set(entities(gold))) for ours, gold in pairs]
        return {
            "entities": np.asarray(
                [(len(ours & gold), len(ours), len(gold)) for ours, gold in counts], dtype=np.int16
            )
        }

    def metric(self, name: str, predicted: Any, labels: Any) -> float:
        """By seqeval: an entity counts if its type, its first and its last word are right."""
        from seqeval import metrics
        from seqeval.scheme import IOB2

        score = getattr(metrics, f"{name.removeprefix('entity_')}_score")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of no entity at all, which scores 0
            return float(score(labels, predicted, mode="strict", scheme=IOB2))

    def score(self, outputs: list["Tensor"], labels: "Array") -> dict[str, float]:
        """Every metric over the full set."""
        predicted, gold = self.written(self.predictions(outputs)), self.written(labels)
        return self.with_mean({name: self.metric(name, predicted, gold) for name in self.metrics})

    def degenerate(self, outputs: list["Tensor"]) -> bool:
        """Whether all words have one tag."""
        return len({tag for row in self.predictions(outputs) for tag in row}) == 1


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of a row by IOB2, strictly: B-x and the I-x that follow; other I- are none."""
    start, name = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        if name and tag != f"I-{name}":
            yield name, start, place - 1
            name = ""
        if tag.startswith("B-"):
            start, name = place, tag[2:]


def _located(
    rows: Sequence[Sequence[str]], tokenizer: Any, max_length: int, *, last: bool
) -> tuple[Any, list[dict[int, int]]]:
    """Tokens of rows of words, and for each row: word -> its first token, or its last."""
    encoded = tokenizer(
        [" ".join(words) for words in rows],
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_offsets_mapping=True,
    )
    places = []
    for words, offsets in zip(rows, encoded["offset_mapping"], strict=True):
        ends = np.cumsum([len(word) + 1 for word in words])
        at: dict[int, int] = {}
        for token, (start, stop) in enumerate(offsets):
            if stop > start:  # not a special token
                word = int(np.searchsorted(ends, stop - 1, side="right"))
                at[word] = token if last else at.get(word, token)
        places.append(at)
    return encoded, places


def _at_tokens(tags: Sequence[int], places: Mapping[int, int], length: int) -> list[int]:
    """The tags of words as tags of tokens."""
    labels = [NO_LABEL] * length
    for word, token in places.items():
        labels[token] = tags[word]
    return labels


def _tags(value: Any, where: str) -> list[str]:
    """The tags of a row as text, from a list or a text with spaces between."""
    require(value is not None, f"{where}: tags are missing")
    tags = value.split() if isinstance(value, str) else value
    require(isinstance(tags, list), f"{where}: tags {value!r:.40} are no list")
    for number, tag in enumerate(tags, start=1):
        good = isinstance(tag, str) or type(tag) is int
        require(good, f"{where}: tag {number} must be a name or a number, not {tag!r:.40}")
    return list(map(str, tags))


def _is_tag(tag: str) -> bool:
    return tag == OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def _require_tag(tag: str, where: str) -> None:
    require(_is_tag(tag), f"{where}: tag {shown(tag)} is neither O nor B-... nor I-... (IOB2)")
