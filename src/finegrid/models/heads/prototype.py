"""Class means as a classifier: the class-mean core of prototypical fine-tuning (2211.13638).

Jin et al. 2022 classify by distances to prototypes in the encoder's space, which begin as means of
a class's rows and move with the encoder while it trains. With h the state (H) that the task's own
head reads before its last matrix, and m_c the mean of class c,

    logit_c = -s |h - m_c|^2

m_c begins as the mean over training rows (at most 1,024, spread evenly), read by the pre-trained
encoder, and follows the encoder as a moving average of the batches' means: after a step
m_c += 0.1 (mean of the batch's rows of class c - m_c). No gradient reaches it. The scale s trains;
it begins where a row's squared distance to its own mean is 10 on average.

Where we differ: one prototype a class, neither added nor pruned, and no penalty on their
distances; the paper's prototypes are parameters, weighted by distance. Where an architecture has
layers of its own in front of the last matrix (RoBERTa's dense layer), they are drawn from the seed
and train, as they do for `classifier`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.models.backbone import Backbone
from finegrid.models.heads.base import Head
from finegrid.tasks.task import Task

RATE = 0.1  # of the moving average, a batch
DISTANCE = 10.0  # times s, of a row to its own class's mean, at the start


class Prototypes(nn.Module):
    """Scaled negative squared distances to C means: B H -> B C.

    The means are parameters without gradients: what trains is what a checkpoint and a delta hold,
    and an optimizer passes over what has no gradient.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(classes, width))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.watching = False  # whether states are kept in eval mode too
        self.states: list[Tensor] = []  # of the passes since the means moved last

    def forward(self, h: Tensor) -> Tensor:
        """Logits, in fp32."""
        with torch.autocast(h.device.type, enabled=False):
            h = h.float()
            if self.training or self.watching:
                self.states.append(h.detach())
            distances = (h[:, None] - self.means.detach()).square().sum(-1)
            return -self.log_scale.exp() * distances

    def take(self, rows: int) -> Tensor:
        """The states of the last so many rows, B H; the others are forgotten."""
        states = torch.cat(self.states)[-rows:]
        self.states = []
        return states


class PrototypeHead(Head):
    """The last matrix of the task's own head replaced by class means."""

    exports = False
    rows_at_start = 1024

    def attach(self, backbone: Backbone, task: Task, tokenizer: Callable[[], Any]) -> None:
        """Put the prototypes in the place of the head's last matrix."""
        network: Any = backbone.model
        base = set(map(id, network.base_model.modules()))
        matrices = [
            (name, module)
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and id(module) not in base
        ]
        fitting = [(n, m) for n, m in matrices if m.out_features == task.outputs]
        require(bool(fitting), f"head=prototype: {type(network).__name__} has no matrix to replace")
        name, last = fitting[-1]
        path, _, child = name.rpartition(".")
        made = Prototypes(last.in_features, task.outputs).to(last.weight.device)
        setattr(network.get_submodule(path), child, made)

    @torch.no_grad()
    def begin(self, model: Any, passes: Iterator[Tensor]) -> None:
        """Set the means and the scale by the rows that are read."""
        module = prototypes(model)
        module.watching = True
        labels = torch.cat(list(passes))
        module.watching = False
        states = module.take(len(labels))
        module.means.copy_(states.mean(0).expand_as(module.means))  # of a class without a row
        for number in sorted(set(labels.tolist())):
            module.means[number] = states[labels == number].mean(0)
        spread = (states - module.means[labels]).square().sum(-1).mean()
        module.log_scale.copy_((DISTANCE / spread.clamp(min=1e-12)).log())

    @torch.no_grad()
    def after_step(self, model: Any, labels: Tensor) -> None:
        """Move the means of the classes in the batch."""
        module = prototypes(model)
        states = module.take(len(labels))
        for number in sorted(set(labels.tolist())):
            module.means[number].lerp_(states[labels == number].mean(0), RATE)


def prototypes(model: nn.Module) -> Prototypes:
    """The prototypes of a model."""
    return next(module for module in model.modules() if isinstance(module, Prototypes))
