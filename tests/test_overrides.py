"""Overrides as people type them: a key's end for the key, a folder for a model, a word alone."""

import json
import shutil
from pathlib import Path

import pytest
from commands import call, errors
from conftest import composed

from finegrid.commands.overrides import complete
from finegrid.config import RunConfig, register_resolvers
from finegrid.data import builtin
from finegrid.errors import UserError
from finegrid.grid import completion
from finegrid.runs.record import read

SHORT = {  # -> in full
    "seed=1 optim.lr=1 +a=2 ~b retry=all": "seed=1 optim.lr=1 +a=2 ~b retry=all",
    "epochs=3": "budget.epochs=3",
    "seconds=60": "budget=seconds budget.seconds=60",
    "-m seconds=3,60 seed=1,2": "-m budget=seconds budget.seconds=3,60 seed=1,2",
    "epochs=3 experiment=tune": "budget.epochs=3 experiment=tune",
    "epochs=3 experiment=smoke": ("budget=epochs ~budget.steps budget.epochs=3 experiment=smoke"),
    "method=lora rank=4": "method=lora method.rank=4",
    "-m method=full,lora rank=2,4": "-m method=full,lora method.rank=2,4",
    "method=bitfit_lora rank=2": "method=bitfit_lora method.members.lora.rank=2",
    "head_lr=1e-4": "optim.head_lr=1e-4",  # model.head_lr is where it takes its value from
    "--cfg job fraction=0.1": "--cfg job data.fraction=0.1",
    "task=custom train=a=b.csv label=team": "task=custom task.train=a=b.csv task.label=team",
}


@pytest.fixture(autouse=True)
def _resolvers() -> None:
    register_resolvers()


@pytest.mark.parametrize(("short", "full"), SHORT.items(), ids=SHORT)
def test_the_end_of_a_key_stands_for_it(
    short: str, full: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete(short.split(" ")) == full.split(" ")
    told = capsys.readouterr().err
    assert (" -> " in told) == (short != full)


def test_nothing_is_composed_where_every_key_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_composed", lambda *_: pytest.fail("composed"))
    known = ["-m", "method=lora", "optim.lr=1", "fuse=1", "experiment=demo", "allow=[a]", "seed=1"]
    assert complete(known) == known


WRONG = {  # -> what the one line says
    "name=x": "name=x may be model.name=x or method.name=x or task.name=x",
    "rank=4": "method=bitfit has no rank; these have: method=",
    "epoch=3": "unknown key epoch; did you mean 'budget.epochs'?",
    "metod=full": "unknown key metod; did you mean 'method'",
    "steps=3 seconds=4": "steps=3 and seconds=4 are two budgets",
    "budget=steps epochs=4": "are two budgets; give one of them",
    "bitfit": "bitfit is no override; write method=bitfit",
    "mrpc seed=1": "mrpc is no override; write task=mrpc",
    "minilm": "minilm is no override; write model=minilm",
    "bitfti": "did you mean method=bitfit",
    "my/tickets.csv": "write task=custom task.train=my/tickets.csv",
    "task.text=[a, b]": "quote all of it for the shell",
    "--method=bitfit": "--method=bitfit: overrides have no dashes; write method=bitfit",
    "method = bitfit": "method stands alone; write method=..., without spaces",
    "-cd /no/such seed=1": "--config-dir=/no/such: no such folder",
    "model=/no/such": "model=/no/such: no such folder; give a folder with config.json",
    "model=../a/b/c": "no such folder",
}


@pytest.mark.parametrize(("given", "says"), WRONG.items(), ids=WRONG)
def test_what_cannot_be_meant_is_one_line(given: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        complete(given.split(" "))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


EXPLAINED = {  # by what Hydra refuses
    "method=bitfit method.rank=4": "method=bitfit has no rank; these have: method=",
    "method=lora,full method.rank=4 -m": "method=full has no rank; these have: method=",
    "task.train=tickets.csv": "task=builtin_paraphrase has no train; these have: task=custom",
    "task.metric=f1": "unknown key task.metric; did you mean 'task.metrics'",
    "task=tickets.csv": "write task=custom task.train=tickets.csv",
    "task.label=Team(A)": "quote the value for Hydra too: 'task.label=\"Team(A)\"'",
    "method=bitfit,": "(in method=bitfit,)",
    "method=lora method.rank=many": "method.rank=many must be of type int",
    "method=lora method.rank=true": "method.rank=True must be of type int",
    "rank=4 method=lora,full": "method=lora,full'; add -m",
}


@pytest.mark.parametrize(("given", "says"), EXPLAINED.items(), ids=EXPLAINED)
def test_what_hydra_refuses_is_one_line(given: str, says: str, tmp_path: Path) -> None:
    command = "plan" if "-m" in given else "train"
    result = call(*given.split(" "), f"hydra.run.dir={tmp_path}", command=command)
    assert result.returncode == 1
    assert says in errors(result)[-1]


def test_a_run_keeps_the_keys_in_full(tmp_path: Path) -> None:
    result = call("method=head", "steps=1", "evaluations=1", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    full = ["method=head", "budget=steps", "budget.steps=1", "evaluations=1"]
    assert read(tmp_path).overrides == full


def test_plan_completes_and_knows_options_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    text = "name: mine\n_target_: finegrid.methods.layers.Layers\n"
    text += "layers: null\nroles: null\ninvert: false\n"
    (tmp_path / "method/mine.yaml").write_text(text, encoding="utf-8")
    result = call("--config-dir", str(tmp_path), "method=mine,head", "layers=[0]", "lr=1e-3",
                  "method=mine", f"hydra.sweep.dir={tmp_path}/grid", command="plan")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "1 cells" in result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in a folder of the user's."""
    return Path(shutil.copytree(builtin.MODEL_DIR, tmp_path / "My Model"))


def test_a_folder_is_a_model(folder: Path, tmp_path: Path) -> None:
    arguments = ("method=head", "steps=1", "evaluations=1", f"hydra.run.dir={tmp_path}/run")
    result = call(f"model={folder}", *arguments)
    assert result.returncode == 0, result.stderr
    record = read(tmp_path / "run")
    assert (record.model, record.status, record.params_total) == ("My_Model", "ok", 501378)
    assert f"model={folder}" in record.overrides
    rows = tmp_path / "rows.csv"
    rows.write_text("sentence1,sentence2\na dog .,a cat .\n", encoding="utf-8")
    assert call(str(tmp_path / "run"), "--input", str(rows), command="predict").returncode == 0


def test_what_stands_for_a_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder.rename("mine")
    (override,) = complete(["model=tiny,mine,./mine,~/mine,org/name"])
    assert override == f"model=tiny,mine,./mine,{tmp_path}/mine,org/name"
    for value in override.removeprefix("model=").split(","):
        model = RunConfig.of(composed(f"model={value}")).model
        assert model.name == value.rpartition("/")[2]
        assert model.max_length == (128 if value == "org/name" else 64)


def test_a_model_that_reads_little_is_given_little(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 40
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    complete([f"model={folder}"])
    assert composed(f"model={folder}").model.max_length == 40


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder has no config\.json"):
        complete([f"model={tmp_path}"])
