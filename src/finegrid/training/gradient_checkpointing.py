"""Gradient checkpointing: a layer's intermediate results are computed again in the backward pass.

Chen et al. 2016, arXiv 1604.06174. Of each layer only the input, B T H, is held from the forward to
the backward pass; one layer's results at a time are computed anew. A step costs one forward pass
more, and its loss and gradients are the same: PyTorch sets its random numbers back for the second
computation, and here those of the kernels' dropout are, too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from finegrid.errors import UserError
from finegrid.kernels.dropout import stream_of


def enable(network: Any) -> None:
    """Let the layers of a transformers model be checkpointed in training, in place.

    Raises:
        UserError: for an architecture whose layers cannot be.
    """
    settings = {"use_reentrant": False, "context_fn": partial(_contexts, network)}
    try:
        network.activation_checkpointing_enable(settings)
    except ValueError as error:
        kind = network.config.model_type
        raise UserError(
            f"trainer.gradient_checkpointing=true: transformers cannot do it for {kind}"
        ) from error


def _contexts(
    network: nn.Module,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What surrounds a layer's first computation and its second, which draws the same numbers."""
    source: Any = stream_of(network)
    if source is None:
        return nullcontext(), nullcontext()
    return nullcontext(), _drawing_again(source, source.state)


@contextmanager
def _drawing_again(source: Any, start: Any) -> Iterator[None]:
    """Draw from an earlier state of a random stream inside."""
    now, source.state = source.state, start
    try:
        yield
    finally:
        source.state = now
