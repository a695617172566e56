"""GaLore and APOLLO: which parameters the libraries' optimizers project, and how they move."""

from typing import Any

import pytest
import torch
from conftest import tuning_method
from test_methods import OPTIM, TASK, encoded_for, fresh
from torch import Tensor

from finegrid.errors import UserError
from finegrid.methods import galore
from finegrid.methods.compose import Compose
from finegrid.methods.galore import APOLLO, GaLore
from finegrid.models.backbone import Backbone
from finegrid.training.module import FineTuner

MODELS = ("tiny", "tiny_llama")


def stepped(
    method: GaLore, model: str, decay: float = 0.0
) -> tuple[Backbone, Any, dict[str, Tensor]]:
    """A model after a step, its optimizer, and by how much each parameter has moved."""
    base = fresh(model=model)
    method.tune(base, seed=0)
    optim = OPTIM if decay else type(OPTIM)(**{**vars(OPTIM), "weight_decay": 0.0})
    module = FineTuner(base, TASK, optim, seed=0)
    module.make_optimizer = method.optimizer
    optimizer = module.configure_optimizers()
    before = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    module.loss(encoded_for(model).batch(range(16))).backward()
    optimizer.step()
    return base, optimizer, {n: p.detach() - before[n] for n, p in base.model.named_parameters()}


@pytest.mark.parametrize("model", MODELS)
def test_a_step_of_galore_has_the_rank_and_moments_of_its_size(model: str) -> None:
    method = GaLore(rank=3)
    base, optimizer, moved = stepped(method, model)
    names = {id(p): name for name, p in base.model.named_parameters()}
    low = {names[id(p)] for p in method.matrices}
    assert low
    for name in low:
        scale = moved[name].abs().max()
        assert torch.linalg.matrix_rank(moved[name], atol=float(scale) * 1e-3) <= 3, name
    for parameter, state in optimizer.state.items():
        m, n = (*parameter.shape, 1)[:2]
        own = max(m, n) * 3 if names[id(parameter)] in low else parameter.numel()
        assert state["exp_avg"].numel() == own
    others = moved.keys() - low
    assert sum(bool(moved[name].any()) for name in others) > 3, "norms and head move too"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scale_type", ["channel", "tensor"])
def test_a_step_of_apollo_is_the_gradient_scaled(model: str, scale_type: str) -> None:
    method = APOLLO(rank=3, scale_type=scale_type)
    base, _, moved = stepped(method, model)
    names = {id(p): name for name, p in base.model.named_parameters()}
    for parameter in method.matrices:
        assert parameter.grad is not None
        there = parameter.grad.abs() > parameter.grad.abs().max() * 1e-2
        factors = torch.where(there, moved[names[id(parameter)]] / parameter.grad, torch.nan)
        if scale_type == "channel":  # of the longer side
            wide = parameter.shape[0] < parameter.shape[1]
            factors = factors.T if wide else factors
        else:
            factors = factors.reshape(1, -1)
        middle = factors.nanmedian(dim=1, keepdim=True).values
        near = ((factors - middle).abs() <= middle.abs() * 1e-2) | factors.isnan()
        assert near.all()
        assert (middle[~middle.isnan()] < 0).all(), "down the gradient"


@pytest.mark.parametrize("name", ["galore", "apollo"])
def test_all_groups_keep_rate_and_decay(name: str) -> None:
    _, optimizer, _ = stepped(tuning_method(f"method={name}"), "tiny", decay=0.01)  # type: ignore[arg-type]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, OPTIM.weight_decay}
    projected = [group for group in optimizer.param_groups if "rank" in group]
    assert projected
    assert all(group["weight_decay"] == OPTIM.weight_decay for group in projected)
    assert all(group["lr"] == group["initial_lr"] for group in optimizer.param_groups)


def test_a_missing_library_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(galore, "find_spec", lambda name: None)
    needs = r"needs galore_torch and bitsandbytes: pip install 'finegrid\[galore\]'"
    with pytest.raises(UserError, match=needs):
        GaLore().read_task(TASK)
    with pytest.raises(UserError, match=r"needs apollo_torch and bitsandbytes: "):
        APOLLO().read_task(TASK)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"method\.rank=129 is above the 128 that a matrix of 128 x"
    ):
        GaLore(rank=129).tune(fresh(), seed=0)
    for given in ({"rank": 0}, {"scale": 0.0}, {"update_proj_gap": 0}):
        with pytest.raises(UserError, match=f"method.{next(iter(given))}=0 must be"):
            GaLore(**given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"scale_type=row is unknown"):
        APOLLO(scale_type="row")
    with pytest.raises(UserError, match=r"members\.galore has an optimizer of its own"):
        Compose(members={"galore": GaLore()})
