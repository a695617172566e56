"""A user's own method and kind of task: a package outside finegrid, which `allow` must name."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from commands import ENV, call, errors
from conftest import composed, run_cell
from test_kinds import ORDINAL

from finegrid.config import RunConfig, to_plain
from finegrid.errors import UserError
from finegrid.inference import predict_file, restore
from finegrid.report.load import rankings
from finegrid.runs import identity
from finegrid.runs.record import read

METHOD = '''
from finegrid.methods.base import TuningMethod
from finegrid.models import surgery


class Queries(TuningMethod):
    """The biases of all queries train."""

    def apply(self, backbone, sites):
        for site in sites["query"]:
            surgery.unfreeze(surgery.match(site.module, "bias").values())
'''
YAML = """# queries: a user's own
name: queries
_target_: mypackage.queries.Queries
fuses: true
recipe: {lr: {default: 1e-3}}
"""
SHORT = ("budget=steps", "budget.steps=2", "evaluations=1", "data.fraction=0.1", "trainer=cpu")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `mypackage`, which Python finds, and a folder of options for `--config-dir`."""
    code, options = tmp_path / "code/mypackage", tmp_path / "conf/method"
    code.mkdir(parents=True)
    options.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "queries.py").write_text(METHOD, encoding="utf-8")
    (code / "ordinal.py").write_text(ORDINAL, encoding="utf-8")
    (options / "queries.yaml").write_text(YAML, encoding="utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        monkeypatch.delitem(sys.modules, name)  # another test's
    monkeypatch.syspath_prepend(str(code.parent))
    path = os.pathsep.join([str(code.parent), ENV.get("PYTHONPATH", "")])
    monkeypatch.setitem(ENV, "PYTHONPATH", path)
    return tmp_path


def arguments(package: Path, *more: str) -> tuple[str, ...]:
    """A command with the user's method."""
    return ("--config-dir", str(package / "conf"), "method=queries", *SHORT, *more)


def test_a_package_that_is_not_named_is_refused(package: Path, tmp_path: Path) -> None:
    result = call(*arguments(package, f"hydra.run.dir={tmp_path}/run"))
    assert result.returncode == 1
    (line,) = errors(result)
    assert "method._target_=mypackage.queries.Queries must be a class in finegrid or" in line
    assert "name: add allow=[mypackage]" in line
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        ("allow=[finegrid]", "finegrid is no name of another package"),
        ("allow=[my.package]", "my.package is no name"),
        ("allow=[mypackage] method._target_=mypackage.nothing.X", "No module named"),
        ("allow=[mypackage] method._target_=finegrid.cli.run", "must be a class in finegrid"),
        ("allow=[os] method._target_=os.path.join", "is no tuning method"),
    ],
)
def test_what_it_may_not_name(allow: str, message: str, package: Path, tmp_path: Path) -> None:
    result = call(*arguments(package, *allow.split(" "), f"hydra.run.dir={tmp_path}/run"))
    assert result.returncode == 1
    assert message in errors(result)[0]


@pytest.fixture
def run(package: Path, tmp_path: Path) -> Path:
    """A finished run with the user's method."""
    directory = tmp_path / "run"
    result = call(*arguments(package, "allow=mypackage", f"hydra.run.dir={directory}"))
    assert result.returncode == 0, result.stderr
    return directory


def test_whoever_reads_a_run_names_the_package_anew(run: Path, tmp_path: Path) -> None:
    assert "mypackage" in (run / ".hydra/config.yaml").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"--allow mypackage where a finished run is read"):
        restore(run)
    restored = restore(run, allow=["mypackage"])
    assert restored.logits((["a dog ."], ["a cat ."])).isfinite().all()
    (tmp_path / "rows.csv").write_text("sentence1,sentence2\na dog .,a cat .\n", encoding="utf-8")
    allow = ("--allow", "mypackage")
    commands = {
        "predict": ("--input", str(tmp_path / "rows.csv")),
        "export": ("--to", "merged"),
        "analyse": (),
    }
    for name, more in commands.items():
        result = call(str(run), *more, *allow, command=name)
        assert result.returncode == 0, result.stderr


@pytest.mark.nightly  # a run by itself stands for it
def test_a_sweep_passes_it_on(package: Path, tmp_path: Path) -> None:
    given = arguments(package, "method=queries,head", "allow=[mypackage]")
    result = call("-m", *given, f"hydra.sweep.dir={tmp_path}/grid")
    assert result.returncode == 0, result.stderr
    runs = rankings.read_records(tmp_path / "grid")
    assert sorted((one.method, one.status) for one in runs) == [("head", "ok"), ("queries", "ok")]
    folder = shlex.split(runs[0].command)[2:4]
    assert folder == ["--config-dir", str(package / "conf")], "each run can be run again"


def test_a_changed_method_is_another_cell(package: Path) -> None:
    settings = [f"hydra.searchpath=[file://{package}/conf]", "method=queries", "allow=[mypackage]"]
    plain = to_plain(composed(*settings))
    first = identity.cell(plain)
    (package / "code/mypackage/other.py").write_text("x = 1", encoding="utf-8")
    assert identity.cell(plain) == first
    with (package / "code/mypackage/queries.py").open("a", encoding="utf-8") as file:
        file.write("# changed")
    assert identity.cell(plain) != first


def test_a_kind_of_task_may_come_from_it(package: Path, tmp_path: Path) -> None:
    lines = [f"the film is {'very ' * (n % 4)}good,{n % 4}" for n in range(60)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    told = ("task=custom", f"task.train={tmp_path}/films.csv", "task.kind=mypackage.ordinal",
            "+task.levels=4", "method=head", *SHORT[:3])  # fmt: skip
    with pytest.raises(UserError, match=r"task\.kind=mypackage\.ordinal must be"):
        RunConfig.of(composed(*told))
    run_cell(tmp_path / "run", *told, "allow=[mypackage]")
    assert read(tmp_path / "run").metric == "mae"
    out = tmp_path / "out.csv"
    assert predict_file(tmp_path / "run", tmp_path / "films.csv", out, allow=["mypackage"]) == 60
