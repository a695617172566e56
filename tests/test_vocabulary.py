"""Training a vocabulary's part in use is training the whole."""

import numpy as np
import pytest
import torch
from conftest import composed
from torch import Tensor, nn

from finegrid.config import RunConfig
from finegrid.kernels import embedding
from finegrid.training.components import prepare
from finegrid.training.module import FineTuner, predict

FEW = ("task=builtin_paraphrase", "model=tiny", "data.fraction=0.02", "optim.weight_decay=0.1")


def prepared(*overrides: str, compacts: bool = True) -> FineTuner:
    """A module as it is before its first step, without dropout."""
    cfg = composed("method=full", *FEW, *overrides)
    parts = prepare(RunConfig.of(cfg))
    module = parts.module
    module.compacts = module.compacts and compacts
    parts.method.tune(module.backbone, seed=module.init_seed)
    module.backbone.own()
    module.model.eval()
    return module


def train(module: FineTuner, *, micro: int | None = None) -> None:
    """Five steps over the same rows, at changing rates, with an evaluation after the third."""
    optimizer = module.configure_optimizers()
    module.micro_batch_size = micro
    assert module.train_rows is not None
    batch = module.train_rows.batch(range(min(16, len(module.train_rows))))
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        module.optimizer_zero_grad(0, step, optimizer)
        module.training_step(batch, step).backward()  # type: ignore[no-untyped-call]
        module.configure_gradient_clipping(optimizer, 0.5)
        optimizer.step()
        if step == 2:
            predict(module.model, module.train_rows, batch_size=8)
    predict(module.model, module.train_rows, batch_size=8)


def weights(module: FineTuner) -> dict[str, Tensor]:
    """All parameters by name."""
    return {name: p.detach().clone() for name, p in module.model.named_parameters()}


def words(module: FineTuner) -> nn.Module:
    """The word embeddings."""
    return module.backbone.sites["word_embeddings"][0].module


@pytest.mark.parametrize("micro", [None, 5])
def test_weights_come_out_as_if_the_whole_had_trained(micro: int | None) -> None:
    part, whole = prepared(), prepared(compacts=False)
    before = weights(whole)
    train(part, micro=micro)
    train(whole, micro=micro)
    assert type(words(part)) is embedding.Compact
    assert type(words(whole)) is nn.Embedding
    mine, expected = weights(part), weights(whole)
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.equal(value, before[name]) or name.endswith("token_type_embeddings"), name


def test_padding_gets_no_gradient_wherever_its_row_lies() -> None:
    whole = nn.Embedding(10, 2, padding_idx=5)
    part = embedding.Part(whole.weight, torch.tensor([2, 5, 7]), whole.padding_idx)
    whole.__class__, whole.__dict__["part"] = embedding.Compact, part
    whole(torch.tensor([[2, 7, 5, 5]])).sum().backward()
    assert part.rows.grad is not None
    assert part.rows.grad[:, 0].tolist() == [1, 0, 1, 0]


def test_what_no_row_uses_decays_and_does_nothing_else() -> None:
    module = prepared()
    before = words(module).weight.detach().clone()  # type: ignore[operator, union-attr]
    train(module)
    after = words(module).weight.detach()  # type: ignore[operator, union-attr]
    unused = np.setdiff1d(np.arange(len(before)), module._ids().numpy())
    assert len(unused) > len(before) / 2
    left = np.prod([1 - 0.1 * 1e-2 / (step + 1) for step in range(5)])
    torch.testing.assert_close(after[unused], before[unused] * left)


def test_it_stays_whole_where_a_method_looks_at_gradients_or_most_rows_are_in_use() -> None:
    assert not prepared("method=diff_pruning").compacts
    module = prepared("data.fraction=1.0")
    module.configure_optimizers()
    assert module.stand_ins == {}
    assert type(words(module)) is nn.Embedding
    frozen = prepared("method=bitfit")
    frozen.configure_optimizers()
    assert frozen.stand_ins == {}
