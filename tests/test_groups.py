"""Which cells go into one job, and what becomes of them there."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import FACTS, composed
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.grid import job
from finegrid.grid.expand import Cell
from finegrid.grid.grouping import grouped, jobs_of
from finegrid.grid.stages import Stages
from finegrid.grid.status import Store
from finegrid.grid.sweep import Sweep
from finegrid.runs import identity
from finegrid.runs.record import Record

TOLD = re.compile(f"{job.VARIABLE}='(.*)'")


def cell(*overrides: str) -> Cell:
    plain: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
    facts = identity.description(plain)
    name = f"{facts['task']}/tiny/{facts['method']}/f{facts['fraction']:g}-s{facts['seed']}"
    return Cell(facts["cell"], overrides, name, facts, plain)


def seeds(*more: str, count: int = 4) -> list[Cell]:
    return [cell(f"seed={seed}", *more) for seed in range(count)]


def test_as_many_jobs_for_every_slot() -> None:
    assert [jobs_of("auto", cells=n, slots=2) for n in (1, 4, 9, 18, 33)] == [1, 4, 4, 4, 6]
    assert jobs_of("auto", cells=50, slots=None) == 50  # a launcher that does not tell its slots
    assert jobs_of(3, cells=50, slots=None) == 17
    for wrong in (0, -1, "all", True, 1.5):
        with pytest.raises(UserError, match="must be auto or a number of at least 1"):
            jobs_of(wrong, cells=1, slots=1)  # type: ignore[arg-type]


def test_seeds_methods_and_fractions_share_a_job() -> None:
    cells = [
        *seeds("method=bitfit", count=2),
        *seeds("method=lora", "data.fraction=0.5", count=2),
        cell("method=bitfit", "optim.lr=1e-4"),
    ]
    (job,) = grouped(cells, fuse=8, slots=1)
    assert sorted(one.key for one in job) == sorted(one.key for one in cells)
    assert [one.facts["fraction"] for one in job] == [1, 1, 1, 0.5, 0.5]  # the longest first


@pytest.mark.parametrize(
    "other",
    [
        ("task=builtin_similarity",),
        ("data.batch_size=16",),
        ("budget.epochs=1",),
        ("optim.warmup=0.5",),
        ("trainer.precision=bf16-mixed",),
        ("+model.config.num_hidden_layers=1",),
        ("evaluations=2",),
        ("store=bfloat16",),
    ],
    ids=str,
)
def test_what_makes_another_pass_goes_into_another_job(other: tuple[str, ...]) -> None:
    jobs = grouped([*seeds(count=2), *seeds(*other, count=2)], fuse=8, slots=1)
    assert [len(job) for job in jobs] == [2, 2]


@pytest.mark.parametrize(
    "alone",
    [
        ("method=full",),
        ("method=prompt",),
        ("method=supermask",),
        ("method=dsee",),
        ("model.pretrained=false",),
        ("model=tiny_llama",),
        ("frozen_dropout=false",),
        ("trainer.kernels=false",),
        ("budget=seconds", "budget.seconds=5"),
        ("logger=wandb",),
    ],
    ids=str,
)
def test_what_cannot_share_is_a_job_by_itself(alone: tuple[str, ...]) -> None:
    assert [len(job) for job in grouped(seeds(*alone), fuse=8, slots=1)] == [1, 1, 1, 1]


def test_a_job_says_what_its_cells_are(tmp_path: Path) -> None:
    cells = [cell("seed=0"), cell("experiment=tune", "trial=1", "task=builtin_paraphrase")]
    cells.append(cell("seed=0", "known=[/of/this/machine]"))
    before = {cell.key: cell.key[:3] for cell in cells}
    several = [cells, cells[1:2]]
    places = job.write(tmp_path / "jobs", several, Store(tmp_path), before, sweep="s")
    jobs = [job.read(place) for place in places]
    assert [(one.sweep, one.root, len(one.cells)) for one in jobs] == [
        ("s", tmp_path, 3),
        ("s", tmp_path, 1),
    ]
    assert jobs[0].cells[1] == jobs[1].cells[0]
    for one, read in zip(cells, jobs[0].cells, strict=True):
        assert read.before == before[one.key]
        assert read.directory == tmp_path / one.directory
        assert read.overrides == [line for line in one.overrides if "machine" not in line]
        again = OmegaConf.create(read.config)
        RunConfig.of(again)  # type: ignore[arg-type]
        plain: Any = OmegaConf.to_container(again, resolve=True)
        assert identity.cell(plain) == one.key


class Fake:
    """A launcher in this process whose jobs of several cells may all be lost."""

    width = 1

    def __init__(self, *, lost: bool) -> None:
        self.lost = lost
        self.jobs: list[int] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returns = []
        for overrides in jobs:
            (place,) = (hit[1] for hit in map(TOLD.search, overrides) if hit)
            cells = job.read(place).cells
            self.jobs.append(len(cells))
            returned = JobReturn()
            if len(cells) > 1 and self.lost:
                returned.status = JobStatus.FAILED
                returned.return_value = RuntimeError("the process was killed by SIGKILL")
            else:
                returned.status = JobStatus.COMPLETED
                for path in [one.directory for one in cells]:
                    path.mkdir(parents=True, exist_ok=True)
                    facts = {"seed": 0, "cell": path.name.rpartition("-")[2]}
                    Record(**FACTS, **facts, overrides=[], status="ok").write(path)
            returns.append(returned)
        return returns


@pytest.mark.parametrize("lost", [False, True])
def test_cells_that_went_down_together_are_run_apart(tmp_path: Path, lost: bool) -> None:
    cells = seeds()
    sweep = Sweep(Stages(cells), Store(tmp_path), retry="failed", fail_fast=None, fuse=4)
    fake = Fake(lost=lost)
    sweep.run(fake)  # type: ignore[arg-type]
    assert fake.jobs == ([4, 1, 1, 1, 1] if lost else [4])
    assert [sweep.outcome(one).status for one in cells] == ["ok"] * 4
