"""Half fine-tuning: a random half of the matrices trains, in every layer and category.

Hui et al. 2024, arXiv 2404.18466. Per layer: half of the attention matrices, half of the
feed-forward matrices; half of all LayerNorms; the embeddings always. A matrix brings its bias.
With `rounds` above one the half is drawn anew after each of so many equal shares of the budget.

Where we differ: an encoder's feed-forward block has two matrices where the authors' has three, so
one of two trains; of three, two do. The authors draw per training round of several data sets; here
a round is a share of one run. Between rounds a matrix keeps what it learned; outside its rounds it
gets no gradient, so neither momentum nor weight decay moves it.
"""

import torch
from torch import nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.models import surgery
from finegrid.models.sites import Sites

ATTENTION = ("query", "key", "value", "qkv", "attention_output")
FEED_FORWARD = ("gate", "intermediate", "output")


class HFT(TuningMethod):
    """Train a random half of the matrices, drawn once or anew every round."""

    def __init__(self, *, rounds: int = YAML, embeddings: bool = YAML) -> None:
        require(rounds >= 1, f"method.rounds={rounds} must be at least 1")
        self.rounds, self.embeddings = rounds, embeddings
        self.halves: list[list[nn.Module]] = []

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Draw the half of every round and unfreeze their union."""
        groups = [
            [
                site.module
                for role in roles
                if role in sites
                for site in sites[role]
                if site.layer == n
            ]
            for roles in (ATTENTION, FEED_FORWARD)
            for n in range(sites.n_layers)
        ]
        norms = [site.module for site in sites["layernorm"] if site.layer is not None]
        self.halves = [
            [module for group in (*groups, norms) for module in _half(group)]
            for _ in range(self.rounds)
        ]
        always = [site.module for site in sites["embeddings"]] if self.embeddings else []
        for module in (*always, *(module for half in self.halves for module in half)):
            surgery.unfreeze(module.parameters())

    def acts(self) -> tuple[str, ...]:
        """A half that is drawn once trains like any other choice."""
        return super().acts() if self.rounds > 1 else ()

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Drop the gradients of matrices that do not train in this round."""
        current = self.halves[min(int(progress * self.rounds), self.rounds - 1)]
        trains = {id(module) for module in current}
        for module in (module for half in self.halves for module in half):
            if id(module) not in trains:
                module.zero_grad(set_to_none=True)


def _half(modules: list[nn.Module]) -> list[nn.Module]:
    order = torch.randperm(len(modules), device="cpu").tolist()
    return [modules[i] for i in order[: (len(modules) + 1) // 2]]
