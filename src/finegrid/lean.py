"""Linear layers and LayerNorms that spend nothing on casts in mixed precision.

Autocast casts every frozen matrix anew in each step, and hands fp32 from each LayerNorm to the
next matrix product, which casts it back. Here a frozen matrix keeps its bf16 copy for as long as
it does not change, and a LayerNorm, which computes in fp32 inside, gives bf16 out. What trains
stays in fp32 and is cast as autocast would; without autocast nothing differs from torch.nn.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """`nn.Linear` that remembers its frozen weight in the precision of autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        dtype = autocast_dtype(input)
        weight = self.weight
        if dtype is None or weight.requires_grad or weight is not self._parameters["weight"]:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.to(dtype)
            return functional.linear(input.to(dtype), self.cast(dtype), bias)

    def cast(self, dtype: torch.dtype) -> Tensor:
        """The weight in that precision, cast again only after it has changed."""
        weight = self._parameters["weight"]
        assert weight is not None
        state = (weight.data_ptr(), weight._version, dtype)
        known: tuple[object, Tensor] | None = self.__dict__.get("_known")
        if known is None or known[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # training will use it too
                known = state, weight.to(dtype)
            self.__dict__["_known"] = known
        return known[1]


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that reads and gives the precision of autocast, and computes in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """(x - mean) / std * g + b over the last dimension."""
        dtype = autocast_dtype(input)
        if dtype is None:
            return super().forward(input)
        weight, bias = (None if x is None else _fit(x, dtype) for x in (self.weight, self.bias))
        with torch.autocast(input.device.type, enabled=False):
            shape = self.normalized_shape
            return functional.layer_norm(input.to(dtype), shape, weight, bias, self.eps)


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
