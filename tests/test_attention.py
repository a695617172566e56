"""Eager attention of our own against its formula."""

import pytest
import torch
from torch import Tensor, nn

from finegrid.kernels import attention

BATCH, HEADS, WIDTH = 3, 4, 8


def formula(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention in fp32, B heads T d -> B T heads d; neighbouring heads may share a key."""
    key, value = (x.repeat_interleave(HEADS // x.shape[1], dim=1) for x in (key, value))
    scores = query.float() @ key.float().transpose(2, 3) * WIDTH**-0.5
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    return (weights @ value.float()).transpose(1, 2)


def inputs(length: int, dtype: torch.dtype, keys: int) -> list[Tensor]:
    """Query, key and value as a projection gives them: heads side by side in a token's row."""
    shapes = [(BATCH, length, heads, WIDTH) for heads in (HEADS, keys, keys)]
    made = [torch.randn(shape, dtype=dtype).transpose(1, 2) for shape in shapes]
    return [x.requires_grad_() for x in made]


def hidden(length: int, *, causal: bool) -> Tensor:
    """The mask of texts that leave 0, 1 and 2 tokens of their row empty."""
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros(BATCH, 1, length if causal else 1, length)
    for row in range(BATCH):
        mask[row, ..., length - row :] = lowest
    return mask + torch.full((length, length), lowest / 2).triu(1) if causal else mask


# fewer keys than a vector has numbers, exactly as many, and some more
@pytest.mark.parametrize("length", [5, 16, 21, 32])
@pytest.mark.parametrize("masked", [None, "padding", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [HEADS, HEADS // 2, 1])
def test_outputs_and_gradients_are_the_formulas(
    length: int, masked: str | None, dtype: torch.dtype, keys: int
) -> None:
    torch.manual_seed(0)
    given = inputs(length, dtype, keys)
    mask = hidden(length, causal=masked == "causal") if masked else None
    seen, weights = attention.attend(nn.Module().eval(), *given, mask)
    expected = formula(*given, mask)
    error = 0.02 if dtype == torch.bfloat16 else 1e-5
    close = {"rtol": error, "atol": error}
    assert seen.dtype == dtype
    torch.testing.assert_close(seen.float(), expected, **close)
    assert weights.shape == (BATCH, HEADS, length, length)
    if masked:
        assert (weights[2, ..., length - 2 :] == 0).all()
    direction = torch.randn_like(expected)
    mine = torch.autograd.grad(seen, given, direction.to(dtype))
    plain = torch.autograd.grad(expected, given, direction)
    for one, other in zip(mine, plain, strict=True):
        torch.testing.assert_close(one, other, **close)
