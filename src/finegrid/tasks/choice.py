"""Choice: a question with several options, of which one is right; their number may differ.

An encoder reads each option beside its question as a pair of texts and gives it one score; the
softmax is over the options of the question. A causal decoder continues the prompt that `template`
makes of the question: it trains on the tokens of the right option, and chooses by the
log-likelihood of each option's tokens, as lm-eval-harness 0.4.13 defines the metrics of its tasks
arc_easy and openbookqa (`MultipleChoiceTask.process_results`):

    accuracy        argmax_o  sum_t log p(o_t | prompt, o_<t)                  there: acc
    accuracy_norm   argmax_o  sum_t log p(o_t | prompt, o_<t) / characters(o)  there: acc_norm

A space stands between prompt and option; it is no character of the option.

Shapes: B questions, O options of the one that has most, S options of all questions, T tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from finegrid.errors import require
from finegrid.tasks.modules import language_model, prompts
from finegrid.tasks.modules import options as options_of
from finegrid.tasks.modules.encoding import plain_encoding
from finegrid.tasks.modules.reader import NO_LABEL
from finegrid.tasks.task import MEAN, Batch, Forward, GetTokenizer, Task

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Choice(Task):
    """One of several options for each question: softmax over them, or their log-likelihoods."""

    choices: str = "choices"  # column of the options
    template: str = "Question: {text}\nAnswer:"  # a decoder's prompt

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_norm")
    USUAL: ClassVar[tuple[str, ...]] = ("accuracy",)
    PROBLEM_TYPE: ClassVar[str | None] = None
    FUSES: ClassVar[bool] = False
    ONE_STATE: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.text) == 1, f"task.text={self.text} must name the column of the questions")
        require(self.positive is None, "task.positive names a class; a choice has none")
        require(not self.labels, f"task.labels={self.labels} names classes; a choice has none")
        prompts.check_template(self.template)

    @property
    def text_columns(self) -> list[str]:
        """The questions and their options."""
        return [*self.text, self.choices]

    @property
    def label_columns(self) -> list[str]:
        """The right answers, and the options that they are among."""
        return [self.label, self.choices]

    def nested(self, column: str) -> bool:
        """Of the options alone."""
        return column == self.choices

    def auto_class(self, decoder: bool) -> str:
        """A head with one output on an encoder, the language-model head of a decoder.

        Raises:
            UserError: if the options of an encoder are to be ranked by likelihoods.
        """
        require(
            decoder or self.headline not in (MEAN, "accuracy_norm"),
            f"task.headline={self.headline} needs the likelihoods that a decoder gives the options;"
            " on an encoder set task.headline=accuracy",
        )
        return "AutoModelForCausalLM" if decoder else self.AUTO_CLASS

    def read_text(self, name: str, values: Sequence[Any], where: str) -> list[Any]:
        """Questions as texts, options as tuples of texts."""
        if name == self.choices:
            return [options for options, _ in options_of.rows(values, name, where)]
        return super().read_text(name, values, where)

    def read_labels(self, values: Sequence[Any], where: str, *, typed: bool) -> "Array":
        """The place of the right option in each of N rows, from 0 on.

        An answer is one of the names that the options have (`label`); where they have none, all
        answers are an option's text, or its letter (A, B, ..), or its place from 0 on.
        """
        answers, columns = zip(*values, strict=True)
        rows = options_of.rows(columns, self.choices, where)
        return np.asarray(options_of.places(answers, rows, self.label, where), dtype=np.int64)

    def encoding(self, decoder: bool) -> dict[str, Any]:
        """The kind, and of a decoder the template."""
        return {"kind": self.kind} | ({"template": self.template} if decoder else {})

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
        """A question's options one after the other, each with what stands before it.

        `option` numbers the tokens by option, from 1 on; `characters` of a decoder is 0 at the
        prompt and the option's length elsewhere. A decoder trains on the right option alone, whose
        tokens are the labels.
        """
        questions, options = texts
        if decoder and train:
            rows = zip(options, labels.tolist(), strict=True)
            options = [(choices[place],) for choices, place in rows]
        counts = [len(choices) for choices in options]
        beside = [q for q, n in zip(questions, counts, strict=True) for _ in range(n)]
        flat = list(chain.from_iterable(options))
        fields, cut = (
            self._continued(beside, flat, tokenizer, max_length, train=train)
            if decoder
            else _pairs(beside, flat, tokenizer, max_length)
        )
        if not (decoder and train):
            numbers = chain.from_iterable(range(1, n + 1) for n in counts)
            ids = fields["input_ids"]
            fields["option"] = [[n] * len(one) for n, one in zip(numbers, ids, strict=True)]
        return {name: _joined(parts, counts) for name, parts in fields.items()} | {
            "truncated": sum(map(any, _grouped(cut, counts)))
        }

    def _continued(
        self, questions: list[str], options: list[str], tokenizer: Any, length: int, *, train: bool
    ) -> tuple[dict[str, list[list[int]]], list[bool]]:
        """Fields of each prompt with one option, and whether it was cut."""
        made = prompts.continued(
            tokenizer,
            [prompts.fill(self.template, question) for question in questions],
            [f" {option}" for option in options],
            max_length=length,
        )
        rows = zip(made.ids, made.starts, options, strict=True)
        if train:
            labels = [[NO_LABEL] * start + ids[start:] for ids, start, _ in rows]
            return {"input_ids": made.ids, "labels": labels}, made.cut
        long = [[0] * start + [len(text)] * (len(ids) - start) for ids, start, text in rows]
        return {"input_ids": made.ids, "characters": long}, made.cut

    def logits(self, model: Any, batch: Batch, *, forward: Forward) -> "Tensor":
        """B O scores, -inf where a question has fewer options; or (K, V) of K target tokens."""
        if "option" not in batch:
            return language_model.target_logits(model, batch)
        inputs, present = _sequences(batch)
        return _by_question(forward(model, inputs)[:, 0], present)

    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Cross-entropy of the right option, or of its tokens."""
        from torch.nn import functional

        if labels.ndim == 2:
            return language_model.token_loss(logits, labels)
        return functional.cross_entropy(logits, labels)

    def loss_of_all(self, outputs: list["Array"], labels: "Tensor") -> float:
        """Cross-entropy of the right options; of a decoder their mean negative log-likelihood."""
        places = labels.tolist()
        right = [row[0][place] for row, place in zip(outputs, places, strict=True)]
        if len(outputs[0]) == 1:
            right = [
                value - np.logaddexp.reduce(row[0])
                for value, row in zip(right, outputs, strict=True)
            ]
        return -float(np.mean(right))

    def loss_terms(self, labels: "Tensor") -> int:
        """Questions, or target tokens."""
        return len(labels) if labels.ndim == 1 else int((labels != NO_LABEL).sum())

    def infer(
        self, model: Any, batch: Batch, *, forward: Forward, tokenizer: GetTokenizer
    ) -> list["Array"]:
        """For each question, 1 O scores of its options; of a decoder 2 O log-likelihoods.

        The second are divided by the options' characters.
        """
        if "characters" not in batch:
            scores = self.logits(model, batch, forward=forward)[:, None]
        else:
            scores = _likelihoods(model, batch)
        return [row[:, row[0].isfinite()].cpu().numpy() for row in scores]

    def predictions(self, outputs: list["Array"]) -> "Array":
        """The place of the option with the highest score, the first of equal ones."""
        return _best(outputs, 0)

    def metric(self, name: str, predicted: "Array", labels: "Array") -> float:
        """Share of questions whose right option was chosen."""
        return float((predicted == labels).mean())

    def score(self, outputs: list["Array"], labels: "Tensor") -> dict[str, float]:
        """Accuracy and, with likelihoods, the one by character, and then their mean."""
        kept = [name for name in self.metrics if self._line(name) < len(outputs[0])]
        right = labels.cpu().numpy()
        return self.with_mean(
            {name: self.metric(name, _best(outputs, self._line(name)), right) for name in kept}
        )

    def _line(self, metric: str) -> int:
        return self.METRICS.index(metric)

    def degenerate(self, outputs: list["Array"]) -> bool:
        """Whether the same place is chosen in every question."""
        return len({*self.predictions(outputs).tolist()}) == 1

    def chances(self, outputs: list["Array"]) -> dict[str, list[float]]:
        """None: questions differ in their options."""
        return {}

    def statistics(self, outputs: list["Array"], labels: "Array") -> dict[str, "Array"]:
        """Whether the likeliest option by character is right, N 1; of a decoder alone."""
        if len(outputs[0]) == 1 or "accuracy_norm" not in self.metrics:
            return {}
        return {"accuracy_norm": (_best(outputs, 1) == labels)[:, None].astype(np.int16)}

    def table(self, outputs: list["Array"], labels: "Array") -> dict[str, Any]:
        """Label, prediction and the options' scores; for a decoder those by character too."""
        columns: dict[str, Any] = {"label": labels}
        for line, more in enumerate(("", "_norm")[: len(outputs[0])]):
            columns[f"prediction{more}"] = _best(outputs, line)
            columns[f"scores{more}"] = [row[line].tolist() for row in outputs]
        return columns


def _best(outputs: list["Array"], line: int) -> "Array":
    return np.asarray([row[line].argmax() for row in outputs], dtype=np.int64)


def _pairs(
    questions: list[str], options: list[str], tokenizer: Any, length: int
) -> tuple[dict[str, Any], list[bool]]:
    """Fields of each question beside one option, and whether the pair was cut."""
    encoded = plain_encoding([questions, options], tokenizer, length)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    slow = encoded.encodings is None
    cut = [not slow and bool(encoded.encodings[n].overflowing) for n in range(len(options))]
    return {name: encoded[name] for name in names}, cut


def _grouped(values: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    ends = np.cumsum(counts).tolist()
    return [values[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _joined(parts: Sequence[list[int]], counts: Sequence[int]) -> list[list[int]]:
    """What belongs to the options of one question, as one list."""
    return [list(chain.from_iterable(group)) for group in _grouped(parts, counts)]


def _sequences(batch: Mapping[str, Any]) -> tuple[dict[str, "Tensor"], "Tensor"]:
    """The inputs of a batch's options, S T, row by row, and which option is there, B O."""
    import torch
    from torch.nn import functional

    number = batch["option"]  # B T of joined rows: 0 at the padding
    lengths = functional.one_hot(number).sum(1)[:, 1:]  # B O
    present = lengths > 0
    widths = lengths[present]
    mask = torch.arange(int(widths.max()), device=number.device) < widths[:, None]
    inputs = {"attention_mask": mask.long()}
    for name in ("input_ids", "token_type_ids", "characters"):
        if name in batch:
            inputs[name] = torch.zeros_like(inputs["attention_mask"])
            inputs[name][mask] = batch[name][number > 0]
    return inputs, present


def _by_question(scores: "Tensor", present: "Tensor") -> "Tensor":
    """S scores as B O, -inf where there is no option."""
    rows = scores.new_full(present.shape, float("-inf"))
    rows[present] = scores
    return rows


def _likelihoods(model: Any, batch: Mapping[str, Any]) -> "Tensor":
    """B 2 O: log-likelihoods of the options, and those divided by their characters."""
    import torch

    inputs, present = _sequences(batch)
    characters = inputs.pop("characters")
    targets = characters > 0
    logits = language_model.logits_at(model, inputs, targets).float()
    ids = inputs["input_ids"][targets]
    each = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    of = targets.nonzero()[:, 0]  # the sequence of each target token
    sums = torch.zeros(len(characters), device=each.device).index_add_(0, of, each)
    by_character = sums / characters.amax(1)
    return torch.stack([_by_question(sums, present), _by_question(by_character, present)], dim=1)
