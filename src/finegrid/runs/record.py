"""record.json, the flat result of a run: its fields, reading, writing and checks."""

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from finegrid.errors import UserError, is_name
from finegrid.runs import layout
from finegrid.storage.files import content, write_atomic

SCHEMA = 1
MOST = 1e40  # no number of a run is as large, and the square of a larger one is none
LARGEST = 1 << 22  # bytes of a record: most are of a few thousand, a traceback may add some


@dataclass
class Record:
    """Everything a table needs to know of one run; `None` where a run did not get that far."""

    # identity
    method: str
    task: str
    model: str
    fraction: float
    budget_unit: str
    budget: float
    seed: int
    protocol: str
    overrides: list[str]
    pretrained: bool = True
    head: str | None = None  # null: older than the choice, a classifier
    loss: str | None = None  # trained with; null: older than the choice, the kind's own
    semi: str | None = None  # use of the rows left out; null: older than the choice, none
    select: str = "best"
    validation_from: str | None = None  # share: the fraction's own rows; null: older than that
    rows_asked: int | None = None  # with data.rows; `fraction` is then what share of all they are
    subset_seed: int | None = None  # which rows the fraction is; null: older than the note
    frozen_dropout: bool = True  # false: none below what trains
    kernels: bool | None = None  # false: torch's own modules; null: older than the choice
    gradient_checkpointing: bool = False  # true: less memory, one forward pass more a step
    lr: float | None = None  # peak learning rate of what the method trains
    trial: int | None = None  # of a search for that rate: validation alone is scored
    tuning_runs: int | None = None  # trials that the method's rate was chosen from; null: no search
    tuning_examples: int | None = None  # training examples that these saw, repeated ones each time
    schema: int = SCHEMA
    cell: str | None = None
    config_hash: str | None = None  # of the settings in .hydra/config.yaml beside it
    fingerprint: str | None = None  # of the backbone's weights as loaded
    tokenizer: str | None = None  # hash of what it makes of texts; null: older than the field
    drawn_pooler: bool | None = None  # the checkpoint had none: it trains as part of the head
    chat_template: str = "none"  # own: a row's text was a user's turn by the tokenizer's template
    separator: str | None = None  # what was put between two texts; null: nothing, or by an encoder
    train_hash: str | None = None
    validation_hash: str | None = None
    test_hash: str | None = None
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    test_overlap: int | None = None  # test rows whose text also occurs in train
    truncated: dict[str, int] | None = None  # split -> rows cut to model.max_length; null: older
    # outcome
    status: str = "running"
    error: str | None = None
    metric: str | None = None
    positive: str | None = None  # class that F1 is of; null: the mean over all, or no F1
    positive_class: int | None = None  # its number in the predictions
    threshold: float | None = None  # of a class's probability, where a row may have several
    threshold_chosen: bool | None = None  # on validation rows; null: no threshold
    labels: str | None = None  # names of the classes by number, as JSON; null: none, or older
    test: float | None = None
    test_last: float | None = None  # of the last weights; null: not asked for, or a trial
    validation: float | None = None
    validation_loss: float | None = None  # lowest mean loss of a validation pass; null: older
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    best_step: int | None = None
    evaluations: int | None = None  # validation passes made; null: older
    evaluations_planned: int | None = None  # more, where one step reached two of them
    steps: int | None = None
    epochs: float | None = None
    forgetting: float | None = None  # rise of the language-model loss by tuning; null: not measured
    leakage: float | None = None  # of task.attribute, see training/leakage.py; null: it has none
    test_off: float | None = None  # with what the method can switch off switched off
    leakage_off: float | None = None
    chosen: list[str] | None = None  # by a method's search, in its order; null: it has none
    chosen_by: dict[str, float] | None = None  # what it tried -> cross-validated score
    degenerate: bool | None = None  # one prediction for all test rows; in a trial, for validation's
    # cost
    params_total: int | None = None
    params_delta: int | None = None
    params_head: int | None = None
    params_pooler: int | None = None
    delta_bytes: int | None = None  # of the file, or what it would take
    stored: bool = True  # false: with store=none the run kept no delta
    delta_digest: str | None = None  # sha256 of it
    delta_bound_bytes: float | None = None  # its numbers as they are plus the entropy of its masks
    delta_bits_per_trainable: float | None = None
    search_examples: int | None = None  # of the budget, read by a method's search
    unlabelled_rows: int | None = None  # left out, their labels unseen; null: semi is none
    estimated_rows: int | None = None  # of these, that the teacher read with dropout
    pseudo_rows: int | None = None  # that the student trained on besides the labelled ones
    train_seconds: float | None = None
    train_cpu_seconds: float | None = None  # of the process meanwhile: few, if others had the cores
    eval_seconds: float | None = None
    setup_seconds: float | None = None
    examples_per_second: float | None = None
    tokens_per_second: float | None = None
    train_flops: float | None = None
    mfu: float | None = None  # train_flops a second, as a share of matmul_rate
    matmul_rate: float | None = None  # FLOP/s of a square product, measured on the machine
    peak_memory_bytes: int | None = None
    fused: int = 1  # runs that shared each pass through the backbone
    micro_batch_size: int | None = None  # rows of one pass; below data.batch_size: memory ran out
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    # provenance
    data_source: str | None = None
    model_revision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    git_dirty: bool | None = None
    command: str = ""
    started: str = ""
    finished: str | None = None

    def summary(self) -> str:
        """One line for people."""
        split = "test" if self.trial is None else "validation"
        scores = self.metrics.get(split, {})
        of = {"f1": f" of {self.positive}"} if self.positive is not None else {}
        every = ", ".join(f"{name}{of.get(name, '')} {value:.4f}" for name, value in scores.items())
        trains = sum(filter(None, (self.params_delta, self.params_pooler, self.params_head)))
        share = 100 * trains / self.params_total if self.params_total else 0.0
        return (
            f"{self.method} on {self.task} ({self.model}, fraction {self.fraction:g}, seed "
            f"{self.seed}): {split} {every}; trainable params: {trains:,} || all params: "
            f"{self.params_total:,} || trainable%: {share:.4f}; "
            f"{self.train_seconds:.1f} s of training{self._leakage()}"
        )

    def _leakage(self) -> str:
        """What of `task.attribute` is left in the embedding, in a task that has one."""
        if self.leakage is None:
            return ""
        off = (
            f" (switched off: test {self.test_off:.4f}, leakage {self.leakage_off:.4f})"
            if self.test_off is not None and self.leakage_off is not None
            else ""
        )
        return f"; leakage of the attribute {self.leakage:.4f}{off}"

    def write(self, directory: Path) -> None:
        """Write `record.json` so that it is there whole or not at all."""
        write_atomic(
            directory / layout.RECORD,
            (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode(),
        )


def read(directory: Path) -> Record:
    """Read a run directory's record.

    Raises:
        UserError: if there is none, or it is not readable as one.
    """
    path = directory / layout.RECORD
    if not directory.is_dir():
        raise UserError(f"no such run directory: {directory}")
    try:
        values = read_fields(directory)
    except FileNotFoundError:
        raise UserError(
            f"{directory} holds no {path.name}: the run has not finished, or is not one"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable record: {error}") from error
    return _of(values)


def of_text(text: bytes) -> Record:
    """A record of its text.

    Raises:
        ValueError: saying what is wrong, if the text is not a record of this schema.
    """
    return _of(parse(text))


def _of(values: dict[str, Any]) -> Record:
    return Record(**{name: value for name, value in values.items() if name in CHECKS})


def read_fields(directory: Path | str) -> dict[str, Any]:
    """The fields of a run directory's record as they stand there, each of the type it should have.

    Raises:
        OSError: if there is none, or it cannot be read.
        ValueError: saying what is wrong, if it is not a record of this schema.
    """
    return parse(content(f"{directory}/{layout.RECORD}", LARGEST))


def parse(text: bytes) -> dict[str, Any]:
    """A record's fields, each of the type that it should have.

    Raises:
        ValueError: saying what is wrong, if the text is not a record of this schema.
    """
    try:
        values = json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__}, not an object of fields")
    if values.get("schema") != SCHEMA:
        raise ValueError(f"schema {_shown(values.get('schema'))}, this version reads {SCHEMA}")
    lacks = [name for name in REQUIRED if name not in values]
    if lacks:
        raise ValueError(f"lacks {', '.join(lacks)}")
    for fault in faults(values):
        raise ValueError(fault)
    return values


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of a record, as far as they are there."""
    for name, check in CHECKS.items():
        if name in values and not check(values[name]):
            yield f"{name} is {_shown(values[name])}, not {WANTED[name]}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _shown(value: object) -> str:
    return f"{value!r:.60}"


def _text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or _encodable(value))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: no file could hold it
        return False
    return True


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _number(value: object) -> bool:
    if isinstance(value, float):
        return abs(value) < MOST
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _each(keys: Callable[[Any], bool], values: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A check of a table's keys and values; no record has a thousand of either."""
    return lambda found: (
        isinstance(found, dict)
        and len(found) < 1000
        and all(keys(key) and values(value) for key, value in found.items())
    )


KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: (_text, "text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_whole, "a whole number from 0 on"),
    float: (_number, "a finite number"),
    list[str]: (lambda value: isinstance(value, list) and all(map(_text, value)), "a list of text"),
    dict[str, str]: (_each(_text, _text), "a table of text"),
    dict[str, int]: (_each(is_name, _whole), "numbers of rows by split"),
    dict[str, float]: (_each(is_name, _number), "scores by what was tried"),
    dict[str, dict[str, float]]: (_each(is_name, _each(is_name, _number)), "scores by split"),
}
# What decides where a run stands, and what files are named after it.
STRICTER: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("method", "task", "model"), (is_name, "a name of letters, digits, '.', '_' and '-'")
    ),
    "fraction": (lambda value: _number(value) and 0 <= value <= 1, "a share from 0 to 1"),
    "budget": (lambda value: _number(value) and value >= 0, "a number from 0 on"),
    "status": (
        lambda value: value in ("running", "ok", "failed", "diverged"),
        "how a run can end: ok, failed or diverged",
    ),
}


def _checked(name: str, kind: Any) -> tuple[Callable[[Any], bool], str]:
    """What a field's value has to be, as a check and in words."""
    options = [option for option in get_args(kind) if option is not NoneType]
    optional = NoneType in get_args(kind)
    check, wanted = STRICTER.get(name) or KINDS[options[0] if optional else kind]
    if name == "cell":
        check = is_name
    return (lambda value: value is None or check(value)) if optional else check, wanted


_OF_FIELDS = {item.name: _checked(item.name, item.type) for item in fields(Record)}
CHECKS = {name: check for name, (check, _) in _OF_FIELDS.items()}
WANTED = {name: wanted for name, (_, wanted) in _OF_FIELDS.items()}
REQUIRED = [
    item.name
    for item in fields(Record)
    if item.default is MISSING and item.default_factory is MISSING
]


def clear(directory: Path) -> None:
    """Take an earlier run's results out of a directory, the record first.

    Raises:
        UserError: if one of them cannot be removed.
    """
    for name in layout.RESULTS:
        try:
            (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{directory / name} cannot be removed: {error.strerror}") from error


def program() -> str:
    """What started this process: `finegrid train`, or a script such as `python train.py`."""
    script = Path(sys.argv[0]).name
    by_file = script.endswith(".py") and script != "__main__.py"
    return f"python {shlex.quote(script)}" if by_file else "finegrid train"


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command that this process was started with, or with other arguments, on any machine."""
    own = sys.argv[1:] if arguments is None else arguments
    return f"{program()} {shlex.join(own)}".rstrip()


def cell_hash(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits of everything that decides a run's result."""
    try:
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise UserError(f"{_infinite(identity)} is no finite number") from error
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _infinite(values: Mapping[str, Any], within: str = "") -> str:
    """The first setting that JSON has no number for, as `optim.lr=inf`; or nothing."""
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{within}{key}={value}"
        if isinstance(value, Mapping) and (found := _infinite(value, f"{within}{key}.")):
            return found
    return ""
