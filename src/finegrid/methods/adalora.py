"""AdaLoRA: updates in the form of an SVD, which share a budget of ranks.

Zhang et al. 2023, arXiv 2303.10512.

    dW = s P diag(l) Q,    s = alpha / initial_rank

P (out, rank) and Q (rank, in) are drawn from N(0, 0.02), the singular values l are zero, so the
start is exactly the pre-trained model. P and Q are held near orthogonality by the gradient of

    orthogonality * mean over all P and Q of |P^T P - I|, |Q Q^T - I|         (Frobenius norms)

A singular value and its two vectors are a triplet. After every backward pass each of its numbers w
has a sensitivity |w dL/dw|; I is its running mean (beta1) and U that of |sensitivity - I| (beta2),
and a triplet scores the sum of the means of I * U over l, over its column of P and its row of Q.
After every step the triplets beyond the budget of all matrices together, lowest scores first, have
their singular value set to zero; it may grow again until the end of the schedule. With t the share
of the run's budget,

    ranks(t) = all                                     t <= t_init
               target + (all - target) (1 - u)^3       u = (t - t_init) / (1 - t_final - t_init)
               target, the same triplets from then on  t >= 1 - t_final

A run's weights are a result in the last phase alone, and its delta holds the triplets that are
left. `fold` adds dW to the weight. Logits, gradients and choices are those of peft 0.21.

Where we differ: sensitivities are taken before the step, as in the paper's algorithm; the authors'
code and peft take the weights after it and the gradient after clipping. The penalty is that of the
authors' code: norms that are not squared, by their mean. The budget is shared at every step (their
code: at every `mask_interval`th, 1 on MRPC). Of equal scores the first is left, where theirs lose
all. No dropout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach, bounded
from finegrid.models.sites import Sites

STD = 0.02  # of the vectors at the start


class Triplets(Update):
    """dW = scale P diag(l) Q, and what is known of each triplet's importance."""

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(outputs, rank).normal_(std=STD))
        self.values = nn.Parameter(torch.zeros(rank))
        self.right = nn.Parameter(torch.empty(rank, inputs).normal_(std=STD))
        self.scale = scale
        self.smoothed: dict[str, tuple[Tensor, Tensor]] = {}  # of each parameter: I, U

    def matrix(self) -> Tensor:
        """Scale P diag(l) Q."""
        return self.left @ (self.values[:, None] * self.right) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The same without making the matrix."""
        inner = self.values * functional.linear(x, self.right)
        return functional.linear(inner, self.left) * self.scale

    def products(self) -> tuple[Tensor, Tensor]:
        """P^T P and Q Q^T, rank x rank: the identity where P and Q are orthogonal."""
        return self.left.mT @ self.left, self.right @ self.right.mT

    @torch.no_grad()
    def observe(self, *, beta1: float, beta2: float) -> None:
        """Smooth the sensitivities, and how far they stray, by the gradients of a step."""
        for name, parameter in self.named_parameters():
            assert parameter.grad is not None
            now = (parameter * parameter.grad).abs()
            mean, stray = self.smoothed.get(name, (torch.zeros_like(now), torch.zeros_like(now)))
            mean = beta1 * mean + (1 - beta1) * now
            self.smoothed[name] = mean, beta2 * stray + (1 - beta2) * (now - mean).abs()

    def scores(self) -> Tensor:
        """The importance of each triplet; zero before a gradient was seen."""
        if not self.smoothed:
            return torch.zeros_like(self.values)
        each = {name: mean * stray for name, (mean, stray) in self.smoothed.items()}
        return each["values"] + each["left"].mean(dim=0) + each["right"].mean(dim=1)

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Set the other triplets' singular values to zero."""
        self.values.masked_fill_(~kept, 0)

    def to_delta(self) -> dict[str, Tensor]:
        """Which triplets are not zero, and these, a row each."""
        kept = self.values.detach() != 0
        rows = slice(None) if kept.is_meta else kept  # of shapes alone: all, at most
        return {
            "kept": kept,
            "left": self.left.mT[rows],
            "values": self.values[rows],
            "right": self.right[rows],
        }

    @torch.no_grad()
    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load the triplets that are not zero; the vectors of the others are zero too."""
        kept = state["kept"].to(self.values.device)
        for part, name in ((self.left.mT, "left"), (self.values, "values"), (self.right, "right")):
            part.zero_()
            part[kept] = state[name].to(part)


class AdaLoRA(TuningMethod):
    """Inject updates whose ranks are shared out among the matrices of some roles."""

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        initial_rank: int = YAML,
        rank: int = YAML,
        alpha: float = YAML,
        t_init: float = YAML,
        t_final: float = YAML,
        beta1: float = YAML,
        beta2: float = YAML,
        orthogonality: float = YAML,
    ) -> None:
        require(
            1 <= rank <= initial_rank,
            f"method.rank={rank} must lie in [1, {initial_rank}], method.initial_rank being "
            f"{initial_rank}",
        )
        require(
            t_init >= 0 and t_final > 0 and t_init + t_final < 1,
            f"method.t_init={t_init:g} and method.t_final={t_final:g} are shares of the budget "
            "whose sum is below 1, t_final above 0",
        )
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            require(0 <= beta < 1, f"method.{name}={beta:g} must lie in [0, 1)")
        require(orthogonality >= 0, f"method.orthogonality={orthogonality:g} is negative")
        self.roles, self.initial_rank, self.rank, self.alpha = roles, initial_rank, rank, alpha
        self.t_init, self.t_final = t_init, t_final
        self.beta1, self.beta2, self.orthogonality = beta1, beta2, orthogonality
        self.checkpointable = False  # until no more than the budget is left
        self.final: list[Tensor] = []  # of each matrix, which triplets are left in the end

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach them; raises UserError for a rank that is no rank of such a matrix."""
        attach(sites, self.roles, "adalora", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> Triplets:
        inputs, outputs = bounded(linear, role, self.initial_rank, option="initial_rank")
        scale = self.alpha / self.initial_rank
        return Triplets(inputs, outputs, rank=self.initial_rank, scale=scale)

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Add the gradient of the penalty; until the last phase, note the sensitivities."""
        updates = _updates(backbone)
        if self.orthogonality:
            products = torch.stack([x for update in updates for x in update.products()])
            unit = torch.eye(self.initial_rank, device=products.device)
            norms = torch.linalg.matrix_norm(products - unit)
            (self.orthogonality * norms.mean()).backward()
        if not self.checkpointable:
            for update in updates:
                update.observe(beta1=self.beta1, beta2=self.beta2)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Share out the ranks of this moment; what trains stays the same."""
        updates = _updates(backbone)
        if not self.checkpointable and progress > self.t_init:
            chosen = _best([update.scores() for update in updates], self.ranks(progress))
            if progress >= 1 - self.t_final:
                self.checkpointable, self.final = True, chosen
            _keep(updates, chosen)
        elif self.checkpointable:
            _keep(updates, self.final)
        return False

    def ranks(self, progress: float) -> float:
        """The budget: the mean rank of a matrix, given the share of the run's budget spent."""
        spent = (progress - self.t_init) / (1 - self.t_final - self.t_init)
        left = 1 - min(max(spent, 0.0), 1.0)
        return self.rank + (self.initial_rank - self.rank) * left**3


def _updates(backbone: nn.Module) -> list[Triplets]:
    return [module for module in backbone.modules() if isinstance(module, Triplets)]


def _keep(updates: Sequence[Triplets], chosen: Sequence[Tensor]) -> None:
    for update, kept in zip(updates, chosen, strict=True):
        update.keep(kept)


def _best(scores: Sequence[Tensor], ranks: float) -> list[Tensor]:
    """Of each matrix, which triplets are among the highest scores, `ranks` a matrix on average."""
    every = torch.cat(list(scores))
    order = every.argsort(descending=True, stable=True)
    kept = torch.zeros_like(every, dtype=torch.bool)
    kept[order[: int(ranks * len(scores))]] = True
    return list(torch.split(kept, [len(score) for score in scores]))
