"""Sweeps through `hydra/launcher=slurm` on a real cluster, such as scripts/slurmbox.sh makes.

On a cluster of many nodes give pytest a `--basetemp` that all of them see.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from finegrid.runs.record import Record, read


def answer(*command: str) -> str:
    """What a SLURM command says, or nothing where there is no cluster."""
    if shutil.which(command[0]) is None:
        return ""
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return result.stdout if result.returncode == 0 else ""


NODES = answer("sinfo", "--noheader", "--format=%T %G")
GPUS = "gpu:" in NODES.replace("gpu:0", "")
PLUGIN = find_spec("submitit") and find_spec("hydra_plugins.hydra_submitit_launcher")

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("sbatch") and NODES),
        reason="no SLURM: neither sbatch on PATH nor sinfo answering (see scripts/slurmbox.sh)",
    ),
    pytest.mark.skipif(not PLUGIN, reason="pip install 'finegrid[slurm]'"),
]

Sweep = tuple[subprocess.CompletedProcess[str], dict[str, Record]]


def sweep(directory: Path, *overrides: str) -> Sweep:
    """Sweep with small jobs; what the command said and the records by the job's id."""
    command = [
        sys.executable, str(ROOT / "train.py"), "-m", "task=builtin_paraphrase", "model=tiny",
        "budget=steps", "evaluations=1", "report=false", f"hydra.sweep.dir={directory}",
        "hydra/launcher=slurm",
        "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=5",
        f"hydra.launcher.gpus_per_node={1 if GPUS else 'null'}", *overrides,
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    found = [path.parent for path in directory.rglob("record.json")]
    return result, {job(run): read(run) for run in found}


def job(run: Path) -> str:
    """SLURM's id of the job that ran a cell."""
    text = (run / ".hydra/hydra.yaml").read_text(encoding="utf-8")
    return str(yaml.safe_load(text)["hydra"]["job"]["id"])


def output(directory: Path, job: str) -> str:
    """What a job printed."""
    return (directory / f".submitit/{job}/{job}_0_log.out").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    """A sweep of four cells whose jobs say which device they got."""
    directory = tmp_path_factory.mktemp("slurm")
    say = "hydra.launcher.setup=['echo device=$CUDA_VISIBLE_DEVICES.']"
    cells = ("method=head,bitfit", "seed=0,1", "budget.steps=5")
    return directory, sweep(directory, *cells, say)


def test_every_cell_is_a_job_and_leaves_its_record(four: tuple[Path, Sweep]) -> None:
    directory, (result, records) = four
    assert result.returncode == 0, result.stderr
    found = sorted((r.method, r.seed, r.status, r.steps) for r in records.values())
    assert found == [(m, s, "ok", 5) for m in ("bitfit", "head") for s in (0, 1)]
    assert len({record.cell for record in records.values()}) == 4
    assert all("Job completed successfully" in output(directory, job) for job in records)


@pytest.mark.skipif(not GPUS, reason="the cluster has no GPUs (slurmbox.sh up DIR 2 fakes two)")
def test_every_job_sees_one_device_of_its_own(four: tuple[Path, Sweep]) -> None:
    directory, (_, records) = four
    devices = {job: re.findall(r"device=(.*)\.", output(directory, job)) for job in records}
    assert all(len(seen) == 1 and seen[0].isdigit() for seen in devices.values()), devices
    for one, other in combinations(records, 2):
        first, second = records[one], records[other]
        if first.started < second.finished and second.started < first.finished:
            assert devices[one] != devices[other], "both ran at the same time"


def test_a_failing_cell_leaves_the_others_alone(tmp_path: Path) -> None:
    result, records = sweep(tmp_path, "method=full", "optim.lr=1e-3,1e30", "budget.steps=20")
    assert sorted(record.status for record in records.values()) == ["diverged", "ok"]
    assert result.returncode == 1
    assert "the loss became nan" in result.stdout + result.stderr
