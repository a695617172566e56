"""Scaled parallel adapter: a bottleneck beside feed-forward (He et al. 2021, arXiv 2110.04366).

h = FFN(x) + scaling (W_up act(W_down x + b_down) + b_up), x being what FFN reads. AdapterHub calls
it `par_bn`; its reduction factor 2, relu and scaling 4 are our defaults.

Where we differ: W_down starts from N(0, 0.02), not as a fresh Linear. W_up starts at zero in both,
so the start is exactly the pre-trained model.
"""

from typing import Any

from torch import Tensor, nn

from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adapter import Bottleneck
from finegrid.models import surgery
from finegrid.models.sites import Sites


class Tap(nn.Module):
    """Stores the input of a feed-forward block until its end, where the adapter reads it.

    It is a child of both sites, so that deep copies share one, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: Tensor | None = None

    def take(self) -> Tensor:
        """The stored tensor, which is forgotten."""
        assert self.held is not None, "the block ended before it began"
        x, self.held = self.held, None
        return x


class ParallelBottleneck(Bottleneck):
    """A bottleneck whose input is the stored input of its block."""

    def __init__(
        self, hidden: int, tap: Tap, *, reduction_factor: float, activation: str, scaling: float
    ) -> None:
        super().__init__(hidden, reduction_factor=reduction_factor, activation=activation)
        self.tap, self.scaling = tap, scaling


def _hold(site: nn.Module, inputs: tuple[Any, ...]) -> None:
    tap: Any = site.get_submodule("parallel")
    tap.held = inputs[0]  # x: B T H


def _add(site: nn.Module, inputs: tuple[Any, ...], h: Tensor) -> Tensor:
    adapter: Any = site.get_submodule("parallel")
    correction: Tensor = adapter.scaling * adapter(adapter.tap.take())
    return h + correction


class Parallel(TuningMethod):
    """Inject one bottleneck a layer, beside feed-forward."""

    def __init__(
        self, *, reduction_factor: float = YAML, activation: str = YAML, scaling: float = YAML
    ) -> None:
        self.reduction_factor, self.activation = reduction_factor, activation
        self.scaling = scaling

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach a tap where each feed-forward block begins and a bottleneck where it ends."""
        for start, end in zip(sites["intermediate"], sites["output_block"], strict=True):
            tap = Tap()
            surgery.attach_before(start.module, "parallel", tap, _hold)
            bottleneck = ParallelBottleneck(
                sites.hidden_size,
                tap,
                reduction_factor=self.reduction_factor,
                activation=self.activation,
                scaling=self.scaling,
            )
            surgery.attach(end.module, "parallel", bottleneck, _add)
