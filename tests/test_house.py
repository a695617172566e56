"""The house rules that a machine can check: imports flow one way, pins agree, YAML composes."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from commands import call
from conftest import METHODS, MODELS, ROOT, TASKS, composed
from packaging.requirements import Requirement

from finegrid import methods
from finegrid.commands.catalogue import options
from finegrid.config import RunConfig

SRC = ROOT / "src/finegrid"
HEAVY = {"torch", "pytorch_lightning", "transformers", "datasets", "torchmetrics", "wandb"}
# wing -> the wings below it that it may import, anywhere in its files; data flows from the top down
# fmt: off
WINGS = {
    "errors": set(),
    "seeds": set(),
    "config": {"errors", "recipes", "tasks"},
    "recipes": {"errors"},
    "storage": {"errors"},
    "tasks": {"errors"},
    "data": {"config", "errors", "storage", "tasks"},
    "fetch": {"errors", "storage"},
    "kernels": set(),
    "models": {"config", "errors", "seeds", "storage", "tasks"},
    "methods": {"config", "data", "errors", "models", "seeds", "storage", "tasks"},
    "runs": {"config", "data", "errors", "models", "recipes", "storage", "tasks"},
    "tracking": {"errors", "runs", "storage"},
    "training": {
        "config", "data", "errors", "kernels", "methods", "models", "runs", "seeds", "storage",
        "tasks", "tracking",
    },
    "strategies": {
        "config", "data", "errors", "kernels", "methods", "models", "runs", "storage", "training",
    },
    "inference": {
        "config", "data", "errors", "methods", "models", "runs", "seeds", "storage", "tasks",
        "training",
    },
    "grid": {
        "config", "data", "errors", "methods", "models", "recipes", "report", "runs", "storage",
        "strategies", "training", "tuning",
    },
    "analysis": {
        "config", "data", "errors", "inference", "methods", "models", "runs", "seeds", "tasks",
    },
    "export": {
        "config", "data", "errors", "inference", "methods", "models", "runs", "storage", "training",
    },
    "api": {
        "config", "data", "errors", "export", "grid", "inference", "methods", "models", "report",
        "runs", "seeds", "storage", "strategies", "tasks", "training",
    },
    "report": {"errors", "runs", "storage"},
    "tuning": {"errors", "recipes", "report", "runs"},
    "studies": {"report", "runs"},
    "commands": {
        "analysis", "config", "errors", "export", "fetch", "grid", "inference", "report", "runs",
        "storage", "studies", "tracking", "tuning",
    },
    "cli": {"commands", "config", "errors"},
}
# fmt: on


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_of(module: str) -> list[Path]:
    """The files of a module or package of ours."""
    package = SRC / module
    return sorted(package.rglob("*.py")) if package.is_dir() else [SRC / f"{module}.py"]


@pytest.mark.parametrize(("wing", "allowed"), WINGS.items(), ids=WINGS)
def test_data_flows_one_way(wing: str, allowed: set[str]) -> None:
    for path in files_of(wing):
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("finegrid.")}
        assert ours - {"__version__", wing} <= allowed, path


def test_the_root_of_the_package_is_easy_to_survey() -> None:
    assert len(list(SRC.glob("*.py"))) <= 8


def test_every_module_stands_in_a_wing() -> None:
    there = {path.stem for path in SRC.glob("*.py")} - {"__init__", "__main__"}
    assert there | {path.parent.name for path in SRC.glob("*/__init__.py")} == set(WINGS)


@pytest.mark.parametrize("module", ["models/surgery", "models/sites"])
def test_primitives_know_torch_alone(module: str) -> None:
    outside = {name.split(".")[0] for path in files_of(module) for name in imports(path)}
    known = {"torch", "finegrid", *sys.stdlib_module_names}
    assert outside <= known


def test_methods_do_not_import_one_another() -> None:
    for path in set(files_of("methods")) - {SRC / "methods/__init__.py"}:  # which lists them
        ours = {name for name in imports(path) if name.startswith("finegrid.methods.")}
        shared = ("finegrid.methods.base", "finegrid.methods.modules")
        assert all(name.startswith(shared) for name in ours), path


def test_one_lightning_only() -> None:
    for path in (*SRC.rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        assert not any(name.split(".")[0] == "lightning" for name in imports(path)), path


LIGHT = [
    "finegrid.methods",
    "finegrid.cli",
    "finegrid.grid.plan",
    "finegrid.grid.sweep",
    "finegrid.runs.record",
    "finegrid.report.tables",
    "finegrid.tuning.write",
    "finegrid.report.load.published",
    "finegrid.tracking.wandb_sync",
]


def test_light_modules_stay_light() -> None:
    code = f"import sys, {', '.join(LIGHT)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(found.stdout.split())


def test_files_are_short() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in SRC.rglob("*.py")
    }
    assert max(lengths.values()) <= 400
    assert sorted(lengths.values())[len(lengths) // 2] <= 120


@pytest.mark.parametrize(
    "override",
    [f"method={name}" for name in METHODS] + [f"model={name}" for name in MODELS]
    + [f"task={name}" for name in TASKS]
    + [f"budget={path.stem}" for path in sorted((ROOT / "conf/budget").glob("*.yaml"))]
    + [f"trainer={path.stem}" for path in sorted((ROOT / "conf/trainer").glob("*.yaml"))]
    + [f"logger={path.stem}" for path in sorted((ROOT / "conf/logger").glob("*.yaml"))]
    + [f"experiment={name}" for name in options("experiment")],
)  # fmt: skip
def test_every_yaml_composes_and_is_valid(override: str) -> None:
    config = RunConfig.of(composed(override))
    assert config.optim.lr > 0
    group, _, option = override.partition("=")
    if group in ("method", "task", "model"):
        assert composed(override)[group].name == option, "option name = file = table row"


def pins(lines: list[str]) -> dict[str, str]:
    """Package -> version of `name==version` lines."""
    found = (re.fullmatch(r"\s*(?:- )?([A-Za-z0-9_.-]+)==([^\s;]+).*", line) for line in lines)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def test_the_pins_are_within_the_ranges_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["test"]
    ranges = {one.name.lower(): one.specifier for one in map(Requirement, lines)}
    lock = pins((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (listed,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pins(listed) == {name: lock[name] for name in ranges}
    outside = {name: lock[name] for name, one in ranges.items() if lock[name] not in one}
    assert not outside
    assert all(">=" in str(one) for one in ranges.values())


def test_the_lock_is_what_is_installed() -> None:
    from importlib.metadata import version

    lock = pins((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    installed = {name: version(name).partition("+")[0] for name in lock}
    assert installed == lock


def test_readme_teaches_a_method_in_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's worked example, run as written: its files, its command."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(?:python|yaml)\n# file: (\S+)\n(.*?)```", text, re.DOTALL))
    assert sorted(Path(name).suffix for name in blocks) == [".py", ".yaml"]
    for name, content in blocks.items():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    option = next(Path(name).stem for name in blocks if name.endswith(".yaml"))
    monkeypatch.setattr(
        methods, "__path__", [*methods.__path__, f"{tmp_path}/src/finegrid/methods"]
    )
    run, conf = tmp_path / "run", tmp_path / "conf"
    result = call(
        f"method={option}", "experiment=smoke", f"hydra.run.dir={run}",
        f"hydra.searchpath=[file://{conf}]",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"{option} on builtin_paraphrase" in result.stdout
    assert (run / "record.json").is_file()
