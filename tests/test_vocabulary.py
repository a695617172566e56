"""Training the used rows of the embeddings is training all of them."""

import numpy as np
import pytest
import torch
from conftest import composed
from torch import Tensor, nn

from finegrid.config import RunConfig
from finegrid.kernels.embedding import UsedRowsEmbedding, train_used_rows
from finegrid.kernels.optimize import Kernels
from finegrid.training.components import RunComponents, prepare
from finegrid.training.module import FineTuner, predict

FEW = ("task=builtin_paraphrase", "model=tiny", "data.fraction=0.02", "optim.weight_decay=0.1")


def prepared(*overrides: str, rows_in_use: bool = True) -> RunComponents:
    """A run's parts as they are before its first step, without dropout."""
    cfg = composed("method=full", *FEW, *overrides)
    parts = prepare(RunConfig.of(cfg))
    module = parts.module
    if not rows_in_use:
        kernels_of(parts).token_ids = None
    parts.method.tune(module.backbone, seed=module.init_seed)
    module.backbone.own()
    module.model.eval()
    return parts


def kernels_of(parts: RunComponents) -> Kernels:
    """What the kernels do when training starts."""
    (kernels,) = parts.kernels
    assert isinstance(kernels, Kernels)
    return kernels


def begun(parts: RunComponents) -> torch.optim.Optimizer:
    """The optimizer of a run whose training starts."""
    optimizer = parts.module.configure_optimizers()
    kernels_of(parts).narrow(optimizer, parts.module)
    return optimizer


def train(parts: RunComponents, *, micro: int | None = None) -> FineTuner:
    """Five steps over the same rows, at changing rates, with an evaluation after the third."""
    module, optimizer = parts.module, begun(parts)
    module.state.micro_batch_size = micro
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
    return module


def weights(module: FineTuner) -> dict[str, Tensor]:
    """All parameters by name."""
    return {name: p.detach().clone() for name, p in module.model.named_parameters()}


def words(module: FineTuner) -> nn.Module:
    """The word embeddings."""
    return module.backbone.sites["word_embeddings"][0].module


@pytest.mark.parametrize("micro", [None, 5])
def test_weights_come_out_as_if_the_whole_had_trained(micro: int | None) -> None:
    every = prepared(rows_in_use=False)
    before = weights(every.module)
    used, all_rows = train(prepared(), micro=micro), train(every, micro=micro)
    assert type(words(used)) is UsedRowsEmbedding
    assert type(words(all_rows)) is nn.Embedding
    mine, expected = weights(used), weights(all_rows)
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.equal(value, before[name]) or name.endswith("token_type_embeddings"), name


def test_padding_gets_no_gradient_wherever_its_row_lies() -> None:
    module = nn.Embedding(10, 2, padding_idx=5)
    pair = train_used_rows(module, lambda: torch.tensor([2, 5, 7]))
    assert pair is not None
    module(torch.tensor([[2, 7, 5, 5]])).sum().backward()
    assert pair[1].grad is not None
    assert pair[1].grad[:, 0].tolist() == [1, 0, 1, 0]


def test_what_no_row_uses_decays_and_does_nothing_else() -> None:
    parts = prepared()
    before = words(parts.module).weight.detach().clone()  # type: ignore[operator, union-attr]
    module = train(parts)
    after = words(module).weight.detach()  # type: ignore[operator, union-attr]
    unused = np.setdiff1d(np.arange(len(before)), parts.encoded["train"].token_ids().numpy())
    assert len(unused) > len(before) / 2
    left = np.prod([1 - 0.1 * 1e-2 / (step + 1) for step in range(5)])
    torch.testing.assert_close(after[unused], before[unused] * left)


def test_it_stays_whole_where_a_method_looks_at_gradients_or_most_rows_are_in_use() -> None:
    assert kernels_of(prepared("method=diff_pruning")).token_ids is None
    for overrides in ("data.fraction=1.0", "method=bitfit"):
        parts = prepared(overrides)
        begun(parts)
        assert type(words(parts.module)) is nn.Embedding
