"""Linear layers and LayerNorms that spend nothing on casts in mixed precision.

Autocast casts every frozen matrix anew in each step, and hands fp32 from each LayerNorm to the
next matrix product, which casts it back. Here a frozen matrix keeps its bf16 copy for as long as
it does not change, and a LayerNorm, which computes in fp32 inside, gives bf16 out. What trains
stays in fp32 and is cast as autocast would; without autocast nothing differs from torch.nn.

On a CPU the copy is kept as oneDNN lays it out for its products, which it otherwise does in each
of them, and the bias is added within the product: 0.8 of the time for many tokens, half for few.
"""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """`nn.Linear` that remembers its frozen weight in the precision of autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        dtype = autocast_dtype(input)
        weight = self.weight
        if weight.requires_grad:
            self.__dict__.pop("_known", None)  # fused AdamW changes weights, but not their version
            return super().forward(input)
        if dtype is None or weight is not self._parameters["weight"]:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.to(dtype)
        return self.matrix(dtype).times(input.to(dtype), bias)

    def matrix(self, dtype: torch.dtype) -> "Matrix":
        """The weight in that precision, made again only after it has changed."""
        weight = self._parameters["weight"]
        assert weight is not None
        state = (weight.data_ptr(), weight._version, dtype)
        known: tuple[object, Matrix] | None = self.__dict__.get("_known")
        if known is None or known[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # training will use it too
                known = state, matrix(weight, dtype)
            self.__dict__["_known"] = known
        return known[1]


class Matrix:
    """A frozen weight (out, in) in the precision of its products, which autocast leaves alone."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b."""
        return functional.linear(x, self.weight, bias)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of x, given that of x W^T."""
        return gradient @ self.weight


class Packed(Matrix):
    """One that oneDNN has laid out, and its transpose too once a gradient is asked for."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight))

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b."""
        if torch.is_grad_enabled():
            y: Tensor = _Product.apply(x, bias, self)  # type: ignore[no-untyped-call]
            return y
        return _product(x, self.weight, bias)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of x, given that of x W^T."""
        return _product(gradient, self._transposed, None)

    @cached_property
    def _transposed(self) -> Tensor:
        weight = self.weight.to_dense().T.contiguous()
        laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        return laid_out


class _Product(torch.autograd.Function):
    """x W^T + b with W frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor:
        ctx.matrix = matrix
        return matrix.times(x, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        dx = ctx.matrix.back(gradient) if ctx.needs_input_grad[0] else None
        db = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return dx, db, None


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


def matrix(weight: Tensor, dtype: torch.dtype) -> Matrix:
    """A frozen weight ready for products in that precision."""
    packs = weight.is_cpu and dtype == torch.bfloat16 and _packs()
    return (Packed if packs else Matrix)(weight.detach().to(dtype))


@cache
def _packs() -> bool:
    """Whether this PyTorch has oneDNN's operators, which are internal to it, and can use them."""
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    there = torch.backends.mkldnn.is_available() and all(hasattr(operators, x) for x in names)  # type: ignore[no-untyped-call]
    return there and bool(operators._is_mkldnn_bf16_supported())


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that reads and gives the precision of autocast, and computes in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """(x - mean) / std * g + b over the last dimension."""
        dtype = autocast_dtype(input)
        if dtype is None:
            return super().forward(input)
        weight, bias = (None if x is None else _fit(x, dtype) for x in (self.weight, self.bias))
        arguments = (input.to(dtype), self.normalized_shape, weight, bias, self.eps)
        if input.is_cpu:  # where autocast leaves it alone, and its switch takes time
            return functional.layer_norm(*arguments)
        with torch.autocast(input.device.type, enabled=False):
            return functional.layer_norm(*arguments)


def _fit(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a LayerNorm's kernel takes beside its input: on a CPU fp32, elsewhere the same."""
    return x if x.device.type == "cpu" else x.to(dtype)


LEAN: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.LayerNorm: LayerNorm}


def slim(model: nn.Module) -> None:
    """Let a model's linear layers and LayerNorms work that way; they stay the same modules."""
    for module in model.modules():
        module.__class__ = LEAN.get(type(module), type(module))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The precision that autocast asks for where a tensor lies, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
