"""LISA: which layers train in a round, what is never computed, what a delta holds."""

from typing import Any

import pytest
import torch
from conftest import composed, tuning_method
from test_methods import OPTIM, TASK, encoded_for, fresh

from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.methods.lisa import LISA
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.training.components import prepare
from finegrid.training.module import FineTuner


def tuned(seed: int = 0, model: str = "tiny", **arguments: Any) -> tuple[Backbone, LISA]:
    """A builtin model of three layers after the method was applied."""
    base, method = fresh(model=model), LISA(**arguments)
    method.tune(base, seed=seed)
    return base, method


def moved(base: Backbone, method: LISA, progress: float) -> set[str]:
    """What a step moves, of a fresh optimizer, once the budget has come so far."""
    module = FineTuner(base, TASK, OPTIM, seed=0)
    method.after_step(base.model.base_model, progress)
    optimizer = module.configure_optimizers()
    below = base.model.base_model
    before = {name: p.detach().clone() for name, p in below.named_parameters()}
    module.loss(encoded_for("tiny").batch(range(16))).backward()
    method.after_backward(below, progress)
    optimizer.step()
    return {name for name, p in below.named_parameters() if not torch.equal(p, before[name])}


def test_each_round_moves_its_own_layers_and_all_that_lies_outside() -> None:
    base, method = tuned(active_layers=1, rounds=8)
    below = base.model.base_model
    layers = [f"encoder.layer.{n}." for n in range(3)]
    inside = {n for n, _ in below.named_parameters() if n.startswith("encoder.layer.")}
    outside = {n for n, _ in below.named_parameters()} - inside
    drawn = []
    for number in range(8):
        names = moved(base, method, number / 8)
        assert outside <= names, "neither embeddings nor pooler rest"
        (active,) = {layer for layer in layers for name in names if name.startswith(layer)}
        assert names - outside == {name for name in inside if name.startswith(active)}
        drawn.append(active)
    assert len(set(drawn)) > 1
    trains = surgery.trainable(below)
    assert trains.keys() == outside | {n for n in inside if n.startswith(tuple(drawn))}


def test_layers_that_no_round_draws_stay_frozen() -> None:
    base, _ = tuned(active_layers=1, rounds=1)
    trains = surgery.trainable(base.model.base_model)
    assert len({n.split(".")[2] for n in trains if n.startswith("encoder.layer.")}) == 1
    assert {"embeddings.word_embeddings.weight", "pooler.dense.weight"} <= trains.keys()


def test_another_seed_draws_other_layers() -> None:
    names = {frozenset(surgery.trainable(tuned(s, rounds=1)[0].model)) for s in range(8)}
    assert len(names) > 1


def test_the_optimizer_is_made_anew_with_every_round() -> None:
    base, method = tuned(rounds=4)
    below = base.model.base_model
    changes = [method.after_step(below, p) for p in (0.1, 0.25, 0.3, 0.5, 0.74, 0.75, 1.0)]
    assert changes == [False, True, False, True, False, True, False]
    assert method.acts() == ("after_backward", "after_step")


def test_a_run_never_computes_the_gradients_of_idle_layers() -> None:
    """Lightning's `setup` leaves them out of the graph; between steps all of the delta trains."""
    settings = ("task=builtin_paraphrase", "model=tiny", "data.fraction=0.02", "method=lisa")
    parts = prepare(RunConfig.of(composed(*settings, "method.active_layers=1")))
    module, method = parts.module, parts.method
    assert isinstance(method, LISA)

    class Trainer:
        """What `setup` reads of a trainer."""

        class strategy:
            root_device = torch.device("cpu")

    for _ in range(2):  # Lightning calls it again to validate
        method.setup(Trainer(), module, "fit")  # type: ignore[arg-type]
    below = module.model.base_model
    assert len(below._forward_pre_hooks) == 1
    everything = surgery.trainable(below).keys()
    batch = parts.encoded["train"].batch(range(4))
    with torch.no_grad():
        module.loss(batch)
    assert surgery.trainable(below).keys() == everything, "validation changes nothing"
    loss = module.loss(batch)
    idle = {id(p) for layer in method.idle[0] for p in layer.parameters()}
    assert idle
    loss.backward()
    for parameter in below.parameters():
        if id(parameter) in idle:
            assert parameter.grad is None
            assert not parameter.requires_grad
    method.after_backward(below, 0.0)
    assert surgery.trainable(below).keys() == everything
    method.on_train_end(Trainer(), module)  # type: ignore[arg-type]
    assert not below._forward_pre_hooks


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.active_layers=0", r"method\.active_layers=0 must lie in \[1, 3\]"),
        ("method.active_layers=4", r"method\.active_layers=4 must lie in \[1, 3\]"),
        ("method.rounds=0", r"method\.rounds=0 must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        tuning_method("method=lisa", override).tune(fresh(), seed=0)
    assert "\n" not in str(raised.value)
