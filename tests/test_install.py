"""The wheel holds all that a run needs, and the command works from it, outside the checkout."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from commands import ENV
from conftest import ROOT

FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
NEEDED = {  # of the checkout -> where it lies in the wheel
    "src/finegrid/**/*.py": ("src", ""),
    "src/hydra_plugins/**/*.py": ("src", ""),
    "src/finegrid/report/html/page.*": ("src", ""),
    "src/finegrid/data/neutral.txt": ("src", ""),
    "src/finegrid/data/builtin/tiny/*": ("src", ""),
    "src/finegrid/data/builtin/tiny_llama/*": ("src", ""),
    "conf/**/*": ("conf", "finegrid/conf"),
    "docs/results/*/runs.parquet": ("docs/results", "finegrid/results"),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the source archive, unpacked."""
    work = tmp_path_factory.mktemp("build")
    source = work / "source"
    for name in ("src", "conf", "docs/results"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in FILES:
        shutil.copy(ROOT / name, source)
    with tarfile.open(_built("sdist", source, work)) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    with zipfile.ZipFile(_built("wheel", unpacked, work)) as archive:
        archive.extractall(work / "site")
    return work / "site"


def _built(kind: str, source: Path, out: Path) -> Path:
    code = f"from setuptools import build_meta as b; print(b.build_{kind}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def test_the_wheel_holds_all_that_is_needed(wheel: Path) -> None:
    for pattern, (top, place) in NEEDED.items():
        files = [path for path in ROOT.glob(pattern) if path.is_file()]
        assert files, pattern
        for path in files:
            assert (wheel / place / path.relative_to(ROOT / top)).is_file(), path
    entry = next(wheel.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")
    assert "finegrid = finegrid.cli:main" in entry


def test_the_command_runs_a_method_of_ones_own(wheel: Path, tmp_path: Path) -> None:
    """In an empty directory, with a YAML that no checkout has."""
    mine = tmp_path / "mine/method/queries.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "# queries: the bias terms of the queries train\n"
        "name: queries\n_target_: finegrid.methods.bitfit.BitFit\nroles: [query]\n"
        "fuses: true\nrecipe: {lr: {default: 1e-3}}\n",
        encoding="utf-8",
    )
    command = ["-m", "finegrid", "train", "--config-dir", "mine", "method=queries",
               "experiment=smoke", "hydra.run.dir=run"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env={**ENV, "PYTHONPATH": str(wheel)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "queries on builtin_paraphrase" in done.stdout
    record = json.loads((tmp_path / "run/record.json").read_text(encoding="utf-8"))
    assert record["git_commit"] is None, "the code of the checkout was used"
    assert record["command"].startswith("finegrid train --config-dir mine method=queries")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]
