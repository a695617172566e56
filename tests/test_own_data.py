"""`task=custom`: a user's own rows on every way through the program, whatever their labels."""

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import call
from conftest import FUSING, composed, run_cell
from omegaconf import OmegaConf
from test_groups import cell

from finegrid.config import register_resolvers
from finegrid.data import preflight
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.grid import job
from finegrid.grid import plan as survey
from finegrid.grid.eta import Evidence, Wanted, past
from finegrid.grid.grouping import grouped
from finegrid.grid.status import Store
from finegrid.inference import predict_file
from finegrid.report.load import rankings
from finegrid.runs import delta
from finegrid.runs.layout import cell_of
from finegrid.runs.record import Record, read
from finegrid.runs.spec import RunSpec
from finegrid.storage.paths import CONF
from finegrid.strategies import fused_trainer
from finegrid.strategies.fused_trainer import run_together
from finegrid.strategies.single import run as run_alone
from finegrid.training.cost import CostMonitor
from finegrid.tuning import search as tuning

SHORT = ("model=tiny", "trainer=cpu", "budget=steps", "budget.steps=2", "evaluations=1")
GRADED = ("task.kind=regression",)
KINDS = {  # -> rows, classes (none: graded labels), what the task is told
    "two classes": (60, 2, ()),
    "three classes": (90, 3, ()),
    "sixty classes": (300, 60, ()),
    "graded": (60, None, GRADED),
}


def own_rows(path: Path, rows: int, classes: int | None, *, prefix: str = "team") -> Path:
    """A file whose texts tell their label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "reply", "team"])
        for i in range(rows):
            label = f"{i % 7 / 2}" if classes is None else f"{prefix} {i % classes}"
            writer.writerow([f"the dog sees cat {i}", f"it is number {i % (classes or 7)}", label])
    return path


def own_task(path: Path, *more: str) -> tuple[str, ...]:
    """Overrides for a task over a file."""
    columns = ("task.text=[message,reply]", "task.label=team")
    return ("task=custom", f"task.train={path}", *columns, *SHORT, *more)


def own_kind(kind: str, directory: Path) -> tuple[str, ...]:
    rows, classes, more = KINDS[kind]
    return own_task(own_rows(directory / "rows.csv", rows, classes), *more)


def request(directory: Path, *overrides: str, key: str | None = None) -> RunSpec:
    """A cell of a sweep, with what Hydra would have left in its directory."""
    cfg = composed(*overrides)
    (directory / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, directory / ".hydra" / "config.yaml")
    return RunSpec.of(cfg, directory, overrides, sweep="sweep", key=key)


def fused(root: Path, lines: Sequence[Sequence[str]]) -> list[Record]:
    """Cells that share one pass."""
    run_together([request(root / str(n), *line) for n, line in enumerate(lines)], most=len(lines))
    return [read(root / str(n)) for n in range(len(lines))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_has_an_output_for_each_label(kind: str, tmp_path: Path) -> None:
    told, (_, classes, _) = own_kind(kind, tmp_path), KINDS[kind]
    lines = [(*told, "method=lora", "seed=0"), (*told, "method=head", "seed=1")]
    shared = fused(tmp_path / "fused", lines)
    alone = [run_cell(tmp_path / f"alone{n}", *line) for n, line in enumerate(lines)]
    assert [(one.status, one.fused, one.error) for one in shared] == [("ok", 2, None)] * 2
    for one, other in zip(shared, alone, strict=True):
        assert one.params_head == other.params_head == 129 * (classes or 1)
        assert one.validation == pytest.approx(other.validation, abs=1e-4)
        assert one.metrics["test"] == pytest.approx(other.metrics["test"], abs=1e-4)
    used(tmp_path / "fused/0", tmp_path / "rows.csv", kind)
    used(tmp_path / "alone1", tmp_path / "rows.csv", kind)


def used(directory: Path, file: Path, kind: str) -> None:
    """Predict with a run and export it: its labels are those of the rows."""
    rows, classes, _ = KINDS[kind]
    labels = delta.metadata(directory / delta.FILE)["labels"]
    assert sorted(labels) == sorted(f"team {i}" for i in range(classes or 0))
    assert predict_file(directory, file, directory / "out.csv") == rows
    with (directory / "out.csv").open(encoding="utf-8") as written:
        header, first, *_ = csv.reader(written)
    assert header[3:] == ["prediction", *(f"score_{label}" for label in labels)]
    assert first[3] in labels if classes else float(first[3])
    export(directory, "merged", directory / "merged")
    config = json.loads((directory / "merged/config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == (labels or ["LABEL_0"])


@pytest.mark.nightly  # two methods of a pass stand for all
def test_every_method_that_fuses(tmp_path: Path) -> None:
    told = own_kind("sixty classes", tmp_path)
    found = fused(tmp_path, [(*told, f"method={name}") for name in FUSING])
    assert {(one.status, one.fused, one.error) for one in found} == {("ok", len(FUSING), None)}


@pytest.mark.parametrize("kind", ["three classes", "graded"])
def test_trials_are_tuned(kind: str, tmp_path: Path) -> None:
    told = (*own_kind(kind, tmp_path), "experiment=tune")
    methods, trials = ("bitfit", "lora"), ("trial=0", "trial=1")
    runs = fused(tmp_path, [(*told, f"method={m}", t) for m in methods for t in trials])
    assert [(one.status, one.fused, one.test) for one in runs] == [("ok", 4, None)] * 4
    search = tuning.search(runs)
    assert {method: len(search[method]) for method in methods} == {"bitfit": 2, "lora": 2}


def test_small_fractions_have_all_the_files_labels(tmp_path: Path) -> None:
    told = own_kind("three classes", tmp_path)
    lines = [(*told, f"data.fraction={size}", "method=bitfit") for size in (1, 0.5, 0.1)]
    assert [(one.status, one.params_head) for one in fused(tmp_path, lines)] == [("ok", 387)] * 3


CANNOT = {  # what makes a run fail before it trains
    "rows": "data.fraction=0.001",  # leaves classes without rows
    "method": "method.rank=9999",
    "columns": "task.label=reeply",
}


ANY = [(why, which, 3) for why in CANNOT for which in ({0}, {0, 1, 2})]


@pytest.mark.parametrize(
    ("why", "which", "most"),
    [*ANY, ("rows", {0}, None)],  # null: the first run's rows tell how many share a pass
    ids=str,
)
def test_runs_that_cannot_begin_leave_the_others(
    why: str, which: set[int], most: int | None, tmp_path: Path
) -> None:
    told = (*own_kind("three classes", tmp_path), "method=lora")
    lines = [(*told, f"seed={n}", *([CANNOT[why]] if n in which else [])) for n in range(3)]
    requests = [request(tmp_path / str(n), *line) for n, line in enumerate(lines)]
    run_together(requests, most=most)
    found = [read(tmp_path / str(n)) for n in range(3)]
    assert [one.status for one in found] == ["failed" if n in which else "ok" for n in range(3)]
    assert all("Traceback" not in (one.error or "") for one in found)


@pytest.mark.parametrize("which", [{0}, {0, 1}], ids=str)
def test_a_pass_ends_when_its_runs_are_over_before_the_first_step(
    which: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, calls = CostMonitor.on_train_start, iter(range(9))

    def broken(self: CostMonitor, *given: Any) -> None:
        if next(calls) in which:
            raise RuntimeError("no start")
        start(self, *given)

    monkeypatch.setattr(CostMonitor, "on_train_start", broken)
    monkeypatch.setattr(
        fused_trainer.RunBatches, "__iter__", counted(fused_trainer.RunBatches.__iter__)
    )
    told = own_kind("three classes", tmp_path)
    found = fused(tmp_path, [(*told, "method=bitfit"), (*told, "method=lora")])
    assert [one.status for one in found] == ["failed" if n in which else "ok" for n in range(2)]


def counted(each: Any) -> Any:
    """Batches that are asked for again and again end the test, not the machine's patience."""
    times = iter(range(3))

    def batches(self: Any) -> Iterator[Any]:
        if next(times, None) is None:
            raise KeyboardInterrupt
        yield from each(self)

    return batches


GONE = {
    "changed": "changed after the sweep had begun",
    "vanished": "no such file",
    "untouched": "",
}


@pytest.mark.parametrize("what", GONE)
@pytest.mark.parametrize("together", [False, True])
def test_files_that_change_after_the_plan(what: str, together: bool, tmp_path: Path) -> None:
    lines = [(*own_kind("three classes", tmp_path), "method=bitfit", f"seed={n}") for n in (0, 1)]
    keys = [cell(*line).key for line in lines]
    requests = [request(tmp_path / k, *line, key=k) for k, line in zip(keys, lines, strict=True)]
    if what == "changed":
        own_rows(tmp_path / "rows.csv", 99, 3)
    elif what == "vanished":
        (tmp_path / "rows.csv").unlink()
    if together:
        run_together(requests, most=2)
    else:
        for one in requests:
            try_alone(one)
    for key in keys:
        found = read(tmp_path / key)
        assert (found.cell, found.status) == (key, "failed" if GONE[what] else "ok")
        assert GONE[what] in (found.error or "")
        assert "Traceback" not in (found.error or "")


def try_alone(one: RunSpec) -> None:
    with contextlib.suppress(UserError):  # its record says why
        run_alone(one)


APART = {  # sweeps whose values must not share a pass
    "files": ("task.train={}", ("a.csv", "b.csv")),
    "test files": ("task.test={}", ("a.csv", "b.csv")),
    "columns": ("task.text={}", ("[message]", "[message,reply]")),
    "labels": ("task.label={}", ("team", "reply")),
    "kinds": ("task.metrics={}", ("[accuracy]", "[accuracy,f1]")),
}


@pytest.mark.parametrize(("override", "values"), APART.values(), ids=APART)
def test_other_rows_or_labels_never_share_a_pass(
    override: str, values: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_rows(Path("a.csv"), 60, 2)
    own_rows(Path("b.csv"), 60, 3)
    told = own_task(Path("a.csv"))
    cells = [
        cell(*told, override.format(value), f"seed={seed}") for seed in (0, 1) for value in values
    ]
    assert len({one.key for one in cells}) == 4
    jobs = grouped(cells, fuse=8, slots=1)
    assert [len(job) for job in jobs] == [2, 2]
    assert all(len({json.dumps(one.config["task"]) for one in job}) == 1 for job in jobs)


def test_equal_files_make_one_cell_wherever_they_lie(tmp_path: Path) -> None:
    one = own_rows(tmp_path / "tickets.csv", 60, 2)
    (tmp_path / "copy").mkdir()
    other = Path(shutil.copy(one, tmp_path / "copy"))
    assert cell(*own_task(one)).key == cell(*own_task(other)).key
    own_rows(other, 61, 2)
    assert cell(*own_task(one)).key != cell(*own_task(other)).key


NAMES = {  # files and overrides -> the task's name
    "its file's": ("Support Tickets.csv.gz", (), "Support_Tickets"),
    "without an ending": ("tickets", (), "tickets"),
    "its folder's": ("bugs/Train.jsonl", (), "bugs"),
    "of a file that is there": ("train.csv", (), "here"),
    "what it is told": ("tickets.csv", ("task.name=mine",), "mine"),
}


@pytest.mark.parametrize(("file", "more", "name"), NAMES.values(), ids=NAMES)
def test_a_task_is_named_after_its_file(
    file: str, more: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert composed("task=custom", f"task.train={file}", *more).task.name == name


def test_two_files_of_a_folder_are_two_tasks(tmp_path: Path) -> None:
    one = own_rows(tmp_path / "tickets.csv", 60, 2)
    other = Path(shutil.copy(one, tmp_path / "more.csv"))
    cells = [cell(*own_task(path)) for path in (one, other)]
    assert [found.facts["task"] for found in cells] == ["tickets", "more"]
    assert [found.name.split("/")[0] for found in cells] == ["tickets", "more"]
    assert cells[0].key != cells[1].key


ALIKE = {  # two ways to say one thing
    "a column by itself": ("task.text=message", "task.text=[message]"),
    "a metric by itself": ("task.metrics=f1", "task.metrics=[f1]"),
    "the usual metric of classes": ("task.metrics=null", "task.metrics=[accuracy]"),
    "the usual metrics of numbers": (
        "task.kind=regression",
        "task.kind=regression task.metrics=[pearson,spearman]",
    ),
}


@pytest.mark.parametrize(("short", "long"), ALIKE.values(), ids=ALIKE)
def test_a_short_way_is_the_same_cell(short: str, long: str, tmp_path: Path) -> None:
    path = own_rows(tmp_path / "tickets.csv", 60, 2)
    keys = {cell(*own_task(path), *way.split(" ")).key for way in (short, long)}
    assert len(keys) == 1


SEEN = {  # what a sweep is told of its task -> what it says before any job starts
    "good": ((), ""),
    "good, with a test file": (("task.test=rows.csv",), ""),
    "a fraction that is too small for a class": (("data.fraction=0.001",), ""),
    "no file": (("task.train=null",), "task=custom needs task.train=FILE"),
    "no such file": (("task.train=nowhere.csv",), "no such file: nowhere.csv"),
    "no such test file": (("task.test=nowhere.csv",), "no such file: nowhere.csv"),
    "no such column": (("task.text=[massage]",), "no column 'massage'; it has message"),
    "no such label": (("task.label=tim",), "no column 'tim'"),
    "other labels in the test file": (("task.test=other.csv",), "label group 0 must be"),
    "texts as numbers": (GRADED, "must be a number"),
    "metrics of another kind": ((*GRADED, "task.metrics=f1"), "do not fit task.kind=regression"),
}


@pytest.mark.parametrize(("more", "message"), SEEN.values(), ids=SEEN)
def test_a_sweep_looks_at_its_rows_first(
    more: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_rows(Path("rows.csv"), 60, 2)
    own_rows(Path("other.csv"), 20, 2, prefix="group")
    configs = [cell(*own_task(Path("rows.csv")), f"seed={seed}", *more).config for seed in (0, 1)]
    if not message:
        preflight.check(configs)
        return
    with pytest.raises(UserError, match=message) as caught:
        preflight.check(configs)
    assert "\n" not in str(caught.value)


def test_a_report_keeps_other_rows_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, classes in (("a.csv", 2), ("b.csv", 3)):
        told = own_task(own_rows(Path(name), 60, classes), "task.name=custom")
        fused(tmp_path / "runs" / name, [(*told, f"method={m}") for m in ("bitfit", "lora")])
    (tmp_path / "elsewhere").mkdir()
    same = own_task(Path(shutil.copy("a.csv", "elsewhere")), "task.name=custom", "seed=1")
    fused(tmp_path / "same", [(*same, f"method={m}") for m in ("bitfit", "lora")])
    found = rankings.results([tmp_path / "runs"])
    assert set(zip(found.runs["task"], found.runs["method"], strict=True)) == {
        (f"custom task.train={name}", method) for name in ("a.csv", "b.csv")
        for method in ("bitfit", "lora")
    }  # fmt: skip
    assert all("Training times" in note for note in found.notes), "of a busy machine at most"
    found = rankings.results([tmp_path / "runs/a.csv", tmp_path / "same"])
    assert set(found.runs["method"]) == {"bitfit", "lora"}
    assert set(found.runs["task"]) == {"custom"}, "the same rows, told in two ways"
    assert all("Training times" in note for note in found.notes)


def test_the_estimate_of_own_data(tmp_path: Path) -> None:
    told = own_kind("three classes", tmp_path)
    fused(tmp_path / "runs", [(*told, f"method={m}") for m in ("bitfit", "lora")])
    evidence = Evidence(past(tmp_path / "runs"))
    plan = survey.planned([*told, "method=bitfit,lora", "seed=0,1"], conf=composed_from())
    kinds = [evidence.estimate(Wanted.of(one.facts)) for one in plan.cells]
    assert [one.kind for one in kinds if one] == ["runs alike"] * 4


def composed_from() -> Path:
    register_resolvers()
    return CONF


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What everybody does first: own rows, some methods, some seeds; and how it was told."""
    root = tmp_path_factory.mktemp("swept")
    told = [*own_task(own_rows(root / "tickets.csv", 90, 3)), "method=full,bitfit,lora,head"]
    told += ["seed=0,1,2", "report=false", f"hydra.sweep.dir='{root}/grid'"]
    result = call("-m", *told)
    assert result.returncode == 0, result.stderr
    return root, told


def test_a_sweep_over_own_rows(swept: tuple[Path, list[str]]) -> None:
    root, told = swept
    runs = rankings.read_records(root / "grid")
    assert [(one.status, one.params_head) for one in runs] == [("ok", 387)] * 12
    assert {one.fused for one in runs if one.method != "full"} != {1}
    plan = call("-m", *told, "--json", command="plan")
    assert json.loads(plan.stdout)["todo"] == 0
    report = call(str(root / "grid"), command="report")
    assert "### tickets, tiny: accuracy" in report.stdout
    for one in (root / "grid/tickets/tiny").glob("[fb]*/f1-s0-*"):  # one alone, one of a pass
        used(one, root / "tickets.csv", "three classes")


TRIAL = pytest.param(("experiment=tune", "trial=1"), marks=pytest.mark.nightly)


@pytest.mark.parametrize("more", [(), TRIAL, ("data.fraction=0.5",)])
def test_a_job_knows_a_cell_by_the_hash_of_the_sweep(more: tuple[str, ...], tmp_path: Path) -> None:
    planned = survey.planned([*own_kind("graded", tmp_path), *more, "seed=3"], conf=composed_from())
    one = next(found for found in planned.cells if found.facts["method"] == "bitfit")
    store, before = Store(tmp_path), {one.key: ""}
    (place,) = job.write(tmp_path / "jobs", [[one]], store, before, sweep="s")
    (read,) = job.read(place).cells
    register_resolvers()
    config, key = OmegaConf.create(read.config), cell_of(read.directory)
    RunSpec.of(config, read.directory, sweep="sweep", key=key).require_unchanged()
