"""RMSNorms by the kernel: the formula of the model's own, in the precision of autocast."""

import copy
from typing import Any

import pytest
import torch
from test_decoders import small
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from finegrid.kernels import linear

WIDTH = 48
NORMS = {"llama": LlamaRMSNorm, "gemma": Gemma3RMSNorm}


def pair(kind: str) -> tuple[Any, Any]:
    """A norm of transformers with a weight of its own, and the same by the kernel."""
    torch.manual_seed(0)
    stock = NORMS[kind](WIDTH, eps=1e-5)
    nn.init.normal_(stock.weight)
    fast = copy.deepcopy(stock)
    linear.rms_norm(fast)
    assert isinstance(fast, linear.AutocastRMSNorm)
    assert isinstance(fast, NORMS[kind])
    return stock, fast


def derivatives(norm: nn.Module, x: Tensor, direction: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    return [y, *torch.autograd.grad(y, [x, *norm.parameters()], direction.to(y.dtype))]


@pytest.mark.parametrize("kind", NORMS)
def test_output_and_gradients_are_the_formulas(kind: str) -> None:
    """Under autocast in fp32, where nothing is rounded to bf16."""
    stock, fast = pair(kind)
    x, direction = 3 * torch.randn(4, 5, WIDTH), torch.randn(4, 5, WIDTH)
    gain = fast.weight + fast.offset
    seen = linear._RMSNorm.apply(x.requires_grad_(), gain, 1e-5, torch.float32)
    found = torch.autograd.grad(seen, [x, fast.weight], direction)
    expected = derivatives(stock, x.detach(), direction)
    for one, other in zip([seen, *found], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_returns_bf16_and_without_it_the_stock_result(
    kind: str, dtype: torch.dtype
) -> None:
    stock, fast = pair(kind)
    x, direction = torch.randn(4, 5, WIDTH).to(dtype), torch.randn(4, 5, WIDTH).bfloat16()
    expected = derivatives(stock, x.float(), direction)
    with torch.autocast("cpu", torch.bfloat16):
        seen = derivatives(fast, x, direction)
    assert [value.dtype for value in seen] == [torch.bfloat16, dtype, torch.float32]
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.01, atol=0.01)
    assert torch.equal(fast(x), stock(x))


def test_a_frozen_weight_and_a_frozen_input_get_no_gradient() -> None:
    _, fast = pair("llama")
    with torch.autocast("cpu", torch.bfloat16):
        fast(torch.randn(3, WIDTH)).sum().backward()
        assert fast.weight.grad is not None
        fast.weight.grad = None
        fast.weight.requires_grad_(False)
        x = torch.randn(3, WIDTH, requires_grad=True)
        fast(x).sum().backward()
    assert fast.weight.grad is None
    assert x.grad is not None


def test_another_formula_stays_as_it_is() -> None:
    class DoubledRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * super().forward(hidden_states)

    norm = DoubledRMSNorm(WIDTH)
    linear.rms_norm(norm)
    assert type(norm) is DoubledRMSNorm


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "phi3"])
def test_all_but_the_last_norm_of_a_decoder_are_by_the_kernel(kind: str) -> None:
    body = small(kind).model.base_model
    linear.patch(body)
    norms = {n: m for n, m in body.named_modules() if type(m).__name__.endswith("RMSNorm")}
    stock = [name for name, m in norms.items() if not isinstance(m, linear.AutocastRMSNorm)]
    assert stock == ["norm"]
    assert len(norms) > 4
