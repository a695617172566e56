"""What a task is: where its rows come from, its text columns, its labels and its metrics.

A kind of task (classification, regression) is one subclass of `Task`, in the file of this package
that is called like the kind: `task.kind=regression` is the class in `tasks/regression.py`. A new
kind is a new file and nothing else: no other file asks for the kind, all call the methods below.
Importing a kind does not import torch, since the command line and the report check tasks too.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from finegrid.errors import UserError, nearest, one_of, require, shown
from finegrid.tasks.modules.encoding import plain_encoding
from finegrid.tasks.modules.names import LISTED
from finegrid.tasks.modules.pattern import Pattern

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

Batch = Mapping[str, Any]
Forward = Callable[[Any, Batch], "Tensor"]  # a pass of a model over a batch, giving logits
GetTokenizer = Callable[[], Any] | None
MEAN = "mean"  # of all metrics: the headline of a task with several
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


@dataclass
class Task(ABC):
    """One task; `conf/task/<name>.yaml` holds the values, a subclass what its kind decides."""

    name: str
    text: list[str]  # one or two text columns
    metrics: list[str]  # all are recorded; the headline is their mean unless `headline` names one
    path: str = ""  # hub data set, `builtin`, or `files`
    subset: str = ""  # of the hub data set, if it has any; the folder's name below a local root
    revision: str = ""  # of the hub data set: a commit, tag or branch; empty: its newest
    label: Any = "label"  # a column; of some kinds several
    kind: str = "classification"
    labels: list[str] = field(default_factory=list)  # class names by number, if there are classes
    headline: str = ""
    dev: list[str] = field(default_factory=lambda: ["validation"])  # labelled; auto: what there is
    train: str | None = None  # files of `task=custom`
    test: str | None = None  # null: a stratified fifth of the training file
    word_lists: bool = False  # the text columns hold lists of words, to be joined by spaces
    positive: str | None = None  # class that F1 is of; null: the second of two
    pattern: Pattern | None = None  # template and words of head=pattern
    attribute: str | None = None  # column that control_prefix chooses by and debias_diff removes
    attribute_values: list[str] = field(default_factory=list)  # those of the training rows

    METRICS: ClassVar[tuple[str, ...]]  # names that `task.metrics` may list
    USUAL: ClassVar[tuple[str, ...]] = ()  # where it lists none; empty: all of METRICS
    CORRELATIONS: ClassVar[tuple[str, ...]] = ()  # those that are 0 where predictions are constant
    AUTO_CLASS: ClassVar[str] = "AutoModelForSequenceClassification"  # of transformers; its head
    PROBLEM_TYPE: ClassVar[str | None]  # what config.json of an exported model calls the kind
    PEFT_TYPE: ClassVar[str] = "SEQ_CLS"  # peft's name of the kind
    CLASSES: ClassVar[bool] = False  # a row is of classes, named by `labels`, a logit each
    SEVERAL: ClassVar[tuple[str, ...]] = ()  # settings of one column that may name several
    NESTED: ClassVar[tuple[str, ...]] = ()  # of text and label: whose columns may hold lists
    EVERY_CLASS: ClassVar[bool] = True  # training rows must hold each class
    HEADS: ClassVar[tuple[str, ...]] = ("classifier",)  # that fit the kind
    LOSSES: ClassVar[tuple[str, ...]] = ("cross_entropy",)  # to train with, that fit the kind
    SEMI: ClassVar[tuple[str, ...]] = ("none",)  # uses of rows left out that fit the kind
    ONE_STATE: ClassVar[bool] = True  # the head reads one hidden state a row, not one a token
    CLASSES_BY_NAME: ClassVar[bool] = False  # labels are read by the names that a file gives them
    FUSES: ClassVar[bool] = True  # a row is one sequence, so that runs can share a pass

    def __post_init__(self) -> None:
        require(1 <= len(self.text) <= 2, f"task.text={self.text} must name one or two columns")
        require(len(set(self.text)) == len(self.text), f"task.text={self.text} names it twice")
        require(self.label is not None, "task.label is null; name the column of the labels")
        several = isinstance(self.label, list | tuple)
        if not several:
            self.label = str(self.label)
        elif "label" not in self.SEVERAL:
            raise UserError(
                f"task.label={self.label} must name one column for task.kind={self.kind}"
            )
        require(bool(self.metrics), "task.metrics is empty; name at least one metric")
        both = [] if self.new_tokens else sorted({*self.text} & {*self.label_columns})
        require(not both, f"column {', '.join(both)} is both task.text and task.label")
        once = len(set(self.metrics)) == len(self.metrics)
        require(once, f"task.metrics={self.metrics} names one of them twice")
        wrong = next((metric for metric in self.metrics if metric not in self.METRICS), "")
        require(
            not wrong,
            f"task.metrics={self.metrics} do not fit task.kind={self.kind}: {wrong} is none of its "
            f"metrics; {nearest(wrong, self.METRICS)}",
        )
        self.headline = self.headline or (self.metrics[0] if len(self.metrics) == 1 else MEAN)
        one_of("task.headline", self.headline, (*self.metrics, MEAN))

    def named(self, labels: list[str]) -> Self:
        """The task with the class names of a run, which number its classes."""
        return replace(self, labels=labels)

    @property
    def outputs(self) -> int:
        """Number of logits that the head gives for a row: one a class, one where there are none."""
        return len(self.labels) if self.CLASSES else 1

    @property
    def new_tokens(self) -> int:
        """Tokens that are generated behind those of a row, at most."""
        return 0

    @property
    def text_columns(self) -> list[str]:
        """The columns that a row's texts are read from."""
        return self.text

    @property
    def nested_text(self) -> bool:
        """Whether the text columns may hold lists."""
        return self.word_lists or "text" in self.NESTED

    def nested(self, column: str) -> bool:
        """Whether a column may hold lists or objects."""
        return self.nested_text if column in self.text else "label" in self.NESTED

    @property
    def label_columns(self) -> list[str]:
        """The columns that a row's label is made of."""
        return list(self.label) if isinstance(self.label, list | tuple) else [self.label]

    @property
    def positive_class(self) -> int | None:
        """The class that F1 is of; None: the mean over all, or there is no F1."""
        return None

    @property
    def lacks_labels(self) -> bool:
        """Whether the class names are those that the training rows hold, and not read yet."""
        return self.CLASSES and not self.labels

    def with_labels_of(self, values: Sequence[str | None], where: str) -> Self:
        """The task with the class names that the training rows hold.

        Raises:
            UserError: naming `where` and the row, if the values cannot be class names.
        """
        raise NotImplementedError(f"{self.kind} has no class names")

    @abstractmethod
    def read_labels(self, values: Sequence[str | None], where: str, *, typed: bool) -> "Array":
        """Labels of N rows as an array with N entries, from what the label column says.

        A value is text, None where it is missing; with "label" in `NESTED` it is a list or what
        JSON has, with several label columns a tuple of theirs. `typed` columns held numbers or
        booleans, which have several spellings (1 and 1.0).

        Raises:
            UserError: naming `where` and the row, for a value that is no label.
        """

    def read_text(self, name: str, values: Sequence[Any], where: str) -> list[Any]:
        """The checked values of a text column, each of a type that can be hashed.

        Raises:
            UserError: naming `where`, the row and the column, for an empty text.
        """
        if self.word_lists:
            values = [" ".join(map(str, x)) if isinstance(x, list) else x for x in values]
        for row, value in enumerate(values, start=1):
            if value is None or not value.strip():
                raise UserError(f"{where}, row {row}: column {name!r} is empty ({value!r})")
        return list(values)

    def check_rows(  # noqa: B027
        self, texts: Sequence[Sequence[Any]], labels: "Array", where: str
    ) -> None:
        """Refuse rows whose texts and labels do not belong together.

        Raises:
            UserError: naming `where` and the row.
        """

    def unknown_labels(self, texts: Sequence[Sequence[Any]]) -> "Array":
        """Labels of the right shape for rows that have none, to predict."""
        import numpy as np

        return np.zeros(len(texts[0]), dtype=np.int64)

    def units(
        self, texts: Sequence[Sequence[Any]], labels: "Array"
    ) -> tuple[list[int], "Array"] | None:
        """The rows that stand for all of their unit, and the units' labels; None: each row is one.

        A unit is what is split, scored and resampled as one.
        """
        return None

    def training_rows(self, labels: "Array") -> tuple[list[int], "Array"] | None:
        """The units that rows to train on are of, and the rows' labels; None: each is one row."""
        return None

    def strata(self, labels: "Array") -> "Array":
        """N numbers: the stratum of each row, of which every split has its share."""
        return labels

    def class_counts(self, labels: "Array") -> Counter[int]:
        """Class -> rows; empty for a kind without classes."""
        return Counter()

    def check_train(self, used: "Array", labels: "Array", where: str) -> None:
        """Refuse classes of which nothing is left to train on.

        Args:
            used: labels that are left after validation and test were carved.
            labels: of all labelled training rows.
            where: the file or data set, for the message.
        """
        left, counts = self.class_counts(used), self.class_counts(labels)
        every = range(len(self.labels)) if self.EVERY_CLASS else range(0)
        most = max((counts[n] for n in every if not left[n]), default=-1)
        rare = [n for n in every if counts[n] <= most]
        listed = ", ".join(f"{shown(self.labels[n])} ({counts[n]})" for n in rare[:LISTED])
        more = f" and {len(rare) - LISTED} more" if len(rare) > LISTED else ""
        graded = all(map(NUMBER.fullmatch, self.labels))
        require(
            not rare,
            f"{where}: too few rows to train on and to split, of class (rows): {listed}{more}; add "
            "rows, merge these classes or leave them out"
            + ("; use task.kind=regression for graded labels" if graded else ""),
        )

    def auto_class(self, decoder: bool) -> str:
        """The class of transformers that knows the head, on a causal decoder or on an encoder.

        Raises:
            UserError: where the family cannot do the kind.
        """
        return self.AUTO_CLASS

    def encoding(self, decoder: bool) -> dict[str, Any]:
        """What else than texts, tokenizer and length decides the tokens, for their cache's key.

        Where it is not empty, the labels are part of the key too.
        """
        return {}

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
        """Tokens of N rows, each at most `max_length` long, as N lists for every field.

        `train`: the rows are trained on, and not scored. Fields: `input_ids`; perhaps
        `token_type_ids`, and `labels` of the tokens, -100 where there is none: a batch then holds
        them as B T in place of the rows' labels. Others are for `logits` and `infer` to read, not
        for the model. `truncated` may say how many rows were cut, if encodings do not tell.
        """
        encoded: Mapping[str, Any] = plain_encoding(texts, tokenizer, max_length)
        return encoded

    def collate(self, labels: "Array") -> Any:
        """The labels of some rows, for `loss` (as a tensor) and of all rows, for `score`."""
        import torch

        return torch.from_numpy(labels)

    def logits(self, model: Any, batch: Batch, *, forward: Forward) -> "Tensor":
        """What `loss` reads of a batch; `forward(model, batch)` is one pass, giving logits."""
        return forward(model, batch)

    @abstractmethod
    def loss(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Mean loss of a batch, from fp32 logits (B, outputs), or (B, T, outputs) by token."""

    def loss_terms(self, labels: "Tensor") -> int:
        """Number of terms that `loss` is the mean of."""
        return len(labels)

    def infer(self, model: Any, batch: Batch, *, forward: Forward, tokenizer: GetTokenizer) -> Any:
        """What is kept of each row of a batch on the model's device, without gradients.

        One pass, `forward(model, batch)` giving fp32 logits, and `collect`; a kind that generates
        text does so here.
        """
        return self.collect(self.logits(model, batch, forward=forward), batch)

    def collect(self, logits: "Tensor", batch: Mapping[str, Any]) -> Any:
        """What is kept of the logits of a batch: a tensor of B rows, or a list of B on the CPU.

        `predictions` and all that follows read it of N rows, the outputs.
        """
        return logits

    def complete(self, outputs: Any, labels: "Array") -> Any:
        """The outputs of N rows with what no batch held, in the shape that their labels have."""
        return outputs

    def loss_of_all(self, outputs: Any, labels: Any) -> float:
        """Mean loss of all rows from their outputs; nan where these do not tell."""
        return float(self.loss(outputs, labels))

    @property
    def calibrates(self) -> bool:
        """Whether predictions follow from something that is chosen on validation rows."""
        return False

    def calibrated(self, outputs: Any, labels: Any) -> Self:
        """The task with what is chosen on these rows; used where `calibrates`."""
        return self

    def facts(self) -> dict[str, Any]:
        """Fields of a record that the kind fills in."""
        return {}

    def of_record(self, values: Mapping[str, Any]) -> Self:
        """The task as the run with such a record was scored."""
        return self

    @abstractmethod
    def predictions(self, outputs: Any) -> Any:
        """What the outputs predict, for logits (N, outputs) N numbers.

        An entry is a row of predictions.parquet, the unit that statistics resample.
        """

    @abstractmethod
    def metric(self, name: str, predicted: Any, labels: Any) -> float:
        """One metric over the full set."""

    def written(self, predicted: Any) -> list[Any]:
        """Predictions as `finegrid predict` writes them."""
        values: list[Any] = predicted.tolist()
        return values

    @property
    def scored(self) -> list[str]:
        """The names that each row has a score for, such as its classes."""
        return self.labels

    def chances(self, outputs: Any) -> dict[str, list[float]]:
        """Name -> probability in each row."""
        shares = outputs.softmax(-1)
        return {name: shares[:, number].tolist() for number, name in enumerate(self.scored)}

    def table(self, outputs: Any, labels: "Array") -> dict[str, Any]:
        """Columns of predictions.parquet: label, prediction, scores, and more to check them by."""
        return {
            "label": labels,
            "prediction": self.predictions(outputs).numpy(),
            "scores": outputs.tolist(),
        }

    def statistics(self, outputs: Any, labels: "Array") -> dict[str, "Array"]:
        """Name -> numbers (N, K) whose sums over rows decide the metrics.

        Empty where the columns label and prediction hold a number a row, which decide them. A name
        is one that `report.stats.sums` knows.
        """
        return {}

    def score(self, outputs: Any, labels: Any) -> dict[str, float]:
        """Every metric over the full set and, where there are several, their mean.

        A correlation that is undefined, because predictions or labels are constant, counts as 0,
        as in GLUE.
        """
        predicted, labels = self.predictions(outputs.float().cpu()), labels.cpu()
        undefined = self.CORRELATIONS if _constant(predicted) or _constant(labels) else ()
        return self.with_mean(
            {
                name: 0.0 if name in undefined else self.metric(name, predicted, labels)
                for name in self.metrics
            }
        )

    def with_mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Metrics with their mean, if there are several; an undefined one is 0."""
        scores = {name: value if value == value else 0.0 for name, value in values.items()}
        if len(scores) > 1:
            scores[MEAN] = sum(scores.values()) / len(scores)
        return scores

    def degenerate(self, outputs: Any) -> bool:
        """Whether the predictions are the same for every row."""
        predicted = self.predictions(outputs.float())
        return bool(((predicted - predicted[0]).abs() <= 1e-6).all())


def _constant(values: "Tensor") -> bool:
    return bool((values == values[0]).all())
