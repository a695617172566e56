"""A comparison from Python: a sweep in a process of its own, and what came out of it."""

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from finegrid.api import task as tasks
from finegrid.api.run import Run, load, words
from finegrid.api.task import Task
from finegrid.errors import UserError, one_of, require, shown
from finegrid.grid import plan
from finegrid.grid.known import Known
from finegrid.grid.lifetime import end_with
from finegrid.grid.race.config import RaceConfig
from finegrid.grid.status import ENDED
from finegrid.report import formatting
from finegrid.report.answer import answer
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.report.load.rankings import CELL, RANKING
from finegrid.runs import layout
from finegrid.storage.files import write_atomic

EVERY = 0.5  # seconds between looks at the cells
SAID = "finegrid: "  # begins the line that says why a sweep failed
COLUMNS = {  # of Comparison.cells -> of `Results.table`
    "task": "task", "fraction": "fraction", "method": "method", "verdict": "verdict",
    "metric": "metric", "mean": "score", "sd": "sd", "low": "low", "high": "high", "ok": "seeds",
    "failed": "failed", "params_delta": "params", "delta_bytes": "bytes",
    "train_seconds": "seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Results:
    """What the cells of a comparison gave: table, answer, best run, report.

    Example:
        ```python
        results = finegrid.compare(methods=["full", "bitfit"], task=task, model="minilm", seeds=3)
        print(results.answer())
        results.table()
        results.best().predict(["Where is my parcel?"])
        ```
    """

    directory: Path
    cells: tuple[str, ...] = field(repr=False)  # names of the runs' directories below it
    allow: tuple[str, ...] = ()
    known: str | tuple[str, ...] = ()  # files and directories with results that were given

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run: the fields of its record."""
        places = {cell: self.directory / cell for cell in self.cells}
        given = [cell for cell, path in places.items() if not (path / layout.RECORD).is_file()]
        rows = Known.of(self.known).rows(map(layout.cell_of, given)) if self.known else []
        if rows:
            places = {cell: path for cell, path in places.items() if cell not in given}
        frames = [*([rankings.load(places.values())] if places else []), *rows]
        return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]

    @cached_property
    def comparison(self) -> Comparison:
        """The statistics of the runs."""
        return Comparison.of(self.runs)

    def table(self) -> pd.DataFrame:
        """A row for each method: mean score over seeds, sd, 95 % interval, verdict, costs.

        `verdict` is `best`, `level` (not told apart from the best) or empty.
        """
        best = self.comparison.best[[*CELL, "best", "tie"]]
        cells = self.comparison.cells.merge(best, on=CELL, how="left")
        cells["verdict"] = cells["tie"].eq(True).map({True: "level", False: ""})
        cells.loc[cells["method"].eq(cells["best"]), "verdict"] = "best"
        cells = cells.sort_values(["task", "fraction", "mean"], ascending=[True, True, False])
        return cells[list(COLUMNS)].rename(columns=COLUMNS).reset_index(drop=True)

    def answer(self) -> str:
        """Which method leads, who is level with it, what is cheaper, in a sentence."""
        made = answer(self.comparison)
        text = " ".join(filter(None, (made.sentence, made.rising)))
        return text.replace(formatting.SPACE, " ")

    def best(self) -> Run:
        """The run of the leading method that has the best validation score.

        Raises:
            UserError: if no run has a score.
        """
        leads = self.comparison.headlines
        require(
            bool(leads),
            f"{self.directory}: no run has a score; finegrid status {self.directory} says why",
        )
        lead, runs = leads[0], self.comparison.results.runs
        of_ranking = runs[(runs[RANKING] == lead.key).all(axis=1) & runs["status"].eq("ok")]
        of_method = of_ranking[of_ranking["method"].eq(lead.main.best.name)]
        row = of_method.iloc[int(of_method["validation"].argmax())]
        return load(str(row["directory"]), allow=self.allow)

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the page: one file that needs no network."""
        from finegrid.report.html.page import page

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page(self.comparison, *self.comparison.drawn).encode())
        return path


def compare(
    methods: Sequence[str],
    *,
    task: str | Task = "builtin_paraphrase",
    model: str = "tiny",
    seeds: int | Sequence[int] = 3,
    fractions: Sequence[float] | None = None,
    tune: int = 0,
    race: str = "none",
    directory: str | Path = "multirun/grid",
    config_dir: str | Path | None = None,
    allow: Collection[str] = (),
    progress: bool = True,
    **overrides: Any,
) -> Results:
    """Compare methods on one task: a sweep, as `finegrid sweep` runs it over the same directory.

    It runs in processes of its own, so that a script needs no main guard and a notebook stays
    responsive. What has been run already is not run again: after an interrupt, or with more
    seeds, the same call goes on.

    Example:
        ```python
        finegrid.compare(["full", "bitfit", "lora"], task="mrpc", model="minilm", seeds=10,
                         tune=8, race="best")
        ```

    Args:
        methods: Of `finegrid.methods.names()`, or of `config_dir`.
        task: An option of `task=`, or rows of yours (`finegrid.Task`).
        model: An option of `model=`, a folder or a hub id.
        seeds: How many, from 0 on, or which.
        fractions: Of the training rows; all of them by default.
        tune: How many learning rates to try for each method first, on validation rows and with
            equal effort; the comparison runs with each method's best. 0: the methods' own.
        race: `best` stops methods that cannot be the best any more, `table` those of which every
            difference is known, so that fewer cells are run than seeds times methods; `none` runs
            all, which means to be published need.
        directory: Of the sweep.
        config_dir: A folder with options of yours.
        allow: Packages besides finegrid whose methods may be used.
        progress: Show a bar, in a notebook or on a terminal.
        **overrides: As on the command line: `epochs=3`, or `**{"optim.lr": 1e-3}`.

    Raises:
        UserError: for what is not valid, before anything long begins. A warning says how many
            cells have no result, if any.
    """
    names = not isinstance(methods, str) and all(isinstance(one, str) for one in methods)
    require(names, "compare takes a list of methods' names, such as methods=['full', 'lora']")
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    require(bool(methods) and bool(numbers), "compare needs at least one method and one seed")
    axes = {"method": methods, "seed": list(map(str, numbers)), "data.fraction": fractions}
    swept = [f"{key}={','.join(map(str, each))}" for key, each in axes.items() if each]
    fixed = words({"task": task, "model": model, **_stages(tune, race), **overrides}, allow)
    root = Path(directory).absolute()
    place = tasks.overrides({"hydra.sweep.dir": root, "report": False})
    search = ["--config-dir", str(Path(config_dir).absolute())] if config_dir else []
    cells = _swept(root, [*search, *swept, *fixed, *place], progress=progress, allow=allow)
    return Results(root, tuple(cells), tuple(allow), overrides.get("known", ()))


def _stages(tune: int, race: str) -> dict[str, Any]:
    """The settings of a search before the comparison and of a race in it."""
    counts = isinstance(tune, int) and not isinstance(tune, bool) and tune >= 0
    require(counts, f"tune={shown(tune)} must be a number of rates for each method, such as 8")
    one_of("race", str(race), RaceConfig.QUESTIONS)
    raced = {"race": race} if race != "none" else {}
    return ({"tune.trials": tune} if tune else {}) | raced


def _swept(
    root: Path, arguments: Sequence[str], *, progress: bool, allow: Collection[str]
) -> list[str]:
    """Run a sweep to its end; the names of its cells."""
    require(bool(sys.executable), "there is no Python interpreter to run a sweep with")
    before = _plans(root)
    env = dict(os.environ)
    if allow:  # where this process finds the packages, the sweep does
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "finegrid", "sweep", *arguments]
    with tempfile.TemporaryFile("w+") as errors, _process(command, errors, env) as process:
        _watch(process, root, before, progress=progress)
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    cells = _cells(root, before)
    last = lines[-1] if lines else f"the sweep ended with exit code {process.returncode}"
    said = next((line for line in reversed(lines) if line.startswith(SAID)), last)
    said = said.removeprefix(SAID)
    if not cells:
        raise UserError(said)
    if process.returncode:
        warnings.warn(said, stacklevel=3)
    return cells


def _plans(root: Path) -> set[Path]:
    return set((root / layout.PLANS).glob("*.json"))


def _cells(root: Path, before: Collection[Path]) -> list[str]:
    """The cells of the first sweep that began since, by its plan; none before it is written."""
    new = sorted(_plans(root) - set(before), key=lambda path: path.stat().st_mtime)
    return plan.listed(new[0]).cells if new else []


@contextmanager
def _process(
    command: Sequence[str], errors: Any, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this one, and on an interrupt keeps what has been finished."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=errors, stdin=subprocess.DEVNULL, env=env,
        start_new_session=True, preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()


def _watch(
    process: subprocess.Popen[bytes], root: Path, before: Collection[Path], *, progress: bool
) -> None:
    """Wait for a sweep with a bar of its cells that have ended."""
    ended: set[str] = set()
    with tqdm(desc="cells", disable=not (progress and _looked_at()), leave=False) as bar:
        while process.poll() is None:
            cells = _cells(root, before)  # a search or a race asks for more
            left = [place for place in cells if place not in ended]
            found = plan.outcomes(root, left)
            ended |= {place for place, one in found if one.status in ENDED}
            bar.total, bar.n = len(cells) or None, len(ended)
            bar.refresh()
            with suppress(subprocess.TimeoutExpired):
                process.wait(EVERY)


def _looked_at() -> bool:
    """Whether somebody sees a bar that is drawn over itself: in a notebook or on a terminal."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
