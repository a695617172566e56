"""Lottery tickets: rehearsals of fine-tuning find a mask, then what it leaves fine-tunes from w_0.

Kobayashi et al. 2022, arXiv 2205.11833, by iterative magnitude pruning (Frankle & Carbin 2019).
In each of `rounds` rehearsals, equal parts of `search_share` of the budget, every parameter trains

    by   loss + tau(t) sum l_i |w_i|      over the layers' matrices, l_i ~ Bernoulli(1 - s)

with tau(t) falling from `tau` to 0; then the smallest |w_i| of all matrices together are pruned, s
after the last round, and all that is left goes back to w_0. For the rest of the budget it
fine-tunes inside the mask, without the penalty.

The l_i are drawn from the run's seed (the paper's random masking), so that the tickets of several
seeds differ; `finegrid ensemble` over such runs averages their outputs and adds up their costs, the
paper's RANDOM-LT. With `tau: 0` tickets differ by chance alone, its BASE-LT.

Where we differ: there each rehearsal is a complete fine-tuning, with a schedule of its own, and the
last one too; here all of it shares one budget and one schedule, the last part at `refit_rate` times
the rate. The head is not reset, and a round prunes s / rounds of all, not a tenth of what is left.
The paper does not print its tau, which it tuned on MRPC. Active masking, by which a ticket avoids
those before it, would let one run depend on others: left out.
"""

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.mask import Mask, lowest, pruned_count
from finegrid.models import surgery
from finegrid.models.sites import Sites

NAME = "lottery_ticket"


class TicketMask(Mask):
    """The mask of one matrix and, during the search, which of its weights are penalised."""

    penalised: Tensor

    def __init__(self, weight: Tensor, share: float) -> None:
        super().__init__(torch.ones_like(weight, dtype=torch.bool))
        drawn = torch.rand(weight.shape, device=weight.device) < share
        self.register_buffer("penalised", drawn, persistent=False)


class LotteryTicket(TuningMethod):
    """Search a mask by rehearsals, then fine-tune inside it from the pre-trained weights."""

    def __init__(
        self,
        *,
        sparsity: float = YAML,
        rounds: int = YAML,
        search_share: float = YAML,
        refit_rate: float = YAML,
        tau: float = YAML,
    ) -> None:
        pruned_count(sparsity, 1)  # refuses a sparsity out of range
        require(rounds >= 1, f"method.rounds={rounds} must be at least 1")
        require(
            0 < search_share < 1,
            f"method.search_share={search_share:g} is no share of the budget in (0, 1)",
        )
        require(refit_rate > 0, f"method.refit_rate={refit_rate:g} must be above 0")
        require(tau >= 0, f"method.tau={tau:g} is negative")
        self.sparsity, self.rounds, self.search_share = sparsity, rounds, search_share
        self.refit_rate, self.tau = refit_rate, tau
        self.checkpointable = False
        self.done = 0  # rounds
        self.start: dict[str, Tensor] = {}  # what every parameter goes back to

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every parameter, and put a mask of ones on every weight matrix of the layers."""
        for part in sites.scope(backbone):
            surgery.unfreeze(part.parameters())
        self.start = {name: p.detach().clone() for name, p in backbone.named_parameters()}
        for module, weight in sites.matrices(None, None):
            mask = TicketMask(weight, 1 - self.sparsity)
            surgery.reparametrize(module, "weight", NAME, mask)

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Add the gradient of the penalty in the rehearsals."""
        if self.checkpointable or not self.tau:
            return
        strength = self.tau * max(0.0, 1 - (self._rounds(progress) - self.done))
        for mask, weight in _masked(backbone):
            if weight.grad is not None:
                weight.grad.add_(weight.detach().sign() * mask.penalised, alpha=strength)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Prune and start anew when a round ends."""
        due = min(self.rounds, int(self._rounds(progress)))
        if due <= self.done:
            return False
        self.done = due
        _prune(_masked(backbone), self.sparsity * due / self.rounds)
        parameters = dict(backbone.named_parameters())
        with torch.no_grad():
            for name, value in self.start.items():
                parameters[name].copy_(value)
        if due == self.rounds:
            self.checkpointable, self.lr_scale, self.start = True, self.refit_rate, {}
        return True

    def _rounds(self, progress: float) -> float:
        """How many rounds this much of the budget is."""
        return self.rounds * progress / self.search_share


def _masked(backbone: nn.Module) -> list[tuple[TicketMask, nn.Parameter]]:
    """(mask, the stored weight below it) of every masked matrix."""
    return [
        (mask, weight)
        for _, site, name in surgery.injected(backbone)
        if isinstance(mask := site.get_submodule(name), TicketMask)
        and (weight := surgery.raw_parameter(site, "weight")) is not None
    ]


@torch.no_grad()
def _prune(masked: list[tuple[TicketMask, nn.Parameter]], sparsity: float) -> None:
    """Let the masks be false at this share of all weights: those before, then the smallest."""
    sizes = [weight.abs().masked_fill(~mask.mask, -1.0).flatten() for mask, weight in masked]
    kept = ~lowest(torch.cat(sizes), sparsity)
    parts = torch.split(kept, [len(size) for size in sizes])
    for (mask, weight), part in zip(masked, parts, strict=True):
        mask.mask = part.view_as(weight)
