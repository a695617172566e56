"""What a head answers: its class of transformers, its tokens, its logits, what of it trains."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from torch import Tensor

from finegrid.config import ModelConfig
from finegrid.models.backbone import Backbone
from finegrid.tasks.modules.reader import Reader
from finegrid.tasks.task import Task


class Head:
    """The task's own head: a fresh one, drawn from the seed; other heads override what differs."""

    needs_rows: ClassVar[bool] = True  # of training; else data.rows=0 scores the model as it is
    one_state: ClassVar[bool] = True  # reads one state a row, the one that the task's own head does
    exports: ClassVar[bool] = True  # transformers can load the model as one of its classes
    rows_at_start: ClassVar[int] = 0  # training rows that `begin` reads at most

    def check(self, model: ModelConfig, task: Task) -> None:
        """Refuse a model that this head cannot be had of, before anything is loaded.

        Raises:
            UserError: naming the model.
        """

    def auto_class(self, task: Task, decoder: bool) -> str:
        """The class of transformers that the backbone is loaded as."""
        return task.auto_class(decoder)

    def reader(self, task: Task) -> Reader:
        """What makes tokens of the task's rows."""
        return task

    def attach(self, backbone: Backbone, task: Task, tokenizer: Callable[[], Any]) -> None:
        """Let the backbone's model give logits (B, outputs), in place."""

    def begin(self, model: Any, passes: Iterator[Tensor]) -> None:
        """Start from training rows, before any method has changed the model.

        Each item makes the model read some of them, and is their labels.
        """

    def after_step(self, model: Any, labels: Tensor) -> None:
        """After a step on rows of these labels."""
