"""A sparse difference that removes an attribute from the embedding, on or off (2205.15171).

Hauzenberger, Masoudian, Kumar, Schedl & Rekabsaz 2023, ModDiffy, trained after the task (its
regime "post"). With h the embedding, y the label, p the attribute (what `task.attribute` says of
the row), c the task's head and a_k adversaries:

    task      theta = theta_0 + delta_t    by CE(c(h), y), for `task_share` of the budget
    debias    theta + z * d                by CE(c(h), y) + mean_k CE(a_k(R(h)), p) + l0 * penalty,
                                           z, d and the penalty as in diff_pruning
    fix       the `density` largest |z * d| alone train, without penalty, from `search_share` on

R is the identity, its gradient times -`adversary`: the a_k learn p, d unlearns it. While d trains,
theta and c get no gradient, so that the model with the difference switched off is bit by bit the
one that the task's phase left. A run is scored on and off, and its record says for both how much
of p a fresh probe finds (`leakage`, `leakage_off`). What is stored is delta_t and d. `select=best`
takes the weights by the task's score alone, on rows as biased as training's; `select=last` has had
more of the adversaries.

Where we differ: all phases share one budget and one learning-rate schedule, so that the task gets
`task_share` of what other methods do; d has `debias_rate` times the rate, the a_k that times
`adversary_rate`. One attribute, the paper one or two, each with a d of its own; its other regime,
"par", trains task and d by turns in each batch, with a second head. h is what the task's head
reads (BERT's pooled state; the authors' the first token's last). The layers' matrices alone have
a difference; theirs (github.com/CPJKU/ModularizedDebiasing) embeddings, biases and norms too. The
five a_k have one hidden layer of the embedding's width and dropout 0.3, as theirs; rows without an
attribute count for the task alone. Means of head=prototype move on with d. The a_k's FLOPs, some
per mille of a step's on BERT-base, are not counted.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.adversary import Adversary
from finegrid.methods.modules.attribute import INPUT, add_numbers
from finegrid.methods.modules.gated_difference import GatedDifference, penalty, project
from finegrid.methods.modules.sparse_delta import count
from finegrid.methods.modules.switch import Switch
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.models.embedding import watch
from finegrid.models.sites import Sites
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    from finegrid.data.batching import TokenizedDataset

NAME = "debias_diff"
HEADS, DROPOUT = 5, 0.3


class SwitchedDifference(GatedDifference, Switch):
    """A gated difference that is off, and takes no memory, until it trains or is loaded."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight, structured=False)
        self.on = False
        self._drop()

    def begin(self) -> None:
        """Switch on, and train."""
        self.on = True
        for parameter in (self.difference, self.gates):
            parameter.data = parameter.new_zeros(self.shape.numel())
            parameter.requires_grad_(True)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, plus the difference if it is on; same shape."""
        return super().forward(weight) if self.on else weight

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load values and mask, and switch on."""
        super().from_delta(state)
        self.on = True


class DebiasDiff(TuningMethod):
    """Train everything on the task, then a sparse difference against an attribute."""

    def __init__(
        self,
        *,
        density: float = YAML,
        l0: float = YAML,
        adversary: float = YAML,
        task_share: float = YAML,
        search_share: float = YAML,
        debias_rate: float = YAML,
        adversary_rate: float = YAML,
    ) -> None:
        count(density, 1)  # refuses a density out of range
        for name, value in (("l0", l0), ("adversary", adversary)):
            require(value >= 0, f"method.{name}={value:g} is negative")
        for name, value in (("debias_rate", debias_rate), ("adversary_rate", adversary_rate)):
            require(value > 0, f"method.{name}={value:g} must be above 0")
        require(
            0 < task_share < search_share < 1,
            f"method.task_share={task_share:g} and method.search_share={search_share:g} must be "
            "shares of the budget in (0, 1), the second the larger",
        )
        self.density, self.l0, self.adversary = density, l0, adversary
        self.task_share, self.search_share = task_share, search_share
        self.debias_rate, self.adversary_rate = debias_rate, adversary_rate
        self.debiasing = self.checkpointable = False
        self.values: list[str] = []  # of the attribute
        self.attribute: str | None = None
        self.width = 0  # of the embedding
        self.head: list[nn.Parameter] = []  # the task's, which stays while d trains

    def read_task(self, task: Task) -> None:
        """Learn the attribute's values, which only the training rows tell.

        Raises:
            UserError: for a task without an attribute, whose attribute is the label, or whose rows
                have no one embedding.
        """
        require(
            task.attribute is not None,
            "method=debias_diff removes an attribute of the row; name its column, "
            "+task.attribute=COLUMN (task=custom: task.attribute=COLUMN), or use method=full",
        )
        require(
            task.attribute not in task.label_columns,
            f"task.attribute={task.attribute} is the label, which cannot be removed",
        )
        require(
            task.ONE_STATE and task.FUSES, f"method=debias_diff does not fit task.kind={task.kind}"
        )
        self.attribute, self.values = task.attribute, task.attribute_values

    def add_inputs(self, rows: "TokenizedDataset") -> None:
        """Let a batch of rows that tell the attribute hold its number; predictions need none.

        Raises:
            UserError: if an adversary has nothing to tell apart.
        """
        if not rows.attributes:
            return
        require(
            len(self.values) > 1,
            f"task.attribute={self.attribute} has {len(self.values) or 'no'} value in the training "
            "rows; an adversary needs two to tell apart",
        )
        add_numbers(rows, self.values)

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze every parameter, and put a difference that is off on the layers' matrices."""
        self.width = sites.hidden_size
        for part in sites.scope(backbone):
            surgery.unfreeze(_of_the_task(part))
        for module, weight in sites.matrices(None, None):
            surgery.reparametrize(module, "weight", NAME, SwitchedDifference(weight.detach()))
        if surgery.add_child(backbone, NAME, Adversary()):
            watch(backbone, _keep_embedding, decoder=sites.decoder)

    def finish(self, backbone: Backbone) -> None:
        """Let the model take the attribute of a pass, and know the head that is to stay."""
        if _take not in backbone.model._forward_pre_hooks.values():
            backbone.model.register_forward_pre_hook(_take, with_kwargs=True)
        inside = set(map(id, backbone.model.base_model.parameters()))
        self.head = [p for p in backbone.model.parameters() if id(p) not in inside]

    def lr_ratio(self, name: str) -> float:
        """Adversaries learn faster than what they read."""
        return self.adversary_rate if f"{NAME}.heads." in name else 1.0

    def added_loss(self, backbone: nn.Module) -> Tensor | None:
        """The adversaries' loss, once the difference trains."""
        return _adversary(backbone).loss(self.adversary)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Begin to debias when the task's phase ends; then train only the largest entries."""
        if self.checkpointable or progress < self.task_share:
            return False
        begins, ends = not self.debiasing, progress >= self.search_share
        if begins:
            self._begin(backbone)
        if ends:
            project(_differences(backbone), self.density)
            self.checkpointable = True
        return begins or ends

    def _begin(self, backbone: nn.Module) -> None:
        self.debiasing, self.lr_scale = True, self.debias_rate
        for difference in _differences(backbone):
            difference.begin()
        if len(self.values) > 1:
            adversary = _adversary(backbone)
            adversary.begin(self.width, len(self.values), heads=HEADS, dropout=DROPOUT)
            adversary.to(next(backbone.parameters()).device)

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Give the task's weights no gradient while the difference trains, and its gates theirs."""
        if not self.debiasing:
            return
        for parameter in (*_of_the_task(backbone), *self.head):
            parameter.grad = None
        if not self.checkpointable:
            (self.l0 * penalty(_differences(backbone))).backward()  # type: ignore[no-untyped-call]


def _differences(backbone: nn.Module) -> list[SwitchedDifference]:
    return [module for module in backbone.modules() if isinstance(module, SwitchedDifference)]


def _adversary(backbone: nn.Module) -> Adversary:
    adversary = backbone.get_submodule(NAME)
    assert isinstance(adversary, Adversary)
    return adversary


def _of_the_task(part: nn.Module) -> Iterator[nn.Parameter]:
    for name, parameter in part.named_parameters():
        if NAME not in name.split("."):
            yield parameter


def _take(model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Take the attribute out of a pass's inputs, which the model itself does not know."""
    numbers = named.pop(INPUT, None)
    if NAME in model.base_model._modules:  # it is gone from a merged model
        _adversary(model.base_model).numbers = numbers if model.training else None
    return inputs, named


def _keep_embedding(base: nn.Module, embedding: Tensor) -> None:
    adversary = _adversary(base)
    reads = base.training and adversary.heads is not None
    adversary.embedding = embedding if reads else None  # it holds a graph
