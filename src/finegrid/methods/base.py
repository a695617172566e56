"""`TuningMethod`, the base class of all methods: what a method may change and when it is called."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from finegrid.errors import require
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.models.heads.masked_language import MaskedLanguageModel
from finegrid.models.sites import Sites
from finegrid.seeds import forked
from finegrid.storage.paths import CONF
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    from finegrid.data.batching import TokenizedDataset

YAML: Any = ...  # default of an argument whose value stands in the method's YAML
# what a method may do besides `apply`
HOOKS = (
    "choose", "search", "optimizer", "after_backward", "after_step", "text_loss", "added_loss",
)  # fmt: skip
# (so many training examples, batch size) -> mean loss of each batch, with its graph
Losses = Callable[[int, int], Iterator[Tensor]]


@dataclass(frozen=True)
class SearchPlan:
    """What a method's search may spend, and how long each of its trainings is."""

    share: float  # of the run's budget, at most
    folds: int
    steps: int  # of the training in one fold; it is scored on as many batches at most


class CrossValidation(Protocol):
    """Scores what trains now, by training rows alone, paid from the run's budget."""

    def affords(self, scores: int) -> bool:
        """Whether so many more scores fit into the search's share of the budget."""

    def score(self) -> float:
        """Mean of the headline metric over the folds; the weights are left as they were."""


@dataclass(frozen=True)
class Texts:
    """A batch's texts, for a loss without their labels.

    `read` passes them through the model, whose base is `base`; `language` loads the checkpoint's
    masked-language-model head, and raises UserError where there is none.
    """

    base: nn.Module
    sites: Sites
    read: Callable[[], object]
    language: Callable[[], MaskedLanguageModel]


class TuningMethod(pl.Callback):
    """A Lightning callback that decides which parameters train; subclasses override `apply`.

    `apply` gets a frozen backbone and may only add: unfreeze parameters, inject modules at sites or
    mask weights. It never sees the head, which trains alike for every method. It needs no Trainer,
    so counting parameters, loading a delta and tests call it directly.

    Every method takes an argument `layers`, and its `apply` then gets the sites of these alone.
    """

    starts_pretrained = True  # whether the first forward pass is exactly the pre-trained model's
    positions = 0  # how many of the backbone's positions the method takes for itself
    lr_scale = 1.0  # times optim.lr, for what trains below the head now
    checkpointable = True  # False in a temporary phase, whose weights are never the result
    phase_loss: Mapping[str, Any] | None = None  # settings of the loss now; None: the run's own
    search_plan: SearchPlan | None = None  # of a method that overrides `search`
    chosen: Sequence[str] | None = None  # by `search`, in the order it chose them
    chosen_by: Mapping[str, float] | None = None  # scores of what `search` tried
    texts_only = False  # True in a phase that trains by `text_loss`, without labels
    yaml: ClassVar[str] = ""  # of conf/method, with the values for YAML; empty: named as the module
    arguments: Mapping[str, Any] = {}  # that the instance was made with, the YAML's included
    site_layers: Sequence[int] | str | None = None  # whose sites `apply` gets; None: of all layers

    def __init__(self, *, layers: Sequence[int] | str | None = None) -> None:
        self.site_layers = layers
        self.arguments = {} if layers is None else {"layers": layers}

    def __init_subclass__(cls, **named: Any) -> None:
        """Let an instance take arguments from the class's YAML, and `layers` beside them."""
        super().__init_subclass__(**named)
        if "__init__" in vars(cls):
            cls.__init__ = _completed(cls)  # type: ignore[method-assign]
        if "apply" in vars(cls):
            cls.apply = _within_layers(cls.apply)  # type: ignore[method-assign]

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Unfreeze, inject or mask; idempotent."""
        raise NotImplementedError

    def read_task(self, task: Task) -> None:
        """Before `apply`: what the method must know of a run's task.

        Called with the task of the config, before anything is loaded, and again with that of the
        rows.

        Raises:
            UserError: for a task that the method does not fit.
        """

    def add_inputs(self, rows: "TokenizedDataset") -> None:
        """Let the batches of some rows hold what the method reads besides tokens."""

    def finish(self, backbone: Backbone) -> None:
        """After `apply`, on the model with its head: e.g. take what `add_inputs` has added."""

    def choose(self, backbone: nn.Module, losses: Losses) -> None:
        """After `apply`: choose what trains by gradients on training rows (e.g. Fisher masks)."""

    def search(self, backbone: nn.Module, validation: CrossValidation) -> None:
        """Before the first step: choose what trains by short trainings on the run's budget."""

    def recall(self, backbone: nn.Module, stored: Collection[str]) -> None:
        """Before a delta is loaded: let train what `search` chose, by the names of its tensors."""

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Change what trains, given the share of the budget spent (0 to 1); True if it changed."""
        return False

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Change the gradients of a step, e.g. add those of a penalty."""

    def text_loss(self, texts: Texts) -> Tensor:
        """The loss of a batch in a phase of `texts_only`, in place of the task's."""
        raise NotImplementedError

    def added_loss(self, backbone: nn.Module) -> Tensor | None:
        """After a pass: what to add to the task's loss, e.g. an adversary's; None: nothing now."""
        return None

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> Optimizer:
        """Over groups of what trains, each with `params`, `lr` and `weight_decay`."""
        return adamw(groups)

    def lr_ratio(self, name: str) -> float:
        """Times the rate, for a parameter that trains below the head, by its name (a group)."""
        return 1.0

    def acts(self) -> tuple[str, ...]:
        """The hooks that this instance relies on, which a training loop must call."""
        return tuple(hook for hook in HOOKS if overrides(self, hook))

    def tune(self, backbone: Backbone, *, seed: int) -> None:
        """Apply the method to a frozen backbone, with the global random state forked."""
        with forked(seed):  # injected modules must not shift other random draws
            self.apply(backbone.model.base_model, backbone.sites)
        self.finish(backbone)
        backbone.train_tied_head()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Apply the method: the last hook before Lightning makes the optimizer."""
        module: Any = pl_module
        self.tune(module.backbone, seed=module.init_seed)
        self._enter_phase(module)
        module.to(trainer.strategy.root_device)
        self.choose(module.model.base_model, module.losses)

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Let the method change what trains; then the optimizer is made anew."""
        if self.after_step(module.model.base_model, module.state.progress):
            self._enter_phase(module)
            trainer.strategy.setup_optimizers(trainer)
        module.state.checkpointable = self.checkpointable

    def _enter_phase(self, module: Any) -> None:
        """Give the module the rate and the loss of the phase that begins."""
        module.state.lr_scale = self.lr_scale
        module.use_loss(self.phase_loss)
        module.text_loss = self.text_loss if self.texts_only else None
        module.added_loss = self.added_loss
        module.make_optimizer = self.optimizer

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the method change the gradients."""
        module: Any = pl_module
        self.after_backward(module.model.base_model, module.state.progress)


def adamw(groups: Sequence[dict[str, Any]]) -> Optimizer:
    """The optimizer of every method that has none of its own."""
    return torch.optim.AdamW(groups, fused=True)


def overrides(method: TuningMethod, hook: str) -> bool:
    """Whether a method, or a member of a composition, overrides a hook of `TuningMethod`."""
    if (members := getattr(method, "each", None)) is not None:
        return any(overrides(member, hook) for member in members)
    return getattr(type(method), hook) is not getattr(TuningMethod, hook)


def _completed(method: type[TuningMethod]) -> Callable[..., None]:
    """A class's `__init__` that takes what a call leaves out from the YAML, and remembers all.

    It takes `layers` too, which only a class that has such an argument sees.
    """
    init: Callable[..., None] = method.__init__
    sign = signature(init)
    left_to_yaml = [n for n, value in sign.parameters.items() if value.default is YAML]
    chooses = "layers" in sign.parameters

    @wraps(init)
    def complete(self: TuningMethod, **given: Any) -> None:
        layers = None if chooses else given.pop("layers", None)
        missing = [name for name in left_to_yaml if name not in given]
        values = _values_of(method) if missing else {}
        arguments = {name: values[name] for name in missing} | given
        init(self, **arguments)
        self.site_layers = layers
        self.arguments = arguments if layers is None else arguments | {"layers": layers}

    if not chooses:
        layers = Parameter("layers", Parameter.KEYWORD_ONLY, default=None)
        complete.__signature__ = sign.replace(  # type: ignore[attr-defined]
            parameters=[*sign.parameters.values(), layers]
        )
    return complete


def _within_layers(apply: Callable[..., None]) -> Callable[..., None]:
    """A class's `apply` that gets the sites of the chosen layers, and may change no others.

    Raises:
        UserError: for layers that the backbone lacks, or a method that does not go by them.
    """

    @wraps(apply)
    def within(self: TuningMethod, backbone: nn.Module, sites: Sites) -> None:
        if self.site_layers is None:
            apply(self, backbone, sites)
            return
        chosen = sites.numbers(self.site_layers)
        with surgery.track_ownership() as owned:
            apply(self, backbone, sites.within(chosen))
        layer_of = sites.layer_of()
        changed = {layer_of[key] for key, _ in owned if key in layer_of}
        method = type(self).__name__
        require(
            changed <= set(chosen),
            f"method.layers={self.site_layers} does not fit {method}, which changes layers "
            f"{sorted(changed - set(chosen))} too; method=layers trains whole layers",
        )
        require(
            bool(changed),
            f"method.layers={self.site_layers} does not fit {method}, which changes nothing in "
            "these layers; leave it out",
        )

    return within


def layered(method: TuningMethod) -> bool:
    """Whether a method, or a member of a composition, is restricted to some layers."""
    return method.site_layers is not None or any(map(layered, getattr(method, "each", ())))


def _values_of(method: type[TuningMethod]) -> dict[str, Any]:
    """What the YAML of a class says."""
    stem = method.yaml or method.__module__.rpartition(".")[2]
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "method" / f"{stem}.yaml"))
    return dict(values)
