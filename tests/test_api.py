"""A tuning method on a transformers model of the user's: apply, train, save, load, merge."""

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import METHODS, composed, run_cell
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import finegrid
from finegrid import methods
from finegrid.config import MethodConfig, to_plain
from finegrid.errors import UserError
from finegrid.inference import restore
from finegrid.methods import BitFit, Compose, DiffPruning, LoRA, MaskFixed, Sparse
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.runs import delta
from finegrid.storage.paths import BUILTIN, CONF
from finegrid.training.components import build_method

TINY = str(BUILTIN / "tiny")
CLASSIFIER = "AutoModelForSequenceClassification"
MERGEABLE = {
    "adalora", "apollo", "bitfit", "bitfit_added", "bitfit_lora", "bitfit_q_m2", "critical_layers",
    "debias_diff", "diff_pruning", "diff_pruning_structured", "dora", "dsee", "fourierft",
    "full", "galore", "head", "hft", "hira", "ia3", "layernorm", "layernorm_fisher", "layers",
    "lisa", "loha", "lokr", "lora", "lora_all", "lora_fa", "lora_plus", "lottery_ticket",
    "mask_agnostic", "mask_agnostic_magnitude", "mask_l0", "mask_magnitude", "mask_random",
    "mask_threshold", "mask_threshold_magnitude", "miss", "mpo", "oft", "pissa", "randlora",
    "rslora", "shira", "sparse", "sparse_magnitude", "sparse_random", "sparse_sam", "subtuning",
    "supermask", "two_stage", "vera",
}  # fmt: skip


@cache
def _loaded(auto: str) -> Any:
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return getattr(transformers, auto).from_pretrained(TINY, dtype=torch.float32, **no_dropout)


def stock(auto: str = CLASSIFIER) -> Any:
    """The builtin model as transformers loads it, the same head each time."""
    return copy.deepcopy(_loaded(auto))


@cache
def _rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (16, 12), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


def logits(model: Any) -> Tensor:
    """Of the rows, in eval mode."""
    inputs = {name: value for name, value in _rows().items() if name != "labels"}
    with torch.inference_mode():
        output: Tensor = model.eval()(**inputs)[0]
    return output.clone()


def losses_of(model: Any) -> Callable[[int, int], Iterator[Tensor]]:
    """What a method needs that chooses by gradients."""

    def losses(count: int, size: int) -> Iterator[Tensor]:
        for start in range(0, min(count, 16), size):
            yield model(**{n: v[start : start + size] for n, v in _rows().items()}).loss

    return losses


def train(model: Any, steps: int = 6) -> list[float]:
    """A loop of the user's, with the hooks that a method may need; the loss of each step."""

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    model.train()
    method, adam, seen = model.finegrid.method, optimizer(), []
    for step in range(steps):
        adam.zero_grad()
        loss = model(**_rows()).loss
        loss.backward()
        method.after_backward(model.base_model, step / steps)
        adam.step()
        if method.after_step(model.base_model, (step + 1) / steps):
            adam = optimizer()
        seen.append(loss.item())
    return seen


def applied(method: str | TuningMethod, model: Any, **arguments: Any) -> Any:
    """The model with a method, whatever that needs."""
    return finegrid.apply(
        method, model, losses=losses_of(model), hooks=True, verbose=False, **arguments
    )


# --- names and values -----------------------------------------------------------------------------


def test_importing_finegrid_imports_nothing_heavy() -> None:
    code = (
        "import sys, finegrid; print(dir(finegrid)); finegrid.methods.names(); "
        "dir(finegrid.methods); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    for name in ("apply", "save", "load_delta", "merge", "methods"):
        assert f"'{name}'" in output.stdout
    assert methods.names() == METHODS


def test_every_class_is_exported_and_typed() -> None:
    stubs = Path(str(methods.__file__)).read_text()
    for name in METHODS:
        target = OmegaConf.load(CONF / f"method/{name}.yaml")._target_
        module, _, kind = target.rpartition(".")
        assert f"from {module} import {kind} as {kind}" in stubs
        assert kind in dir(methods)
        assert f"{getattr(methods, kind).__module__}.{kind}" == target


@pytest.mark.parametrize("kind", [name for name in dir(methods) if name[0].isupper()])
def test_values_stand_in_the_yaml_alone(kind: str) -> None:
    parameters = signature(getattr(methods, kind)).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    # `search` is the former name of an argument; `layers` is of every method, in its YAML or not
    others = {"members", "search", "layers"}
    assert all(value is YAML for name, value in defaults.items() if name not in others)
    if kind == "Compose" or not defaults:
        return
    made = getattr(methods, kind)()
    named = made.yaml or made.__module__.rpartition(".")[2]
    config = MethodConfig.of(to_plain(composed(f"method={named}").method))
    assert dict(made.arguments) == config.arguments


def test_a_call_changes_some_values() -> None:
    assert LoRA(rank=2).arguments == {**LoRA().arguments, "rank": 2}
    assert copy.deepcopy(LoRA(rank=2)).arguments["rank"] == 2


def test_a_runs_config_leaves_nothing_to_the_yaml() -> None:
    config = MethodConfig("lora", "finegrid.methods.lora.LoRA", {"rank": 2})
    with pytest.raises(UserError, match="missing the argument 'roles'"):
        build_method(config)


# --- the contract of every method -----------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_apply_train_save_load_merge(name: str, tmp_path: Path) -> None:
    model = applied(name, stock(), seed=3)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    seen = train(model)
    assert seen[-1] < seen[0]
    for key, value in model.state_dict().items():
        if key in frozen:
            assert torch.equal(value, before[key]), key
    wanted = logits(model)
    file = finegrid.save(model, tmp_path / "sub/x.safetensors")
    loaded = finegrid.load_delta(file, stock())
    assert torch.equal(logits(loaded), wanted)
    if name not in MERGEABLE:
        with pytest.raises(UserError, match=r"cannot be merged: .*finegrid\.save"):
            finegrid.merge(model)
        assert torch.equal(logits(model), wanted)
        return
    finegrid.merge(model.train())
    assert model.training
    assert torch.allclose(logits(model), wanted, atol=1e-5)
    assert not any(surgery.injected(model))
    model.save_pretrained(tmp_path / "stock")
    again = getattr(transformers, CLASSIFIER).from_pretrained(tmp_path / "stock")
    assert torch.allclose(logits(again), wanted, atol=1e-5)


def test_same_seed_same_start_and_the_global_stream_stays() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    models = [finegrid.apply("lora", stock(), seed=seed, verbose=False) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), wanted)
    first, same, other = ([p for p in surgery.trainable(m.bert).values()] for m in models)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_what_is_injected_is_in_the_models_mode() -> None:
    model = finegrid.apply("lora", stock(), dropout=0.5, verbose=False)
    assert not any(module.training for module in model.modules())


def test_says_what_trains(capsys: pytest.CaptureFixture[str]) -> None:
    finegrid.apply(LoRA(rank=2), stock())
    line = capsys.readouterr().out
    assert line.startswith("lora trains 3,072 parameters below the head and 258 in it: 0.66 % of 5")
    finegrid.apply(LoRA(rank=2), stock(), verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "auto", ["AutoModel", "AutoModelForTokenClassification", "AutoModelForMaskedLM"]
)
@pytest.mark.parametrize("method", ["lora", "bitfit", "supermask", "prompt"])
def test_other_heads_and_none(auto: str, method: str, tmp_path: Path) -> None:
    model = finegrid.apply(method, stock(auto), verbose=False)
    outside = set(map(id, model.parameters())) - set(map(id, model.base_model.parameters()))
    trains = {id(p) for p in surgery.trainable(model).values()}
    assert outside <= trains
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        inputs = {name: value for name, value in _rows().items() if name != "labels"}
        model.train()(**inputs)[0].square().mean().backward()
        adam.step()
    wanted = logits(model)
    finegrid.save(model, tmp_path / "x.safetensors")
    loaded = finegrid.load_delta(tmp_path / "x.safetensors", stock(auto))
    assert torch.equal(logits(loaded), wanted)
    if method != "prompt":
        assert torch.allclose(logits(finegrid.merge(loaded)), wanted, atol=1e-5)


def test_compositions_of_instances(tmp_path: Path) -> None:
    both = Compose(members={"bias": BitFit(), "update": LoRA(rank=2)})
    model = finegrid.apply(both, stock(), verbose=False)
    train(model)
    file = finegrid.save(model, tmp_path / "x.safetensors")
    assert delta.metadata(file)["settings"]["members"]["update"]["rank"] == 2
    assert torch.equal(logits(finegrid.load_delta(file, stock())), logits(model))


def test_a_merged_model_takes_another_method() -> None:
    model = finegrid.merge(finegrid.apply("lora", stock(), verbose=False))
    assert finegrid.apply("bitfit", model, verbose=False).finegrid.config.name == "bitfit"


def test_an_instance_serves_several_models() -> None:
    method = DiffPruning()
    train(applied(method, stock()))
    assert not applied(method, stock()).finegrid.method.checkpointable


def test_class_names_travel(tmp_path: Path) -> None:
    model = stock()
    model.config.id2label = {0: "ham", 1: "spam"}
    file = finegrid.save(finegrid.apply("bitfit", model, verbose=False), tmp_path / "x")
    assert finegrid.load_delta(file, stock()).config.id2label == {0: "ham", 1: "spam"}


def test_a_pooler_that_the_checkpoint_lacks_belongs_to_the_head(tmp_path: Path) -> None:
    auto = getattr(transformers, CLASSIFIER)
    model = stock()
    state = {n: v for n, v in model.state_dict().items() if "pooler" not in n}
    model.save_pretrained(tmp_path, state_dict=state)
    model = auto.from_pretrained(tmp_path)
    finegrid.apply("lora", model, verbose=False)
    train(model)
    file = finegrid.save(model, tmp_path / "x.safetensors")
    assert "bert.pooler.dense.weight" in load_file(file)
    loaded = finegrid.load_delta(file, auto.from_pretrained(tmp_path))
    assert torch.equal(logits(loaded), logits(model))


def test_a_runs_delta(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_cell(run, "experiment=smoke", "method=lora", "task=builtin_paraphrase", "trainer.threads=1")
    model = finegrid.load_delta(run / delta.FILE, stock())
    assert torch.allclose(logits(model), logits(restore(run).model), atol=1e-6)
    alone = tmp_path / delta.FILE
    alone.write_bytes((run / delta.FILE).read_bytes())
    with pytest.raises(UserError, match="give the file in the run's directory"):
        finegrid.load_delta(alone, stock())


# --- HF Trainer and save_pretrained ---------------------------------------------------------------


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in _rows().items()}


def _trainer(model: Any, folder: Path, steps: int) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=steps, save_steps=4, per_device_train_batch_size=16,
        learning_rate=3e-3, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_steps=1, lr_scheduler_type="constant",
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=_Rows())


@pytest.mark.filterwarnings("ignore:from_pretrained cannot load")
@pytest.mark.parametrize("name", ["bitfit", "lora", "supermask"])
def test_hf_trainer(name: str, tmp_path: Path) -> None:
    model = finegrid.apply(name, stock(), verbose=False)
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trainer = _trainer(model, tmp_path, 4)
    trainer.train()
    seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert seen[-1] < seen[0]
    for key, value in model.named_parameters():
        if key in before:
            assert torch.equal(value, before[key]), key
    fresh = finegrid.apply(name, stock(), verbose=False)
    _trainer(fresh, tmp_path, 4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.equal(logits(fresh), logits(model))
    auto = getattr(transformers, CLASSIFIER)
    if name == "bitfit":
        assert torch.equal(logits(auto.from_pretrained(tmp_path / "checkpoint-4")), logits(model))
        return
    for kind in (auto, type(model)):
        with pytest.raises(Exception, match="from_pretrained cannot load this"):
            kind.from_pretrained(tmp_path / "checkpoint-4")
    loaded = finegrid.load_delta(tmp_path / "checkpoint-4" / delta.FILE, stock())
    assert torch.equal(logits(loaded), logits(model))


def test_save_pretrained_warns_of_what_it_cannot_hold(tmp_path: Path) -> None:
    model = finegrid.apply("lora", stock(), verbose=False)
    with pytest.warns(UserWarning, match=r"finegrid\.merge.*finegrid\.load_delta"):
        copy.deepcopy(model).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="nothing is pushed"):
        model.save_pretrained(tmp_path, push_to_hub=True)


# --- refusals -------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown name": (lambda: finegrid.apply("lorra", stock()), "did you mean 'lora'"),
    "unknown argument": (lambda: finegrid.apply("lora", stock(), rnk=2), "did you mean 'rank'"),
    "a composition's": (lambda: finegrid.apply("mam", stock(), length=2), r"Compose\(members"),
    "a class": (lambda: finegrid.apply(LoRA, stock()), "an instance"),  # type: ignore[arg-type]
    "both": (lambda: finegrid.apply(LoRA(), stock(), rank=2), r"LoRA\(\.\.\.\)"),
    "no model": (lambda: finegrid.apply("lora", nn.Linear(2, 2)), "no transformers model"),
    "half": (lambda: finegrid.apply("lora", stock().half()), "dtype=torch.float32"),
    "decoder": (lambda: finegrid.apply("lora", _bloom()), "no anatomy for architecture 'bloom'"),
    "twice": (
        lambda: finegrid.apply("bitfit", finegrid.apply("lora", stock(), verbose=False)),
        r"a method already \(lora\)",
    ),
    "after an error": (lambda: _after_an_error(), "one that was not finished"),
    "choose": (lambda: finegrid.apply("sparse", stock()), "losses="),
    "act": (lambda: finegrid.apply(DiffPruning(), stock()), r"after_step.*then say hooks=True"),
    "act in a composition": (
        lambda: finegrid.apply(Compose(members={"a": LoRA(), "b": Sparse()}), stock()),
        "losses=",
    ),
    "search": (
        lambda: finegrid.save(applied(DiffPruning(), stock()), "x"),
        "a phase whose weights are no result",
    ),
    "save stock": (lambda: finegrid.save(stock(), "x"), "has no tuning method"),
    "save to a folder": (
        lambda: finegrid.save(finegrid.apply("lora", stock(), verbose=False), TINY),
        "is a directory",
    ),
    "merge stock": (lambda: finegrid.merge(stock()), "has no tuning method"),
}  # fmt: skip


def _bloom() -> Any:
    config = transformers.BloomConfig(n_layer=1, n_head=1, hidden_size=8, vocab_size=9)
    return transformers.BloomModel(config)


def _after_an_error() -> None:
    model = stock()
    half = Compose(members={"a": LoRA(), "b": LoRA(roles=["nonsense"])})
    with contextlib.suppress(UserError):
        finegrid.apply(half, model)
    finegrid.apply("ia3", model)


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_line(case: str) -> None:
    call, why = REFUSED[case]
    with pytest.raises(UserError, match=why) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_half_that_is_drawn_once_and_fixed_entries_need_no_loop() -> None:
    for method in (methods.HFT(), Sparse(rule="random"), MaskFixed()):
        assert method.acts() == ()
        finegrid.apply(method, stock(), verbose=False)
    assert methods.HFT(rounds=2).acts() == ("after_backward",)


def _changed(path: Path, **values: Any) -> Path:
    """The file with another header."""
    about = {**delta.metadata(path), **values}
    save_file(load_file(path), path, metadata={"finegrid": json.dumps(about)})
    return path


def _settings(**values: Any) -> dict[str, Any]:
    return {"_target_": "finegrid.methods.lora.LoRA", **LoRA().arguments, **values}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"settings": _settings(_target_="os.system")}, "allow=\\["),
        ({"settings": _settings(_target_="finegrid.methods.lora.Update")}, "no tuning method"),
        ({"settings": _settings(rank="x")}, "method.rank=x must be of type int"),
        ({"settings": _settings(rank=4)}, "has shape"),
        ({"settings": _settings(roles=["query"])}, "has the unknown"),
        ({"settings": _settings(depth=1)}, "depth"),
        ({"settings": _settings(rank={"_target_": "os.system"})}, "plain values"),
        ({"settings": 3}, "must be a method's settings"),
        ({"seed": "3"}, "must be an integer"),
        ({"fingerprint": "0" * 16}, "trained on other weights"),
        ({"format": "finegrid-1"}, "not a finegrid delta"),
    ],
)
def test_a_file_that_others_changed(values: dict[str, Any], why: str, tmp_path: Path) -> None:
    file = finegrid.save(finegrid.apply("lora", stock(), verbose=False), tmp_path / "x")
    with pytest.raises(UserError, match=why) as caught:
        finegrid.load_delta(_changed(file, **values), stock())
    assert "\n" not in str(caught.value)


def test_a_delta_of_another_head(tmp_path: Path) -> None:
    file = finegrid.save(finegrid.apply("lora", stock(), verbose=False), tmp_path / "x")
    with pytest.raises(UserError, match=r"lacks 12 tensors, such as encoder\.layer\.0"):
        finegrid.load_delta(file, stock("AutoModel"))


def test_a_method_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(
        "from finegrid.methods.lora import LoRA\n"
        "class Mine(LoRA):\n"
        "    def __init__(self, *, rank: int):\n"
        "        super().__init__(rank=rank, roles=['key'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from mypackage.mine import Mine  # type: ignore[import-not-found]

    model = finegrid.apply(Mine(rank=2), stock(), verbose=False)
    assert model.finegrid.config.arguments == {"rank": 2}
    train(model)
    file = finegrid.save(model, tmp_path / "x")
    with pytest.raises(UserError, match=r"allow=\[mypackage\]"):
        finegrid.load_delta(file, stock())
    loaded = finegrid.load_delta(file, stock(), allow=["mypackage"])
    assert torch.equal(logits(loaded), logits(model))
