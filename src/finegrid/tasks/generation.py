"""Generation: a text in, a text out, by a causal decoder's language-model head.

The model reads the prompt that `template` makes of the source and trains on the tokens of the
target and of the end behind it alone. Texts are generated greedily, in batches of prompts of
similar length, until the end or `max_new_tokens`. Rows with the same source are one unit: they are
split together, and outside training are one generation with all their targets as references.

Metrics are shares from 0 to 1: `exact_match` of any reference (where `answer_after` names a mark,
of what follows it), corpus `bleu` with all references, `rouge_l` of the closest one, and
`slot_accuracy`, 1 - the slot error rate: of JSON by its slots, of a text by those of the meaning
that its source is (`modules/slots`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from finegrid.errors import one_of, require, shown
from finegrid.tasks.modules import language_model, prompts, slots, text_metrics
from finegrid.tasks.modules.reader import NO_LABEL
from finegrid.tasks.task import Batch, Forward, GetTokenizer, Task

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]


SLOTS = "slot_accuracy"


class References(tuple[str, ...]):
    """The references of a unit, and the source that they tell."""

    source: str = ""


@dataclass
class Generation(Task):
    """A text for a text: cross-entropy of the target's tokens; match, BLEU, ROUGE-L, slots."""

    template: str = "{text}\n"  # what the target follows: at once behind a space or a line's end
    max_new_tokens: int = 64
    slots: str | None = None  # column of the tags of `word_lists`: targets are JSON of label, slots
    aligner: str = ""  # of the slots of a source such as `food[English]` in a text: e2e
    answer_after: str = ""  # a mark in the targets; exact_match reads what follows its last one

    METRICS: ClassVar[tuple[str, ...]] = ("exact_match", "bleu", "rouge_l", SLOTS)
    USUAL: ClassVar[tuple[str, ...]] = METRICS[:-1]
    PROBLEM_TYPE: ClassVar[str | None] = None
    CLASSES_BY_NAME: ClassVar[bool] = True
    FUSES: ClassVar[bool] = False
    ONE_STATE: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.text) == 1, f"task.text={self.text} must name the column of the sources")
        require(self.positive is None, "task.positive names a class; generation has none")
        require(not self.labels, f"task.labels={self.labels} names classes; generation has none")
        require(
            self.max_new_tokens > 0, f"task.max_new_tokens={self.max_new_tokens} must be above 0"
        )
        require(
            self.slots is None or self.word_lists,
            f"task.slots={self.slots} holds tags of words: add task.word_lists=true",
        )
        if self.aligner:
            one_of("task.aligner", self.aligner, tuple(slots.ALIGNERS))
        require(
            SLOTS not in self.metrics or bool(self.slots or self.aligner),
            f"task.metrics={self.metrics}: {SLOTS} needs slots; add task.aligner=e2e for sources "
            "such as `food[English]`, or task.slots for targets that are JSON",
        )
        prompts.check_template(self.template)

    def nested(self, column: str) -> bool:
        """Of words and their tags."""
        return column == self.slots or super().nested(column)

    @property
    def new_tokens(self) -> int:
        """Tokens of a generated text, at most."""
        return self.max_new_tokens

    def auto_class(self, decoder: bool) -> str:
        """The language-model head of a decoder.

        Raises:
            UserError: for an encoder.
        """
        require(
            decoder,
            "task.kind=generation needs a causal decoder, such as model=smollm2-135m; an encoder "
            "cannot generate text",
        )
        return "AutoModelForCausalLM"

    def read_labels(self, values: Sequence[Any], where: str, *, typed: bool) -> "Array":
        """The target of each of N rows."""
        targets = []
        for row, value in enumerate(values, start=1):
            place = f"{where}, row {row}: column {self.label!r}"
            if self.slots is not None:
                label, *lists = value
                value = label and _json(label, *lists, where=f"{where}, row {row}")
            require(value is not None and bool(str(value).strip()), f"{place}: target is missing")
            require(isinstance(value, str), f"{place} holds {shown(json.dumps(value))}, no text")
            targets.append(value.strip())
        return _objects(targets)

    @property
    def label_columns(self) -> list[str]:
        """The targets or, with slots, the label, the words and their tags."""
        return [self.label, *([] if self.slots is None else [*self.text, self.slots])]

    def unknown_labels(self, texts: Sequence[Sequence[Any]]) -> "Array":
        """No references."""
        return _objects([()] * len(texts[0]))

    def units(self, texts: Sequence[Sequence[Any]], labels: "Array") -> tuple[list[int], "Array"]:
        """The first row of each source, and all targets of each as `References`."""
        rows_of: dict[Any, list[int]] = {}
        for row, text in enumerate(zip(*texts, strict=True)):
            rows_of.setdefault(text, []).append(row)
        merged = [References(labels[row] for row in rows) for rows in rows_of.values()]
        for one, (source, *_) in zip(merged, rows_of, strict=True):
            one.source = source
        return [rows[0] for rows in rows_of.values()], _objects(merged)

    def training_rows(self, labels: "Array") -> tuple[list[int], "Array"]:
        """A row for each target of each unit: the unit's number, and the target alone."""
        pairs = [(unit, target) for unit, targets in enumerate(labels) for target in targets]
        return [unit for unit, _ in pairs], _objects([target for _, target in pairs])

    def strata(self, labels: "Array") -> "Array":
        """One stratum."""
        return np.zeros(len(labels), dtype=np.int64)

    def collate(self, labels: "Array") -> Any:
        """The references, or targets, of some rows."""
        return labels.tolist()

    def encoding(self, decoder: bool) -> dict[str, Any]:
        """The kind and the template."""
        return {"kind": self.kind, "template": self.template}

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
        """Prompts; to train on, each with its target and the end, whose tokens are the labels."""
        made = [prompts.fill(self.template, text) for text in texts[0]]
        if train:
            space = "" if self.template[-1].isspace() else " "
            follows = [f"{space}{target}" for target in labels]
            end = _end(tokenizer)
            found = prompts.continued(tokenizer, made, follows, max_length=max_length, end=end)
            ids, starts, cut = found.ids, found.starts, found.cut
        else:
            whole = tokenizer([prompt.rstrip() for prompt in made])["input_ids"]
            ids = [one[-max_length:] for one in whole]
            starts, cut = [*map(len, ids)], [len(one) > max_length for one in whole]
        rows = zip(ids, starts, strict=True)
        labelled = [[NO_LABEL] * start + one[start:] for one, start in rows]
        return {"input_ids": ids, "labels": labelled, "truncated": sum(cut)}

    def logits(self, model: Any, batch: Batch, *, forward: Forward) -> "Tensor":
        """K V logits of the K target tokens."""
        return language_model.target_logits(model, batch)

    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Mean cross-entropy of the target tokens, K V logits and B T labels."""
        return language_model.token_loss(logits, labels)

    def loss_of_all(self, outputs: list[str], labels: Any) -> float:
        """Not known of generated texts."""
        return float("nan")

    def loss_terms(self, labels: "Tensor") -> int:
        """Target tokens."""
        return int((labels != NO_LABEL).sum())

    def infer(
        self, model: Any, batch: Batch, *, forward: Forward, tokenizer: GetTokenizer
    ) -> list[str]:
        """The text generated for each prompt."""
        assert tokenizer is not None
        reader = tokenizer()
        ids, mask = language_model.left_padded(batch["input_ids"], batch["attention_mask"])
        end = _end(reader)
        made = language_model.greedy(
            model, ids, mask, most=self.max_new_tokens, end=end, padding=end
        )
        texts: list[str] = reader.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def predictions(self, outputs: list[str]) -> list[str]:
        """The texts."""
        return outputs

    def written(self, predicted: list[str]) -> list[Any]:
        """The texts."""
        return predicted

    def metric(self, name: str, predicted: list[str], labels: Any) -> float:
        """One metric over the full set, from the sums of `statistics`."""
        found = self._statistic(name, predicted, labels)
        if name == SLOTS:
            return slots.accuracy(found)
        return text_metrics.bleu(found) if name == "bleu" else float(found.mean())

    def score(self, outputs: list[str], labels: Any) -> dict[str, float]:
        """Every metric over the full set and, where there are several, their mean."""
        return self.with_mean({name: self.metric(name, outputs, labels) for name in self.metrics})

    def _statistic(self, name: str, texts: list[str], references: Any) -> "Array":
        if name == "bleu":
            return text_metrics.bleu_counts(texts, references)
        if name == "rouge_l":
            return text_metrics.rouge_l(texts, references)
        if name == SLOTS and self.slots:
            return slots.of_jsons(texts, references)
        if name == SLOTS:
            return slots.of_texts(texts, [one.source for one in references], self.aligner)
        return text_metrics.exact(texts, references, read=self._answer)

    def _answer(self, text: str) -> str:
        """What exact_match compares: spaces count as one."""
        return " ".join(
            (text.rpartition(self.answer_after)[2] if self.answer_after else text).split()
        )

    def table(self, outputs: list[str], labels: "Array") -> dict[str, Any]:
        """The references of each unit as its label, its meaning if slots are, and the text."""
        meaning = {"meaning": [known.source for known in labels]} if self.aligner else {}
        return {"label": [list(known) for known in labels], **meaning, "prediction": outputs}

    def statistics(self, outputs: list[str], labels: "Array") -> dict[str, "Array"]:
        """By metric: counts of BLEU, N 10, and of slots, N 4; each row's own score, N 1."""
        found = {name: self._statistic(name, outputs, labels) for name in self.metrics}
        return {name: values.reshape(len(outputs), -1) for name, values in found.items()}

    def degenerate(self, outputs: list[str]) -> bool:
        """Whether all texts are the same."""
        return len({*outputs}) == 1

    def chances(self, outputs: list[str]) -> dict[str, list[float]]:
        """None."""
        return {}


def _json(label: str, words: Any, tags: Any, *, where: str) -> str:
    """A label, and the words of each slot that the tags (IOB2) mark, as JSON."""
    lists = isinstance(words, list) and isinstance(tags, list)
    require(lists and len(words) == len(tags), f"{where}: words and tags must be lists of a length")
    slots: dict[str, list[list[str]]] = {}
    for word, tag in zip(words, tags, strict=True):
        start, _, name = str(tag).partition("-")
        require(
            tag == "O" or (start in ("B", "I") and bool(name)),
            f"{where}: tag {shown(tag)} is neither O nor B-... nor I-...",
        )
        if start == "B" or (start == "I" and name not in slots):
            slots.setdefault(name, []).append([])
        if name:
            slots[name][-1].append(str(word))
    values = {name: [" ".join(part) for part in parts] for name, parts in slots.items()}
    plain = {name: parts[0] if len(parts) == 1 else parts for name, parts in values.items()}
    return json.dumps({"label": label, "slots": plain}, ensure_ascii=False)


def _objects(values: Sequence[Any]) -> "Array":
    """An array of N objects, also where all are tuples of one length."""
    made = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        made[row] = value
    return made


def _end(tokenizer: Any) -> int:
    """The id of the token behind the last of a text."""
    end = tokenizer.eos_token_id
    require(end is not None, "the model's tokenizer has no end-of-text token, which ends a text")
    return int(end)
