"""Linear layers with a cached bf16 weight and norms with bf16 output, for mixed precision.

Autocast casts every frozen weight again in each step, and passes fp32 from each LayerNorm to the
next matrix product, which casts it back. Here a frozen weight's bf16 copy is cached until the
weight changes, and a LayerNorm, which computes in fp32, returns bf16. What trains stays in fp32 and
is cast as autocast would; without autocast nothing differs from torch.nn.

On a CPU the copy is cached in oneDNN's layout, into which it is otherwise reordered in each
product, and the bias is added within the product: 0.8 of the time for many tokens, half for few.
"""

import copy
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class CachedLinear(nn.Linear):
    """`nn.Linear` that caches its frozen weight in the precision of autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        dtype = autocast_dtype(input)
        weight = self.weight  # read once: a method may compute it, or draw it, each time
        if weight.requires_grad:
            self.__dict__.pop("_cached", None)  # fused AdamW changes weights, but not their version
        if weight.requires_grad or dtype is None or weight is not self._parameters["weight"]:
            return functional.linear(input, weight, self.bias)
        bias = None if self.bias is None else self.bias.to(dtype)
        return self.cached_weight(dtype).forward(input.to(dtype), bias)

    def cached_weight(self, dtype: torch.dtype) -> "CachedWeight":
        """The weight in that precision, cast again only after it has changed."""
        weight = self._parameters["weight"]
        assert weight is not None
        state = (weight.data_ptr(), weight._version, dtype)
        cached: tuple[object, CachedWeight] | None = self.__dict__.get("_cached")
        if cached is None or cached[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # training will use it too
                cached = state, cast(weight, dtype)
            self.__dict__["_cached"] = cached
        return cached[1]


class CachedWeight:
    """A frozen weight (out, in) in the precision of its products, which autocast leaves alone."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b."""
        return functional.linear(x, self.weight, bias)

    def grad_input(self, gradient: Tensor) -> Tensor:
        """The gradient of x, given that of x W^T."""
        return gradient @ self.weight


class PackedWeight(CachedWeight):
    """A weight in oneDNN's layout, and its transpose too once a gradient is asked for."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b."""
        if torch.is_grad_enabled():
            y: Tensor = _FrozenLinear.apply(x, bias, self)  # type: ignore[no-untyped-call]
            return y
        return _packed_linear(x, self.weight, bias)

    def grad_input(self, gradient: Tensor) -> Tensor:
        """The gradient of x, given that of x W^T."""
        return _packed_linear(gradient, self._transposed, None)

    @cached_property
    def _transposed(self) -> Tensor:
        weight = self.weight.to_dense().T.contiguous()
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        return packed


class _FrozenLinear(torch.autograd.Function):
    """x W^T + b with W frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: CachedWeight) -> Tensor:
        ctx.weight = weight
        return weight.forward(x, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        dx = ctx.weight.grad_input(gradient) if ctx.needs_input_grad[0] else None
        db = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return dx, db, None


def _packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


def cast(weight: Tensor, dtype: torch.dtype) -> CachedWeight:
    """A frozen weight ready for products in that precision."""
    packs = weight.is_cpu and dtype == torch.bfloat16 and _packs()
    return (PackedWeight if packs else CachedWeight)(weight.detach().to(dtype))


@cache
def _packs() -> bool:
    """Whether this PyTorch has oneDNN's operators, which are internal to it, and can use them."""
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    available = torch.backends.mkldnn.is_available() and all(hasattr(operators, x) for x in names)  # type: ignore[no-untyped-call]
    return available and bool(operators._is_mkldnn_bf16_supported())


class AutocastLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that reads and returns the precision of autocast, and computes in fp32."""

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
    """A gain or shift as torch's LayerNorm takes it: on a CPU in fp32, else as its input."""
    return x if x.device.type == "cpu" else x.to(dtype)


class AutocastRMSNorm(nn.Module):
    """An RMSNorm that computes in fp32 and returns the precision of autocast, on a CPU.

    It is mixed into the class of a model's own, which says the rest: see `rms_norm`.
    """

    weight: Tensor
    offset: float  # added to the weight
    epsilon: float  # added to the mean square

    def forward(self, input: Tensor) -> Tensor:
        """x / rms(x) * (weight + offset) over the last dimension."""
        dtype = autocast_dtype(input)
        if dtype is None or not input.is_cpu:
            x: Tensor = super().forward(input)
            return x
        gain = self.weight + self.offset if self.offset else self.weight
        y: Tensor = _RMSNorm.apply(input, gain, self.epsilon, dtype)  # type: ignore[no-untyped-call]
        return y


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * g, which keeps its input and a number a row for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale: Tensor = (length**2 / x.shape[-1] + epsilon).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        return (wide * scale).mul_(gain).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, gain, scale), gradient = ctx.saved_tensors, gradients[0].float()
        normal = x.float() * scale
        dgain = (gradient * normal).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dgain, None, None
        gradient = gradient * gain
        along = torch.linalg.vecdot(gradient, normal).unsqueeze(-1) / x.shape[-1]
        dx = gradient.sub_(normal.mul_(along)).mul_(scale)
        return dx.to(x.dtype), dgain, None, None


FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: CachedLinear,
    nn.LayerNorm: AutocastLayerNorm,
}


def patch(model: nn.Module) -> None:
    """Turn a model's linear layers and norms into those of this file, in place.

    The last RMSNorm, outside the layers, stays: a head reads what it gives in fp32.
    """
    for path, module in model.named_modules():
        module.__class__ = FAST.get(type(module), type(module))
        if "." in path and type(module).__name__.endswith("RMSNorm"):
            rms_norm(module)


def rms_norm(module: Any) -> None:
    """Give an RMSNorm the forward pass of `AutocastRMSNorm`, if that is what it computes."""
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(epsilon, float) or not isinstance(module.weight, nn.Parameter):
        return
    trial = copy.deepcopy(module)
    with torch.no_grad():
        x = torch.linspace(-2, 3, module.weight.numel())
        trial.weight.copy_(x.flip(-1))  # ones would not tell a factor from an offset
        normal = x * torch.rsqrt(x.square().mean() + epsilon)
        found = trial(x)
    for offset in (0.0, 1.0):
        if torch.allclose(found, normal * (trial.weight + offset), atol=1e-6):
            module.__class__ = _mixed(type(module))  # type: ignore[arg-type]
            module.offset, module.epsilon = offset, epsilon
            return


@cache
def _mixed(norm: type[nn.Module]) -> type[nn.Module]:
    return type("AutocastRMSNorm", (AutocastRMSNorm, norm), {})


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The precision that autocast asks for on a tensor's device; None if autocast is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
