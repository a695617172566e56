"""Sweeps whose records decide what is needed: the same cells in any order and after any end."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call, errors
from conftest import FACTS
from hydra.core.utils import JobReturn, JobStatus

from finegrid.api.compare import Results
from finegrid.grid import plan
from finegrid.grid.expand import Cell
from finegrid.grid.known import Known
from finegrid.grid.launcher import StreamingLauncher
from finegrid.grid.stages import Ended, Entry, Stages, entries
from finegrid.grid.status import NOT_NEEDED, Outcome, Store
from finegrid.grid.sweep import Sweep
from finegrid.grid.worker import Job
from finegrid.report.load import rankings
from finegrid.runs import layout
from finegrid.runs.record import Record

SCORES = {"full": 0.9, "lora": 0.8, "head": 0.5}
SEEDS = (0, 1, 2)
TASKS = ("a", "b")


def cell(task: str, method: str, seed: int, *overrides: str) -> Cell:
    number = TASKS.index(task) * 100 + list(SCORES).index(method) * 10 + seed
    key = f"{number:012x}"
    facts = FACTS | {"task": task, "method": method, "seed": seed, "cell": key}
    lines = (f"task={task}", f"method={method}", f"seed={seed}", *overrides)
    config = {"method": {}, "trainer": {"precision": "32"}, "task": {"name": task}}
    return Cell(key, lines, f"{task}/tiny/{method}/f1-s{seed}", facts, config)


BASE = [cell(task, method, seed) for task in TASKS for method in SCORES for seed in SEEDS]


class Best:
    """A race that goes on with the best method of the first seed alone."""

    likely = 0.5

    def __init__(self, store: Store) -> None:
        self.store, self.out = store, dict[str, str]()

    def needed(self, entries: Sequence[Entry], ended: Ended) -> list[Cell]:
        rankings: dict[str, list[Cell]] = defaultdict(list)
        for entry in entries:
            if entry.cell:
                rankings[entry.ranking].append(entry.cell)
        return [cell for members in rankings.values() for cell in self._of(members, ended)]

    def _of(self, members: Sequence[Cell], ended: Ended) -> Iterator[Cell]:
        first = [one for one in members if one.facts["seed"] == SEEDS[0]]
        yield from first
        if all(map(ended, first)):
            frame = self.store.frame(first)
            best = frame["method"].iloc[frame["test"].argmax()]
            for one in members:
                if one.facts["method"] == best:
                    yield one
                elif one not in first:
                    self.out[self.store.place(one)] = "decided at 1 seed"

    def spared(self) -> dict[str, str]:
        return self.out

    def conclude(self) -> None:
        self.store.root.joinpath("race.txt").write_text("\n".join(sorted(self.out)))


NEEDED = [one for one in BASE if one.facts["method"] == "full" or one.facts["seed"] == 0]


def work(root: Path, one: Cell) -> None:
    path = Store(root).path(one)
    path.mkdir(parents=True, exist_ok=True)
    score = SCORES[one.facts["method"]] + one.facts["seed"] / 100
    Record(**one.facts, overrides=list(one.overrides), status="ok", metric="f1", test=score).write(
        path
    )


class Waves:
    """A launcher that is given all its jobs at once."""

    def __init__(self, root: Path, *, ends_after: int = 99) -> None:
        self.root, self.left, self.launched, self.waves = root, ends_after, list[str](), 0

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.waves += 1
        return [self.job(overrides) for overrides in jobs]

    def job(self, overrides: Sequence[str]) -> JobReturn:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        (one,) = (one for one in BASE if one.overrides == tuple(overrides[:3]))
        self.launched.append(one.key)
        work(self.root, one)
        returned = JobReturn()
        returned.status = JobStatus.COMPLETED
        return returned


class Slots(StreamingLauncher):
    """A launcher with two slots, whose jobs end in an order of chance."""

    width = 2

    def __init__(self, root: Path, *, ends_after: int = 99, order: int = 0) -> None:
        self.does, self.random, self.idle = Waves(root, ends_after=ends_after), order, list[int]()
        self.sweep: Sweep

    @property
    def launched(self) -> list[str]:
        return self.does.launched

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.run(self._queue(jobs, 0), b"", lambda job, one: self.ended(job.number, one))
        return []

    def run(self, jobs: Iterable[Job | None], shared: bytes, ended: object) -> None:
        queue, running, chance = iter(jobs), list[Job](), random.Random(self.random)
        while True:
            while len(running) < self.width and (job := next(queue, None)):
                running.append(job)
            if len(running) < self.width:
                over = [self.sweep._ended(one) for one in self.sweep.grow() or self.sweep.cells]
                self.idle.append(over.count(None) - len(running))
            if not running:
                return
            job = running.pop(chance.randrange(len(running)))
            ended(job, self.does.job(job.overrides))


Launcher = Waves | Slots


def raced(root: Path, known: Known | None = None) -> Sweep:
    store = Store(root, known)
    return Sweep(Stages(BASE, race=Best(store)), store, retry="failed", fail_fast=None)


def run(root: Path, launcher: Launcher, known: Known | None = None) -> Sweep:
    sweep = raced(root, known)
    launcher.sweep = sweep  # type: ignore[union-attr]
    sweep.conduct(launcher, command="x")  # type: ignore[arg-type]
    return sweep


def records(root: Path) -> list[str]:
    return sorted(layout.cell_of(path) for path in layout.run_directories(root))


WANTED = sorted(one.key for one in NEEDED)


@pytest.mark.parametrize("order", range(4))
def test_slots_are_fed_as_records_come(tmp_path: Path, order: int) -> None:
    slots = Slots(tmp_path, order=order)
    sweep = run(tmp_path, slots)
    assert records(tmp_path) == sorted(slots.launched) == WANTED
    assert sweep.launches <= 3, "one launch, and what each ranking asked for"
    assert not any(slots.idle), "no slot is free while a cell waits"


def test_other_launchers_go_in_waves(tmp_path: Path) -> None:
    waves = Waves(tmp_path)
    run(tmp_path, waves)
    assert (records(tmp_path), waves.waves) == (WANTED, 2)


@pytest.mark.parametrize("kind", [Waves, Slots])
def test_a_race_that_is_killed_comes_to_the_same_cells(
    tmp_path: Path, kind: type[Launcher]
) -> None:
    launched: list[str] = []
    for after in (1, 4, 2, 0, 99):
        launcher = kind(tmp_path, ends_after=after)
        try:
            run(tmp_path, launcher)
        except KeyboardInterrupt:
            assert after < 99
        launched += launcher.launched
    assert sorted(launched) == records(tmp_path) == WANTED


def test_two_sweeps_at_once_share_the_cells(tmp_path: Path) -> None:
    other, slots = Waves(tmp_path), Slots(tmp_path)

    def ended(number: int, one: JobReturn) -> bool:
        if not other.waves:  # the other sweep does all the rest meanwhile
            run(tmp_path, other)
        return True

    slots.sweep = sweep = raced(tmp_path)
    usual = slots._queue
    slots._queue = lambda *args: (setattr(slots, "ended", ended), usual(*args))[1]  # type: ignore
    sweep.run(slots)
    assert records(tmp_path) == WANTED
    assert len(slots.launched) == 2, "what it had begun"
    assert sweep.stages.spared() == raced(tmp_path).stages.spared()


def test_a_cell_that_is_not_needed_is_not_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = run(tmp_path, Waves(tmp_path))
    end = capsys.readouterr().out
    assert "18 cells" in end
    assert "8 not needed (decided at 1 seed), 10 ok" in end
    (path,) = (tmp_path / layout.PLANS).glob("*.json")
    listed = json.loads(path.read_text())
    assert (len(listed["cells"]), listed["most"], len(listed["spared"])) == (10, 18, 8)
    assert len(plan.listed(path).cells) == 10
    found = dict(plan.outcomes(tmp_path, plan.places(tmp_path)))
    spared = [found[place] for place in sweep.stages.spared()]
    assert spared == [Outcome(NOT_NEEDED, "decided at 1 seed")] * 8
    status = call(str(tmp_path), command="status")
    assert status.returncode == 0, status.stdout
    assert "8 not needed" in status.stdout
    assert tmp_path.joinpath("race.txt").read_text().count("\n") == 7


def test_without_a_race_the_rest_is_run(tmp_path: Path) -> None:
    run(tmp_path, Waves(tmp_path))
    rest = Waves(tmp_path)
    Sweep(Stages(BASE), Store(tmp_path), retry="failed", fail_fast=None).run(rest)  # type: ignore
    assert len(rest.launched) == 8
    assert len(records(tmp_path)) == len(BASE)


def test_methods_of_a_ranking_are_told_apart_by_what_differs() -> None:
    ranks = [cell("a", "lora", 0, f"method.rank={rank}", "retry=none") for rank in (4, 8)]
    found = list(entries([*ranks, cell("a", "full", 0), cell("b", "full", 0)]))
    labels = ["lora method.rank=4", "lora method.rank=8", "full", "full"]
    assert [entry.method for entry in found] == labels
    assert len({entry.ranking for entry in found[:3]}) == 1
    assert found[2].ranking != found[3].ranking


@pytest.mark.parametrize("kind", ["directory", "table"])
def test_known_results_are_not_run_again(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there, root = tmp_path / "there", tmp_path / "here"
    given = [one for one in BASE if one.facts["seed"] == 0]
    for one in given:
        work(there, one)
    if kind == "table":
        rankings.load([there]).to_parquet(tmp_path / "runs.parquet")
        there = tmp_path / "runs.parquet"
    waves = Waves(root)
    sweep = run(root, waves, Known.of(str(there)))
    assert sorted(waves.launched) == sorted({*WANTED} - {one.key for one in given})
    assert "4 ok, 6 ok (known)" in capsys.readouterr().out
    frame = sweep.store.frame(sweep.cells)
    assert sorted(frame["cell"]) == WANTED
    assert frame["test"].notna().all()
    places = tuple(map(sweep.store.place, sweep.cells))
    assert sorted(Results(root, places, known=(str(there),)).runs["cell"]) == WANTED
    status = call(str(root), command="status")
    assert status.returncode == 0, status.stdout


@pytest.mark.parametrize("kind", ["directory", "table", "trial"])
@pytest.mark.parametrize(
    ("asked", "given", "kept"),
    [
        ("auto", ("bf16-mixed", "bf16-mixed"), "bf16-mixed"),
        ("auto", ("bf16-mixed", "32"), None),
        ("auto", ("16-true", "16-true"), None),
        ("32", ("bf16-mixed", "bf16-mixed"), None),
    ],
)
def test_a_sweep_goes_on_in_the_precision_of_what_it_was_given(
    tmp_path: Path, kind: str, asked: str, given: tuple[str, str], kept: str | None
) -> None:
    cells = [replace(c, config=c.config | {"trainer": {"precision": asked}}) for c in BASE[:4]]
    there, root = tmp_path / "there", tmp_path / "here"
    for one, precision in zip(cells[:2], given, strict=True):
        made = Record(**one.facts, overrides=[], status="ok", test=0.5, precision=precision)
        made.trial = 0 if kind == "trial" else None
        path = Store(there).path(one)
        path.mkdir(parents=True)
        made.write(path)
    if kind == "table":
        rankings.load([there]).to_parquet(tmp_path / "runs.parquet")
        there = tmp_path / "runs.parquet"
    store = Store(root, Known.of(str(there)))
    sweep = Sweep(Stages(cells), store, retry="failed", fail_fast=None)
    sweep.conduct(Waves(root), command="x")  # type: ignore[arg-type]
    decided = [path.read_text() for path in (root / layout.PLANS).glob(f"{layout.PRECISION}*")]
    assert decided == [kept] * 2 * (kept is not None)


def test_a_given_trial_counts_as_a_record(tmp_path: Path) -> None:
    one = cell("a", "full", 0)
    one.facts["trial"] = 3
    work(tmp_path / "there", one)
    store = Store(tmp_path / "here", Known.of([str(tmp_path / "there")]))
    assert store.outcome(one).status == "ok"
    record = store.record(one)
    assert record is not None
    assert record.trial == 3


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ("known=nowhere", "known=nowhere: no such file or directory"),
        ("known=[{}]", "no finished run, and no runs.parquet"),
        ("known=[{}/notes.parquet]", "is not a readable parquet file"),
        ("known=a,b", "known=[a,b] is a list"),
        ("race=none,best", "race=none,best is for the sweep"),
        ("race.alpha=2", "race.alpha=2 must lie in (0, 1)"),
    ],
)
def test_a_mistake_in_what_is_given_is_one_line(tmp_path: Path, known: str, message: str) -> None:
    tmp_path.joinpath("notes.parquet").write_text("no table")
    result = call("method=head", known.format(tmp_path), command="plan")
    assert result.returncode == 1
    (line,) = errors(result)
    assert message in line
