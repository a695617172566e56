"""Looking at sweeps: what is planned, what has become of it, how long the rest will take."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import ENV, call, errors
from conftest import ROOT
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from test_report import record

from finegrid.config import RunConfig, register_resolvers
from finegrid.grid import disk, locks
from finegrid.grid.disk import Disk
from finegrid.grid.eta import Evidence, Past, Wanted, of_tables, past
from finegrid.grid.expand import Cell, cells
from finegrid.grid.left import (
    COMPOSE,
    FORK,
    IMPORTS,
    Countdown,
    Running,
    engines,
    left,
    makespan,
)
from finegrid.grid.plan import outcomes
from finegrid.grid.progress import Progress
from finegrid.grid.status import Outcome, Store, outcome
from finegrid.runs import identity, layout, live
from finegrid.runs.live import LiveRun
from finegrid.runs.record import Record, read
from finegrid.runs.text import given_overrides
from finegrid.storage.paths import CONF

SWEEP = [
    "method=head",
    "budget=steps",
    "budget.steps=2",
    "seed=0,1",
    "evaluations=1",
    "report=false",
]


@contextmanager
def composed(*overrides: str, conf: Path = CONF) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Hydra's loader and the config of a sweep."""
    register_resolvers()
    with initialize_config_dir(str(conf), job_name="train", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)


def by_hydra(loader: ConfigLoader, config: DictConfig) -> dict[str, dict[str, Any]]:
    """The cells of a sweep as Hydra's own sweeper splits it, each composed by itself."""
    parameters = dict(config.hydra.sweeper.params)
    lines = {key: f"{key}={value}" for key, value in parameters.items()}
    lines |= {line.partition("=")[0]: line for line in given_overrides(config.hydra)}
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(lines.values()))
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    found = {}
    for job in batch:
        cell = loader.load_sweep_config(config, list(job))
        RunConfig.of(cell)
        with open_dict(cell):
            del cell["hydra"]
        facts = identity.description(dict(OmegaConf.to_container(cell, resolve=True)))
        found[facts["cell"]] = facts
    return found


MIXED = {
    "groups and values": ["method=head,lora", "model=tiny,minilm", "data.fraction=0.1,1"],
    "a value of a group": ["task.subset=a,b", "task=mrpc,rte"],
    "interpolated": ["optim.head_lr=${optim.lr},1e-3", "method=head,full", "optim.lr=1e-3,1e-4"],
    "a value that others read": ["seed=1,2", "data.split_seed=${seed},5"],
    "a new key": ["+model.config.num_hidden_layers=2,3", "method=head,full"],
    "a dict": ["+model.config={num_hidden_layers: 2},{hidden_dropout_prob: 0.2}", "seed=0,1"],
    "lists": ["method=lora", "method.roles=[query],[query,value]", "method.rank=2,4"],
    "budgets": ["budget=steps,epochs", "store=float32,bfloat16"],
    "trials": ["experiment=tune", "method=head,lora", "model=tiny", "trial=0,1"],
    "experiments": ["experiment=smoke,demo", "method=head,full", "data.fraction=0.2"],
    "references": ["method=head", "model=tiny", "seed=0,1", "data.subset_seed=${seed}"],
    "parameters": ["experiment=builtin", "method=head,full", "data.fraction=0.3", "seed=0,1"],
}  # fmt: skip


@pytest.mark.parametrize("overrides", MIXED.values(), ids=MIXED)
def test_each_cell_is_what_hydra_composes(overrides: list[str]) -> None:
    with composed(*overrides) as (loader, config):
        found = cells(loader, config, given_overrides(config.hydra))
        assert {cell.key: cell.facts for cell in found} == by_hydra(loader, config)
    assert len({cell.directory for cell in found}) == len(found)


def test_a_directory_is_named_by_the_axes_that_vary() -> None:
    """Not by what every name holds anyway, nor by an axis of one value."""
    axes = ["method=head,full", "seed=0,1", "optim.lr=1e-3,1e-2", "store=float32,bfloat16"]
    with composed(*axes, "budget=steps", "budget.steps=3") as (loader, config):
        found = cells(loader, config, given_overrides(config.hydra))
    ends = {cell.name.rpartition("/")[2] for cell in found}
    assert ends == {
        f"f1-s{seed}-lr{lr}-store{store}"
        for seed in (0, 1) for lr in ("0.001", "0.01") for store in ("float32", "bfloat16")
    }  # fmt: skip


VARIANTS = ("rslora", "lora_plus", "lora_fa", "dora", "pissa", "adalora", "vera")

GRIDS = {  # experiment and arguments -> cells by what they vary
    "each has its own values": (
        ["experiment=paper2", "method.sparsity=0.5,0.7", "method.layers=top-1,bottom-1"],
        {"full": 1, "head": 1, "layers": 6, "supermask": 2, "mask_magnitude": 2, "mask_random": 2},
    ),
    "an option for all": (["experiment=paper2", "method=lora,ia3"], {"lora": 1, "ia3": 1}),
    "an option and its values for all": (
        ["experiment=paper2", "method=supermask", "method.sparsity=0.5"],
        {"supermask": 1},
    ),
    "a value of a group that no grid chooses": (
        ["experiment=paper1", "data.fraction=0.5", "budget.seconds=2,4"],
        dict.fromkeys(("bitfit", "houlsby", "pfeiffer", "full"), 3),
    ),
    "null is null": (
        ["experiment=lora_minilm", "budget.examples=100"],
        dict.fromkeys(("full", "lora_all", *VARIANTS), 1),
    ),
    "another budget for all": (
        ["experiment=paper1", "budget=steps", "budget.steps=5", "data.fraction=0.1,0.2"],
        dict.fromkeys(("bitfit", "houlsby", "pfeiffer", "full"), 2),
    ),
}


@pytest.mark.parametrize(("arguments", "wanted"), GRIDS.values(), ids=GRIDS)
def test_a_sweep_can_be_several_grids(arguments: list[str], wanted: dict[str, int]) -> None:
    with composed(*arguments, "task=rte", "seed=0", "model=tiny") as (loader, config):
        found = cells(loader, config, given_overrides(config.hydra))
    assert Counter(cell.facts["method"] for cell in found) == wanted
    assert len({cell.directory for cell in found}) == len(found)


def test_what_parts_do_not_tell_is_composed(tmp_path: Path) -> None:
    """Two groups that choose a third one's file together: neither shows it by itself."""
    (tmp_path / "both").mkdir()
    (tmp_path / "both/cpu_none.yaml").write_text("# @package _global_\nevaluations: 5\n")
    (tmp_path / "both/gpu_csv.yaml").write_text("# @package _global_\nevaluations: 2\n")
    main = (ROOT / "conf/train.yaml").read_text(encoding="utf-8")
    last = "  - experiment: null\n"
    main = main.replace(last, f"  - optional both: ${{trainer}}_${{logger}}\n{last}")
    (tmp_path / "train.yaml").write_text(main, encoding="utf-8")
    overrides = [f"hydra.searchpath=[file://{ROOT}/conf]", "trainer=cpu,gpu", "logger=none,csv"]
    with composed(*overrides, conf=tmp_path) as (loader, config):
        found = cells(loader, config, given_overrides(config.hydra))
        assert {cell.key for cell in found} == set(by_hydra(loader, config))
    assert len(found) == 3, "a CPU makes one cell with either logger"


@pytest.mark.slow
def test_plan_before_and_after_a_sweep(tmp_path: Path) -> None:
    sweep = [*SWEEP, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    before = json.loads(call(*sweep, "--json", command="plan").stdout)
    assert not any(tmp_path.iterdir()), "a plan writes nothing"
    assert (before["total"], before["todo"], before["counts"]["missing"]) == (2, 2, 2)
    assert call("-m", *sweep, "hydra/launcher=basic").returncode == 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    after = json.loads(call(*sweep, "-m", "--json", command="plan").stdout)
    assert (after["total"], after["todo"], after["counts"]["ok"]) == (2, 0, 2)
    wider = call(*sweep[:3], sweep[-1], "evaluations=1", "seed=0,1,2", command="plan")
    assert "3 cells: 2 ok, 1 to run" in wider.stdout
    assert "runs alike for 1" in wider.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written
    done = {read(path.parent).cell: path.parent for path in tmp_path.rglob("record.json")}
    assert {cell["cell"] for cell in before["cells"]} == set(done)
    for cell in before["cells"]:
        assert tmp_path / "sweep" / cell["directory"] == done[cell["cell"]]
    status = call(str(tmp_path / "sweep"), command="status")
    assert status.returncode == 0
    assert "2 cells: 2 ok" in status.stdout


def test_plan_of_an_experiment_is_light() -> None:
    code = (
        "import sys; from finegrid import cli; cli.main(['plan', 'experiment=demo', 'seed=0']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENV, cwd=ROOT, check=True
    )
    assert "multirun/demo: 12 cells" in result.stdout
    assert not {"torch", "pyarrow", "pytorch_lightning"} & set(result.stderr.split())


@pytest.mark.nightly
def test_every_method_of_the_experiment_on_all_fits_its_tasks() -> None:
    result = call("experiment=builtin", "seed=0", "data.fraction=0.3", command="plan")
    assert result.returncode == 0, result.stderr
    methods = len(list((ROOT / "conf/method").glob("*.yaml"))) - 2  # by an attribute
    assert f"multirun/builtin: {3 * methods} cells" in result.stdout


BAD = {
    "method": (["method=bitfti,full"], "unknown method=bitfti; did you mean 'bitfit'"),
    "key": (["optim.lrr=1,2"], "unknown key optim.lrr"),
    "value": (["data.fraction=0.1,2"], "data.fraction=2 must lie in (0, 1]"),
    "value between others": (["data.fraction=0.1,2,1"], "data.fraction=2 must lie in (0, 1]"),
    "value of every cell": (["data.fraction=2", "seed=0,1"], "data.fraction=2 must lie in (0, 1]"),
    "interval": (["data.fraction=interval(0,1)"], "give values, not an interval"),
    "retry": (["retry=never"], "retry=never is unknown"),
    "trial": (["trial=0,9"], "trial=9 must be one of 0 to 4"),
    "slots": (["hydra.launcher.cpu_slots=0"], "hydra.launcher.cpu_slots=0 must be at least 1"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_a_mistake_in_a_plan_is_one_line(overrides: list[str], message: str) -> None:
    result = call(*overrides, command="plan")
    assert result.returncode == 1
    assert message in result.stderr
    assert len(errors(result)) == 1
    assert not result.stdout


def ended(directory: Path, **changes: Any) -> Record:
    """Write the record of a run that took 7 seconds, 4 of them for training on 1000 rows."""
    told = {"train_rows": 1000, "epochs": 1.0, "steps": 40, "setup_seconds": 1.0, "device": "cpu"}
    told |= {"train_seconds": 4.0, "eval_seconds": 2.0, "budget": 1.0, "fraction": 1.0}
    told |= {"task": "builtin_paraphrase"}
    made = record("head", 0, 0.5, **(told | changes))
    directory.mkdir(parents=True, exist_ok=True)
    made.write(directory)
    return made


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    """A sweep of five cells: two ok, one failed, one that this process runs, one missing."""
    names = [f"builtin_paraphrase/tiny/head/f1-s{seed}-{seed}" for seed in range(5)]
    (tmp_path / ".sweeps").mkdir()
    plan = {"command": "finegrid sweep --config-dir mine seed=range(5)", "cells": names}
    (tmp_path / ".sweeps/1.json").write_text(json.dumps(plan), encoding="utf-8")
    for name in names[:2]:
        ended(tmp_path / name)
    error = "Traceback ...\nValueError: no luck"
    ended(tmp_path / names[2], status="failed", error=error, overrides=["method=head", "seed=2"])
    claim = locks.acquire(tmp_path / names[3], sweep="1", slot="cpu1")
    assert claim is not None
    with claim:
        yield tmp_path


def test_status_tells_what_runs_what_failed_and_what_is_missing(sweep: Path) -> None:
    result = call(str(sweep), command="status")
    assert result.returncode == 1, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    # how long is left depends on how long the cell has been running by now
    assert "5 cells: 2 ok, 1 failed, 1 running, 1 missing; about " in lines[0]
    assert "1 at a time" in lines[0]
    (running,) = [line for line in lines if line.startswith("cpu1")]
    assert running.startswith(f"cpu1 on {socket.gethostname()} since ")
    assert running.endswith(": builtin_paraphrase/tiny/head/f1-s3-3")
    at = lines.index("failed builtin_paraphrase/tiny/head/f1-s2-2: ValueError: no luck")
    again = f"finegrid sweep --config-dir mine method=head seed=2 hydra.sweep.dir={sweep}"
    assert lines[at + 1] == again
    assert lines[-2:] == ["missing", "builtin_paraphrase/tiny/head/f1-s4-4"]


def test_status_of_a_directory_without_plans_counts_what_lies_there(sweep: Path) -> None:
    (sweep / ".sweeps/1.json").unlink()
    result = call(str(sweep), command="status")
    assert "4 cells: 2 ok, 1 failed, 1 running" in result.stdout
    assert "missing" not in result.stdout


def test_status_watches_until_all_have_ended(sweep: Path) -> None:
    command = [sys.executable, "-m", "finegrid", "status", str(sweep), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2 ok, 1 failed, 1 running, 1 missing\n"
        for seed in (2, 3, 4):
            ended(sweep / f"builtin_paraphrase/tiny/head/f1-s{seed}-{seed}")
        rest = process.stdout.read()
    assert process.returncode == 0
    assert rest.splitlines() == ["5 ok", f"{sweep}: 5 cells: 5 ok"]


def test_status_of_nothing_is_one_line(tmp_path: Path) -> None:
    for directory, message in ((tmp_path, "no plan, record or lock"), (tmp_path / "x", "no such")):
        result = call(str(directory), command="status")
        assert result.returncode == 1
        assert message in result.stderr
        assert len(errors(result)) == 1


@pytest.mark.parametrize(
    "facts",
    [
        '{"host": ["a"], "pid": "x"}',
        '{"since": "abc"}',
        '{"since": 1e400}',
        "[" * 3000,
        '{"slot": "\\u001b"}',
    ],
)
def test_a_strangers_lock_says_nothing(facts: str, tmp_path: Path) -> None:
    (tmp_path / "t/tiny/a/f1-s0-0").mkdir(parents=True)
    (tmp_path / "t/tiny/a/f1-s0-0/.claim-9").write_text(facts, encoding="utf-8")
    (tmp_path / "t/tiny/a/f1-s0-0/.claim-²").touch()
    assert locks.holder(tmp_path / "t/tiny/a/f1-s0-0") == locks.Holder(9)
    assert "1 cells: 1 running" in call(str(tmp_path), command="status").stdout


@pytest.mark.parametrize("name", ["a\\u0000b", "a\\ud800b", "\\u001b[2J"])
def test_a_plan_with_names_of_no_directory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / ".sweeps/1.json").write_text(f'{{"cells": ["{name}"]}}', encoding="utf-8")
    (line,) = errors(call(str(tmp_path), command="status"))
    assert "is no cell's directory" in line


def test_looking_at_another_hosts_claim_writes_nothing(tmp_path: Path) -> None:
    facts = {"host": "elsewhere 1 2", "pid": 1, "birth": "1", "slot": "gpu0", "sweep": "1"}
    (tmp_path / ".claim-1").write_text(json.dumps(facts), encoding="utf-8")
    before = tmp_path.stat().st_mtime_ns
    assert outcome(tmp_path, at=time.time()).status == "running"
    assert outcome(tmp_path, at=time.time() + locks.STALE).status == "missing"
    assert tmp_path.stat().st_mtime_ns == before


def seconds(evidence: Evidence, *, kind: str, **changes: Any) -> float:
    """The estimate for the cell of `ended` with changes, if it is of this kind."""
    facts = {"task": "builtin_paraphrase", "model": "tiny", "method": "head", "fraction": 1.0}
    facts |= {"unit": "epochs", "amount": 1.0}
    found = evidence.estimate(Wanted(**(facts | changes)))
    assert found is not None
    assert found.kind == kind
    return found.seconds


def test_estimates_are_seconds_per_example_times_what_is_left(tmp_path: Path) -> None:
    ended(tmp_path / "a")
    ended(tmp_path / "b", train_seconds=8.0, train_rows=2000, task="mrpc", device="gpu")
    ended(tmp_path / "c", status="failed", train_seconds=800.0)
    evidence = Evidence(past(tmp_path))
    assert evidence.devices == {"cpu": 1, "gpu": 1}
    alike = "runs alike"
    assert seconds(evidence, kind=alike) == pytest.approx(4 + 3)
    assert seconds(evidence, kind=alike, fraction=0.5) == pytest.approx(2 + 3)
    assert seconds(evidence, kind=alike, amount=3.0) == pytest.approx(12 + 3)
    assert seconds(evidence, kind=alike, unit="steps", amount=10.0) == pytest.approx(1 + 3)
    assert seconds(evidence, kind=alike, unit="examples", amount=500.0) == pytest.approx(2 + 3)
    rte = seconds(evidence, kind=alike, unit="steps", amount=10.0, task="rte")
    assert rte == pytest.approx(1.5 + 3)
    assert seconds(evidence, kind=alike, unit="seconds", amount=60.0) == 60 + 3
    assert seconds(evidence, kind=alike, task="mrpc") == pytest.approx(8 + 3)
    assert seconds(evidence, kind=alike, task="rte") == pytest.approx(6 + 3)
    assert seconds(evidence, kind="another method", method="full") == pytest.approx(4 + 3)
    assert seconds(evidence, kind="the budget alone", unit="seconds", model="x", amount=9.0) == 9
    assert evidence.estimate(Wanted("mrpc", "x", "head", 1.0, "epochs", 1.0)) is None


def test_rows_of_a_fraction_tell_those_of_the_whole(tmp_path: Path) -> None:
    ended(tmp_path / "a", fraction=0.5)
    assert seconds(Evidence(past(tmp_path)), kind="runs alike") == pytest.approx(8 + 3)


ASKED = Wanted("builtin_paraphrase", "tiny", "head", 1.0, "epochs", 1.0)


def standing(**changes: Any) -> LiveRun:
    """A run that has done a quarter of its 40 steps in 10 seconds."""
    told: dict[str, Any] = {
        "step": 10,
        "share": 0.25,
        "setup": 2.0,
        "elapsed": 10.0,
        "seconds": 8.0,
        "loss": 0.5,
    }
    told |= {"examples": 250, "tokens": 5000, "rows": 1000, "unit": "epochs", "amount": 1.0}
    return LiveRun(**(told | {"metric": "f1", "score": 0.75} | changes))


def job(number: int, *lives: LiveRun | None, since: float = 0.0) -> list[tuple[Wanted, Running]]:
    """The cells of one process."""
    holder = locks.Holder(1, "here", number, slot=f"cpu{number}", since=since)
    return [(ASKED, Running(holder, live)) for live in lives]


def test_the_time_left_counts_the_steps_of_cells_that_run() -> None:
    ended = Past(ASKED, 1000, {"examples": 1000, "steps": 40}, training=32.0, rest=3.0, after=1.0)
    one = job(1, standing())
    assert left(one, [], [], slots=1) == 30
    assert left(one, [], [ended], slots=1) == 30 + 1
    assert left(job(1, standing(age=20.0)), [], [], slots=1) == 10
    assert left(job(1, standing(age=99.0)), [], [], slots=1) == 0, "it hangs"
    shared = job(1, standing(), standing(share=0.5), None)
    assert left(shared, [], [ended], slots=1) == 30 + 2 + 35, "side by side, then others"
    assert left(one, [ASKED], [], slots=1) == 30 + 42 + FORK, "what runs tells of what waits"
    assert left(one, [ASKED, ASKED], [ended], slots=2) == 31 + 35 + FORK
    assert left([*one, *job(2, standing(share=0.5))], [ASKED], [ended], slots=2) == 11 + 35 + FORK
    assert left(job(1, None), [ASKED], [], slots=1) is None, "nothing tells"


def test_the_time_left_falls_or_says_why_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("finegrid.grid.left.time.monotonic", lambda: now[0])
    countdown = Countdown()
    lines = []
    for at, estimate, many, slots in (
        (0, 100, 5, 2), (10, 95, 5, 2), (20, 60, 5, 2), (30, 80, 5, 1), (40, 70, 5, 1),
        (90, 21, 5, 1), (95, 90, 6, 1), (100, 200, 6, 1),
    ):  # fmt: skip
        now[0] = at
        lines.append(countdown.text(estimate, cells=many, slots=slots))
    more = " left (more than before: "
    assert lines == [
        "about 1.7 min left",
        "about 1.5 min left",
        "about 1 min left",
        f"about 1.3 min{more}fewer jobs at a time)",
        "about 1.2 min left",
        "about 20 s left",
        f"about 1.5 min{more}cells were added)",
        f"about 3.3 min{more}cells take longer than reckoned)",
    ]


def test_the_view_of_a_sweep_counts_what_is_queued_and_tells_of_what_runs(tmp_path: Path) -> None:
    facts = {"task": "t", "model": "tiny", "method": "a", "fraction": 1.0}
    facts |= {"budget_unit": "epochs", "budget": 1.0}
    made = [Cell(str(k), (), f"t/tiny/a/f1-s{k}", facts, {}) for k in range(4)]
    ends = lambda cell: Outcome("ok") if cell.key == "0" else None  # noqa: E731
    progress = Progress(made, Store(tmp_path), ends)
    held = [locks.acquire(tmp_path / one.directory, sweep="1", slot="cpu0") for one in made[1:3]]
    live.write(tmp_path / made[2].directory, standing())
    progress.look()
    assert progress.line().startswith("1/4 cells, 1 ok, 2 running, 1 queued")
    (line,) = progress.slot_lines()
    at = "step 10 / 40, loss 0.5000, validation f1 0.7500"
    assert line == f"cpu0     t/tiny/a/f1-s2 and 1 more: {at}"
    assert all(held)


BAD_LIVE = {
    "half": lambda text: text[:30],
    "no number": lambda text: text.replace("0.25", '"x"'),
    "infinite": lambda text: text.replace("10.0", "Infinity"),
    "no share": lambda text: text.replace("0.25", "0"),
    "lacks": lambda text: text.replace("share", "shore"),
    "control": lambda text: text.replace('"f1"', '"f\\u001b1"'),
}


@pytest.mark.parametrize("spoil", BAD_LIVE.values(), ids=BAD_LIVE)
def test_what_a_broken_file_says_of_a_run_is_not_shown(spoil: Any, tmp_path: Path) -> None:
    live.write(tmp_path, standing())
    path = tmp_path / layout.LIVE
    assert live.read(tmp_path, at=path.stat().st_mtime + 5) == standing(age=5.0)
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert live.read(tmp_path) is None


def test_a_cell_is_queued_while_its_sweep_runs(sweep: Path) -> None:
    place = "builtin_paraphrase/tiny/head/f1-s4-4"
    claim = locks.acquire(sweep / ".sweeps/1", sweep="1", slot="")
    assert claim is not None
    assert dict(outcomes(sweep, [place]))[place].status == "queued"
    live.write(sweep / "builtin_paraphrase/tiny/head/f1-s3-3", standing())
    told = call(str(sweep), command="status").stdout
    assert "5 cells: 2 ok, 1 failed, 1 running, 1 queued; about 3" in told
    assert "f1-s3-3: step 10 / 40, loss 0.5000, validation f1 0.7500\n" in told
    assert f"\nqueued\n  {place}\n" in told
    claim.release()
    assert dict(outcomes(sweep, [place]))[place].status == "missing"


def test_the_sweeps_own_records_come_first(tmp_path: Path) -> None:
    ended(tmp_path / "own/a")
    ended(tmp_path / "other/b", train_seconds=400.0)
    own, other = past(tmp_path / "own"), past(tmp_path, but=[tmp_path / "own"])
    assert [run.training for run in other] == [400.0]
    assert seconds(Evidence(own, other), kind="runs alike") == 7
    assert seconds(Evidence([], other), kind="runs alike") == 403


def test_published_results_tell_how_long_it_takes(tmp_path: Path) -> None:
    ended(tmp_path / "runs/a", cell="0123456789ab")
    assert call(str(tmp_path / "runs"), f"--out={tmp_path}/r", command="report").returncode == 0
    assert of_tables(tmp_path / "r") == past(tmp_path / "runs")
    assert of_tables(tmp_path / "r/runs.parquet") == past(tmp_path / "runs")
    grid = ["method=head,full", "model=tiny", "task=builtin_paraphrase"]
    for more in (f"--records={tmp_path}/r/runs.parquet", f"known=[{tmp_path}/r]"):
        told = call(*grid, more, command="plan").stdout
        assert "told from past runs (1 on cpu): runs alike for 1, another method for 1" in told
    assert errors(call(*grid, f"--records={tmp_path}/x", command="plan")) == [
        f"finegrid: --records {tmp_path}/x: no such file or directory"
    ]


def planned_cells(*overrides: str) -> list[Cell]:
    with composed(*overrides) as (loader, config):
        return cells(loader, config, given_overrides(config.hydra))


def test_bytes_are_those_of_past_runs_or_else_the_most_that_they_can_be(tmp_path: Path) -> None:
    made = planned_cells("method=head,full", "model=tiny", "seed=0,1")
    ended(tmp_path / "a", delta_bytes=1000)
    ended(tmp_path / "b", delta_bytes=3000)
    found = disk.of_cells(made, Evidence(past(tmp_path)), tmp_path / "not/yet")
    whole = 4 * made[-1].config["model"]["parameters"]
    assert found.bytes == 2 * 2000 + 2 * whole + 4 * disk.BESIDE
    assert found.bound
    assert found.text().startswith("disk: at most ")
    only = disk.of_cells(made[:2], Evidence(past(tmp_path)), tmp_path)
    assert not only.bound
    none = planned_cells("method=full", "model=tiny", "store=none")
    assert disk.of_cells(none, Evidence(), tmp_path).bytes == disk.BESIDE


def test_where_it_comes_to_much_what_trains_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "SMALL", 0)
    evidence, methods = Evidence(), "method=full,bitfit,mask_random,sparse"
    found = {
        cell.facts["method"]: disk.of_cells([cell], evidence, tmp_path).bytes - disk.BESIDE
        for cell in planned_cells(methods, "model=bert-base", "task=mrpc")
    }
    head, matrices = 768 * 2 + 2, 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert found["full"] == 4 * (109_482_240 + head)
    assert found["bitfit"] == 4 * (102_912 + head)
    assert found["mask_random"] == matrices // 8 + 4 * head
    assert found["sparse"] == pytest.approx((0.005 * 4 + 1 / 8) * matrices, rel=0.01)
    (half,) = planned_cells("method=full", "model=bert-base", "task=mrpc", "store=bfloat16")
    assert disk.of_cells([half], evidence, tmp_path).bytes - disk.BESIDE == found["full"] // 2


def test_a_disk_that_has_less_is_a_warning() -> None:
    assert "warning" not in Disk(10**6, bound=False, free=10**6).text()
    some = Disk(10**6, bound=False, free=10**9, unknown=3).text()
    assert "about 1 MB and the deltas of 3 cells, of unknown size to write" in some
    line, warning = Disk(91_000_000, bound=False, free=10**6).text().splitlines()
    assert line == "disk: about 91 MB to write, 1 MB free"
    assert warning.startswith("warning: that is more than the disk has; store=bfloat16")


def test_engines() -> None:
    assert makespan([3, 3, 4, 1], 2) == 7
    times = engines([10.0] * 4, {"slots": 2})
    assert times["slots"] == IMPORTS + 2 * (10 + FORK)
    assert times["basic, one cell at a time"] == IMPORTS + 4 * (10 + COMPOSE)
    assert times["a fresh process for each cell"] == 4 * (10 + IMPORTS)
    assert engines([], {"slots": 2}) == {}
