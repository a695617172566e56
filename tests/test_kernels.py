"""The kernels' door: with it or without, every method has the same loss and gradients."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import composed, run_cell
from test_methods import CASES, TASK, encoded, encoded_for, method_of  # noqa: F401
from torch import Tensor, nn

from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.inference import restore
from finegrid.models.backbone import Backbone
from finegrid.models.surgery import trainable
from finegrid.runs.record import read
from finegrid.training.components import load_backbone
from finegrid.training.module import logits_of

SHORT = ("data.fraction=0.05", "budget.epochs=1", "evaluations=1")


def loaded(method: str, model: str = "tiny", *, kernels: bool) -> Backbone:
    """A tiny model with a method applied, moved off its start, without dropout."""
    which = (f"method={method}", f"model={model}", f"trainer.kernels={str(kernels).lower()}")
    base, callbacks = load_backbone(RunConfig.of(composed(*which)), TASK)
    assert len(callbacks) == kernels
    method_of(method).tune(base, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(base.model).values():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    for module in base.model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout_prob"):  # of an attention that drops its weights itself
            module.dropout_prob = 0.0
    return base


def loss_and_gradients(base: Backbone, rows: TokenizedDataset) -> tuple[float, dict[str, Tensor]]:
    """Of a training pass over sixteen rows."""
    batch = rows.batch(range(16))
    torch.manual_seed(2)  # for methods that draw in a pass
    loss = nn.functional.cross_entropy(logits_of(base.model, batch), batch["labels"])
    loss.backward()
    return loss.item(), {k: p.grad for k, p in trainable(base.model).items() if p.grad is not None}


@pytest.mark.parametrize(("name", "model"), CASES)
def test_loss_and_gradients_are_those_of_stock_modules(name: str, model: str) -> None:
    rows = encoded_for(model)
    ours, ours_of = loss_and_gradients(loaded(name, model, kernels=True), rows)
    stock, stock_of = loss_and_gradients(loaded(name, model, kernels=False), rows)
    assert ours == pytest.approx(stock, rel=1e-5)
    assert ours_of.keys() == stock_of.keys()
    largest = max(float(gradient.abs().max()) for gradient in stock_of.values())
    for key, gradient in stock_of.items():
        torch.testing.assert_close(ours_of[key], gradient, rtol=1e-5, atol=1e-5 * largest, msg=key)


@pytest.mark.parametrize("kernels", [True, False])
def test_the_printed_model_says_which_modules_compute(kernels: bool) -> None:
    base = loaded("lora", kernels=kernels)
    names = ("CachedLinear", "AutocastLayerNorm", "FastDropout")
    assert all((name in repr(base.model)) == kernels for name in names)
    ours = {type(m) for m in base.model.modules() if type(m).__module__.startswith("finegrid.ker")}
    assert bool(ours) == kernels
    assert (base.model.config._attn_implementation == "eager") != kernels


def test_a_copy_of_a_patched_model_is_patched(encoded: TokenizedDataset) -> None:  # noqa: F811
    base = loaded("houlsby", kernels=True)
    copied = copy.deepcopy(base.model)
    assert [type(m) for m in copied.modules()] == [type(m) for m in base.model.modules()]


def test_a_run_without_kernels_is_another_cell_and_says_so(tmp_path: Path) -> None:
    lines = ("method=lora", *SHORT)
    usual = run_cell(tmp_path / "usual", *lines)
    stock = run_cell(tmp_path / "stock", *lines, "trainer.kernels=false")
    assert (usual.kernels, stock.kernels) == (True, False)
    assert (usual.status, stock.status, read(tmp_path / "stock").kernels) == ("ok", "ok", False)
    assert usual.cell != stock.cell
    model = restore(tmp_path / "stock").model
    assert not any(type(m).__module__.startswith("finegrid.ker") for m in model.modules())


def test_a_config_of_old_has_kernels() -> None:
    cfg = composed()
    del cfg.trainer.kernels
    assert RunConfig.of(cfg).trainer.kernels is True
