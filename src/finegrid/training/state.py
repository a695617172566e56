"""What the parts of a training run share while it trains."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class TrainState:
    """Written by the budget timer, the method and the runner; read by module and checkpoint."""

    progress: float = 0.0  # share of the budget that is spent
    lr_scale: float = 1.0  # times optim.lr, for what trains below the head
    lr_ratio: Callable[[str], float] = field(default=lambda name: 1.0)  # times that, by name
    checkpointable: bool = True  # False in a temporary phase, whose weights are never the result
    micro_batch_size: int | None = None  # rows of a forward pass; None: those of the batch
