"""What makes another cell and what does not, by the hash alone; nothing is run."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import composed
from omegaconf import OmegaConf

from finegrid.config import NOT_ARGUMENTS, MethodConfig
from finegrid.data import builtin
from finegrid.errors import UserError
from finegrid.report.load.rankings import FIELDS
from finegrid.runs import identity, settings


@cache
def cell(*overrides: str) -> str:
    """The hash of a command line's cell."""
    plain: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
    return identity.cell(plain)


MATTERS = [
    ("seed=1",), ("select=last",), ("store=bfloat16",), ("evaluations=2",),
    ("frozen_dropout=false",), ("trainer.kernels=false",), ("method=head",),
    ("method=bitfit_q_m2",), ("method.roles=[query]",),
    ("task=builtin_similarity",), ("task.metrics=[accuracy]",), ("model.max_length=32",),
    ("model.pretrained=false",), ("+model.config.num_hidden_layers=1",), ("data.fraction=0.5",),
    ("data.batch_size=16",), ("data.subset_seed=1",), ("data.split_seed=1",),
    ("data.validation_fraction=0.2",), ("data.validation_max=7",), ("data.protocol=dev",),
    ("data.validation=share",), ("data.rows=50",),
    ("optim.lr=0.5",), ("optim.head_lr=0.5",), ("optim.weight_decay=0.5",), ("optim.warmup=0.5",),
    ("optim.schedule=constant",), ("optim.clip=0",), ("budget.epochs=1",),
    ("budget=steps", "budget.steps=3"), ("trainer.precision=bf16-mixed",),
]  # fmt: skip


@pytest.mark.parametrize("change", MATTERS, ids=" ".join)
def test_what_decides_a_result_makes_another_cell(change: tuple[str, ...]) -> None:
    assert cell(*change) != cell()


@pytest.mark.parametrize(
    "change",
    [("data.eval_batch_size=3",), ("trainer.threads=1",), ("trainer.device=cpu",), ("logger=csv",),
     ("log_every=7",), ("store=none",), ("score_last=true",),
     ("data.fraction=1",), ("optim.clip=1",), ("budget.epochs=5",)],
    ids=" ".join,
)  # fmt: skip
def test_what_does_not_is_the_same_cell(change: tuple[str, ...]) -> None:
    """Speed, places and the spelling of a number: 1 is 1.0."""
    assert cell(*change) == cell()


@pytest.mark.parametrize(
    ("task", "older"),
    [("e2e_cleaned", "[bleu,rouge_l]"), ("snips_json", "[exact_match]")],
)
def test_slots_beside_the_headline_leave_the_cell_as_it_was(task: str, older: str) -> None:
    before = "~task.aligner" if task == "e2e_cleaned" else "~task.headline"
    assert cell(f"task={task}") == cell(f"task={task}", f"task.metrics={older}", before)
    as_headline = cell(f"task={task}", "task.headline=slot_accuracy")
    assert as_headline != cell(f"task={task}")


def test_a_trial_is_another_cell_than_the_run_with_its_rate() -> None:
    trial = ("experiment=tune", "method=head", "model=tiny", "trial=0")
    plain: Any = OmegaConf.to_container(composed(*trial), resolve=True)
    assert identity.cell(plain) != identity.cell(plain | {"trial": None})
    assert identity.cell(plain) == identity.cell(plain | {"trial": 4}), (
        "the rate tells trials apart"
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_counts_by_what_it_holds_and_not_by_its_place(split: str, tmp_path: Path) -> None:
    def written(name: str, text: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        for file in ("train", "test"):
            content = text if file == split else "text,label\na,x\nb,y\n"
            (tmp_path / name / f"{file}.csv").write_text(content, encoding="utf-8")
        files = (f"task.{file}={tmp_path / name / file}.csv" for file in ("train", "test"))
        return cell("task=custom", "task.name=tickets", *files)

    first = written("one", "text,label\na,x\nb,y\n")
    assert written("two", "text,label\na,x\nb,y\n") == first
    assert written("three", "text,label\na,x\nb,z\n") != first


def test_a_model_counts_by_its_files(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        shutil.copytree(builtin.MODEL_DIR, tmp_path / name)
    with (tmp_path / "three/model.safetensors").open("ab") as file:
        file.write(b"\0")
    one, two, three = (cell(f"model.path={tmp_path / n}") for n in ("one", "two", "three"))
    assert one == two != three


def test_the_codes_version_makes_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = OmegaConf.to_container(composed(), resolve=True)
    before = identity.cell(plain)
    monkeypatch.setattr(identity, "_code", lambda by: "another")
    assert identity.cell(plain) != before


def test_members_of_a_composition_are_checked_and_counted_as_methods_are() -> None:
    plain: Any = OmegaConf.to_container(composed("method=bitfit_lora"), resolve=True)
    method = MethodConfig.of(plain["method"])
    for name, member in method.decisive()["members"].items():
        assert not set(member) & set(NOT_ARGUMENTS), name
    plain["method"]["members"]["lora"]["_target_"] = "os.system"
    with pytest.raises(UserError, match=r"method\.members\.lora\._target_"):
        MethodConfig.of(plain["method"])


def test_a_setting_that_the_table_does_not_name_decides_the_result() -> None:
    assert cell("+optim.beta=0.9") != cell()
    assert cell("+another=1") != cell()
    assert dict(
        settings.unrecorded(
            ["+optim.beta=0.9", "seed=1", "data.root=x", "logger=csv", "store=none"]
        )
    ) == {"optim.beta": "0.9"}


def test_a_table_of_the_report_compares_what_records_hold_of_settings() -> None:
    """All but its axes, and what a run turned out to be; a number of rows makes a fraction."""
    axes = {"method", "task", "fraction", "rows_asked", "seed", "lr", "trial"}
    measured = {"precision", "version", "fingerprint"}
    assert set(FIELDS) - measured == set(settings.RECORDED) - axes
