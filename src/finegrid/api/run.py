"""One run from Python: train it, or load it, look at it, predict and export with it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, open_dict

from finegrid.api import task as tasks
from finegrid.api.task import Task
from finegrid.config import register_resolvers
from finegrid.data.examples import attributes_of, column_texts
from finegrid.errors import UserError, nearest, require
from finegrid.grid.completion import completed
from finegrid.report import formatting
from finegrid.report.answer import answer
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.runs import layout
from finegrid.runs.record import Record, read
from finegrid.runs.spec import RunSpec
from finegrid.storage.paths import CONF

if TYPE_CHECKING:
    from finegrid.inference import Restored
    from finegrid.tasks.task import Task as TaskOfRun

LENGTHS = {1: "a text", 2: "a pair of texts"}  # of a row, by the task's columns
Rows = Sequence[str] | Sequence[tuple[str, str]] | pd.DataFrame


@dataclass(frozen=True)
class Run:
    """A finished run: its record, curve and predictions, and its model to predict and export with.

    Example:
        ```python
        run = finegrid.run(method="lora", task="mrpc", model="minilm", epochs=3)
        run.record.test, run.curve, run.predictions
        run.predict([("A plane landed.", "An aircraft landed.")])
        run.export("paraphrases", to="peft")
        ```
    """

    directory: Path
    record: Record = field(repr=False)
    model_path: str | None = None
    allow: tuple[str, ...] = ()

    @cached_property
    def curve(self) -> pd.DataFrame:
        """A row for each validation pass: step, share of the budget, scores."""
        return pd.read_csv(self.directory / layout.CURVE)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row for each test row: split, idx, label, prediction, scores (logits)."""
        return pd.read_parquet(self.directory / layout.PREDICTIONS)

    def answer(self) -> str:
        """The run's score beside the best constant prediction, in a sentence."""
        made = answer(Comparison.of(rankings.load([self.directory])))
        return made.sentence.replace(formatting.SPACE, " ")

    @cached_property
    def _restored(self) -> "Restored":
        from finegrid.inference import restore

        return restore(self.directory, model_path=self.model_path, allow=self.allow)

    def predict(
        self, texts: Rows, *, attribute: Sequence[str | None] | None = None
    ) -> pd.DataFrame:
        """Predict texts: one string a row, a pair where the task has two columns, or a DataFrame.

        `attribute` is each row's value of `task.attribute`, which `control_prefix` reads; of a
        DataFrame it is the column of that name.

        Returns:
            A row for each text, with a DataFrame's index. `prediction` is the class's name, beside
            a column of probabilities for each class; for regression it is the number alone.

        Raises:
            UserError: if the texts do not fit the task's columns, or the run cannot be loaded.
        """
        restored = self._restored
        task = restored.task
        columns = _columns(texts, restored)
        outputs = restored.outputs(columns, _attributes(texts, task, attribute, len(columns[0])))
        made = {"prediction": task.written(task.predictions(outputs)), **task.chances(outputs)}
        index = texts.index if isinstance(texts, pd.DataFrame) else None
        return pd.DataFrame(made, index=index)

    def export(self, path: str | Path, *, to: str = "merged") -> Path:
        """Write the model for transformers (`merged`), peft or adapters, once its logits agree.

        Raises:
            UserError: if the method does not fit the library, or the path exists.
        """
        from finegrid.export import export

        export(self.directory, to, Path(path), model_path=self.model_path, allow=self.allow)
        return Path(path)


def run(
    *,
    method: str = "bitfit",
    task: str | Task = "builtin_paraphrase",
    model: str = "tiny",
    seed: int = 0,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
    allow: Collection[str] = (),
    **overrides: Any,
) -> Run:
    """Train and score one method on one task, as `finegrid train` does, in this process.

    Example:
        ```python
        run = finegrid.run(method="lora", task="mrpc", model="minilm", seed=1, epochs=3, rank=4)
        print(run.record.test)
        ```

    Args:
        method: One of `finegrid.methods.names()`.
        task: An option of `task=`, or rows of yours (`finegrid.Task`).
        model: An option of `model=`, a folder or a hub id.
        seed: Of order, initial values and dropout, each a stream of its own.
        directory: Where the run is written, instead of an earlier one; by default a new one below
            multirun/runs.
        config_dir: A folder with options of yours.
        allow: Packages besides finegrid whose methods may be used.
        **overrides: As on the command line: `epochs=3`, `rank=4`, or `**{"optim.lr": 1e-3}`.

    Raises:
        UserError: for what is not valid, before anything long begins; `Diverged`, of the same kind,
            for a loss that is no number. The run's record then says why.
    """
    require(isinstance(method, str), "run takes one method's name; finegrid.compare takes several")
    values = {"method": method, "task": task, "model": model, "seed": seed, **overrides}
    cfg, given = _composed(values, config_dir, allow)
    where = Path(str(cfg.hydra.run.dir) if directory is None else directory)
    require(not where.is_file(), f"directory={where} is a file; name a directory")
    with open_dict(cfg):
        del cfg["hydra"]
    spec = RunSpec.of(cfg, where, given)
    where.mkdir(parents=True, exist_ok=True)

    from finegrid.strategies.single import run as train

    return Run(where, train(spec), allow=tuple(allow))


def load(
    directory: str | Path, *, model_path: str | None = None, allow: Collection[str] = ()
) -> Run:
    """A finished run, by its directory; nothing in its files is run.

    Args:
        directory: With record.json and the delta.
        model_path: Where the pre-trained model lies now, if it has moved.
        allow: Packages besides finegrid whose method the run may name.

    Raises:
        UserError: if the directory holds no finished run.
    """
    record = read(Path(directory))
    require(record.status == "ok", f"{directory}: the run's status is {record.status}, not ok")
    return Run(Path(directory), record, model_path, tuple(allow))


def words(values: dict[str, Any], allow: Collection[str]) -> list[str]:
    """Values as the overrides of a command line; those of a `Task` are overrides already."""
    listed = [] if not allow else tasks.overrides({"allow": list(allow)})
    for key, value in values.items():
        if isinstance(value, Task):
            listed += value.overrides
        else:
            listed += tasks.overrides({key: value})
    return listed


def _composed(
    values: dict[str, Any], config_dir: str | Path | None, allow: Collection[str]
) -> tuple[DictConfig, list[str]]:
    """The config of one run with Hydra's node, and its overrides in full."""
    register_resolvers()
    places = [f"file://{Path(config_dir).absolute()}"] if config_dir else []
    search = tasks.overrides({"hydra.searchpath": places})
    try:
        full = completed(words(values, allow), config_dir=config_dir)
        with initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
            return compose("train", [*full, *search], return_hydra_config=True), full
    except HydraException as error:
        raise UserError(_explained(error)) from error


def _explained(error: HydraException) -> str:
    """What Hydra refuses, in a line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).partition("/")
        return f"unknown {group}={option}; {nearest(option, error.options or ())}"
    return str(error).strip().splitlines()[0]


def _columns(texts: Rows, run: "Restored") -> tuple[list[Any], ...]:
    """The texts of each column of the run's task."""
    task, names = run.task, run.task.text_columns
    if not isinstance(texts, pd.DataFrame):
        require(not isinstance(texts, str), "predict takes a list of texts; put it into brackets")
        named = isinstance(texts, Mapping)
        require(not named, "predict takes a list of texts or a DataFrame, not a dict of columns")
        single = len(names) == 1 and task.nested(names[0])  # a row may be a list by itself
        rows = [(row,) if single or isinstance(row, str) else row for row in texts]
        for number, row in enumerate(rows, start=1):
            fits = isinstance(row, tuple | list) and len(row) == len(names)
            require(
                fits
                and all(isinstance(x, str) or task.nested(names[n]) for n, x in enumerate(row)),
                f"row {number} must be {LENGTHS[len(names)]} ({', '.join(names)}), not {row!r:.80}",
            )
        texts = pd.DataFrame(rows, columns=list(names))
    require(len(texts) > 0, "there is no text to predict")
    read = tasks.table(texts, names)
    return tuple(column_texts(read, task, name, "the texts") for name in names)


def _attributes(
    texts: Rows, task: "TaskOfRun", given: Sequence[str | None] | None, rows: int
) -> list[str | None]:
    """Each row's value of the task's attribute; nothing where none is told."""
    name = task.attribute
    if given is not None:
        require(name is not None, "attribute=: the run's task has no attribute")
        require(len(given) == rows, f"attribute= has {len(given)} values for {rows} rows")
        texts = pd.DataFrame({name: list(given)})
    if not isinstance(texts, pd.DataFrame) or name is None or name not in texts:
        return []
    return attributes_of(tasks.table(texts, [name]), task, "the attribute's values")
