"""The quick dropout: its distribution, its gradient, and where it applies."""

import numpy as np
import pytest
import torch
from torch import nn

from finegrid.kernels.dropout import STEPS, FastDropout, dropout, patch_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_come_with_probability_p_and_the_rest_is_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 1 << 20
    out = dropout(torch.ones(n, dtype=dtype), p, training=True)
    share = (out == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1 / STEPS
    kept = out[out != 0].unique()
    assert len(kept) == 1
    assert kept.item() == pytest.approx(1 / (1 - p), rel=1e-3 if dtype == torch.float32 else 1e-2)


def test_elements_and_calls_are_independent() -> None:
    torch.manual_seed(0)
    one, two = (dropout(torch.ones(1 << 20), 0.5, training=True) > 0 for _ in range(2))
    for shift in (1, 2, 3, 4):  # four elements share one draw of 64 bits
        assert abs((one[shift:] == one[:-shift]).double().mean() - 0.5) < 0.005
    assert abs((one == two).double().mean() - 0.5) < 0.005


def test_the_gradient_goes_where_the_value_went() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3).transpose(0, 2).requires_grad_()
    out = dropout(x, 0.3, training=True)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), out.detach())


def test_the_same_seed_draws_the_same_mask() -> None:
    torch.manual_seed(3)
    first = dropout(torch.ones(101), 0.1, training=True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(torch.ones(101), 0.1, training=True))


def test_nothing_is_dropped_out_of_training_or_at_p_zero() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(dropout(x, 1.0, training=True), torch.zeros(5))


def test_modules_stay_the_same_and_drop_quickly() -> None:
    class Loud(nn.Dropout):
        """A dropout of somebody else's."""

    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(Loud(0.2)))
    before = list(model.modules())
    patch_dropout(model)
    assert [id(module) for module in model.modules()] == [id(module) for module in before]
    assert type(model[0]) is FastDropout
    assert type(model[1][0]) is Loud  # type: ignore[index]
    assert (model.train()(torch.ones(1000)) == 0).any()
    assert torch.equal(model.eval()(torch.ones(9)), torch.ones(9))


@pytest.mark.parametrize("p", [0.1, 0.5, 1 / STEPS, 1 - 1 / STEPS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_element_is_kept_where_its_bits_reach_the_threshold(
    p: float, dtype: torch.dtype
) -> None:
    n = 1 << 18
    words = np.random.SFC64(7).random_raw(n // 4)
    numbers = torch.from_numpy(words.view(np.int16).astype(np.int64)) + STEPS // 2
    x = torch.randn(n, dtype=dtype)
    out = dropout(x, p, training=True, streams=[(np.random.SFC64(7), n)])
    threshold = round(p * STEPS)
    scale = torch.tensor(STEPS / (STEPS - threshold), dtype=dtype)
    assert torch.equal(out, torch.where(numbers >= threshold, x * scale, 0 * x))
