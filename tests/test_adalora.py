"""AdaLoRA's schedule, importance and choice of ranks; the penalty; what a delta and peft hold.

What its updates compute stands beside those of LoRA's family in test_lora_family.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tuning_method
from safetensors.torch import load_file
from test_export import fresh as finished
from test_lora_family import TWINS, backward, both
from test_methods import fresh
from torch import Tensor, nn

from finegrid.export import export_run
from finegrid.methods.adalora import AdaLoRA, Triplets
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.runs import delta

STEPS, INIT, FINAL = 10, 2, 3  # in peft's words: total_step, tinit, tfinal


def method_of(**more: Any) -> AdaLoRA:
    """As the twin of test_lora_family is made, on peft's clock of ten steps."""
    arguments = {"initial_rank": 4, "rank": 2, "alpha": 12.0, "t_init": INIT / STEPS}
    return AdaLoRA(**arguments | {"t_final": FINAL / STEPS, "orthogonality": 0.5} | more)


def updates(model: nn.Module) -> list[Triplets]:
    """The injected updates in order."""
    return [module for module in model.modules() if isinstance(module, Triplets)]


def peft_model(kind: str) -> tuple[Any, Any, Any, dict[str, Tensor]]:
    """Ours, theirs with the same numbers, a batch, and theirs by name; peft's schedule set."""
    pytest.importorskip("peft")
    model, theirs, batch, trained = both("adalora", kind)
    config = theirs.peft_config["default"]
    config.total_step, config.tinit, config.tfinal = STEPS, INIT, FINAL
    config.orth_reg_weight = 0.5
    return model, theirs, batch, trained


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_ranks_are_shared_out_as_pefts_allocator_does(kind: str) -> None:
    """Ten steps of both, each on its own gradients: the same triplets are left after every one."""
    model, theirs, batch, trained = peft_model(kind)
    method, allocator = method_of(orthogonality=0.0), theirs.base_model.rankallocator
    pairs = [(model, surgery.trainable(model)), (theirs, dict(theirs.named_parameters()))]
    below = [[p for p in named.values() if p.requires_grad] for _, named in pairs]
    adams = [torch.optim.AdamW(parameters, lr=1e-2) for parameters in below]
    counts = []
    for step in range(1, STEPS + 1):
        for (network, _), adam in zip(pairs, adams, strict=True):
            adam.zero_grad()
            backward(network(**batch).logits, batch)
        method.after_backward(model.base_model, (step - 1) / STEPS)
        if step <= STEPS - FINAL:
            allocator.update_ipt(theirs.base_model.model)
        for adam in adams:
            adam.step()
        assert not method.after_step(model.base_model, step / STEPS), "what trains is the same"
        budget, masks = allocator.budget_schedule(step)
        if masks and step <= STEPS - FINAL:
            pattern = allocator.mask_to_budget(theirs.base_model.model, budget)
        elif masks:
            allocator.mask_using_rank_pattern(theirs.base_model.model, pattern)
        counts.append(sum(int((u.values != 0).sum()) for u in updates(model)))
        for path, parameter in surgery.trainable(model.base_model).items():
            expected = TWINS["adalora"].find(f"{model.base_model_prefix}.{path}", trained)
            torch.testing.assert_close(parameter, expected, atol=1e-4, rtol=0, msg=path)
            if path.endswith("values"):
                assert torch.equal(parameter == 0, expected == 0), (step, path)
        assert method.checkpointable == (step >= STEPS - FINAL)
    total, target = 4 * len(updates(model)), 2 * len(updates(model))
    curve = [int(target + (total - target) * (1 - (s - 2) / 5) ** 3) for s in range(3, 8)]
    assert counts == [total, total, *curve, target, target, target]
    assert len({int((u.values != 0).sum()) for u in updates(model)}) > 1, "not the same everywhere"


def test_the_penalty_is_pefts() -> None:
    model, theirs, batch, trained = peft_model("encoder")
    model(**batch).loss.backward()
    method_of().after_backward(model.base_model, 0.0)
    theirs(**batch).loss.backward()
    gradients = {name: value.grad for name, value in trained.items()}
    for path, parameter in surgery.trainable(model.base_model).items():
        key = f"{model.base_model_prefix}.{path}"
        expected = TWINS["adalora"].find(key, gradients)
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=0, msg=path)


def trained_to_the_end() -> Backbone:
    """A tiny model with random triplets, after the ranks have been shared out."""
    base, method = fresh(), tuning_method("method=adalora")
    method.tune(base, seed=0)
    torch.manual_seed(0)
    for update in updates(base.model):
        nn.init.normal_(update.values)
        for parameter in update.parameters():
            parameter.grad = torch.randn_like(parameter)
    method.after_backward(base.model.base_model, 0.4)
    method.after_step(base.model.base_model, 0.5)
    return base


def test_a_delta_holds_the_triplets_that_are_left(tmp_path: Path) -> None:
    base = trained_to_the_end()
    below = {k: v for k, v in delta.state(base.model).items() if ".adalora." in k}
    numbers = sum(value.numel() for value in below.values() if value.dtype != torch.bool)
    assert numbers == 3 * 2 * 8 * (128 + 1 + 128), "rank 8 in 3 layers, not 12"
    expected = [update.matrix().detach() for update in updates(base.model)]
    facts = {"method": "adalora", "fingerprint": base.fingerprint}
    delta.save(tmp_path / "delta", base.model, labels=[], **facts)
    other = fresh(seed=1)
    tuning_method("method=adalora").tune(other, seed=1)
    delta.load(tmp_path / "delta", other.model, **facts)
    for update, matrix in zip(updates(other.model), expected, strict=True):
        torch.testing.assert_close(update.matrix(), matrix)


def test_peft_reads_the_triplets_that_are_left(tmp_path: Path) -> None:
    """Also of a matrix that has lost all; the export compares logits with those of its files."""
    pytest.importorskip("peft")
    run = finished("adalora")
    for number, update in enumerate(updates(run.model)):
        update.keep(torch.arange(12) % 6 < number)
    assert "loaded back with peft" in export_run(run, "peft", tmp_path / "out")
    stored = load_file(tmp_path / "out/adapter_model.safetensors")
    ranks = [len(value) for key, value in stored.items() if key.endswith("lora_E")]
    assert sorted(ranks) == [0, 2, 4, 6, 8, 10]


def test_the_same_triplets_stay_in_the_last_phase() -> None:
    base = trained_to_the_end()
    method = AdaLoRA()
    for update in updates(base.model):
        for parameter in update.parameters():
            parameter.grad = torch.randn_like(parameter)
    method.after_backward(base.model.base_model, 0.4)
    method.after_step(base.model.base_model, 0.6)
    left = [update.values != 0 for update in updates(base.model)]
    for update in updates(base.model):
        nn.init.normal_(update.values)
        for parameter in update.parameters():
            parameter.grad = torch.randn_like(parameter)
    method.after_backward(base.model.base_model, 0.6)
    method.after_step(base.model.base_model, 0.7)
    for update, kept in zip(updates(base.model), left, strict=True):
        assert torch.equal(update.values != 0, kept)
