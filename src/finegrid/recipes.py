"""Learning rates by method and model: what `${recipe:lr}` in a config stands for.

That is the rate which a search (`tuned=NAME`) chose, or else the one that the method's YAML
publishes under `recipe` for the model, or for the one that `model.recipes_of` names; in a trial of
`experiment=tune` it is multiplied by one of `tune.factors`. What else a search may try stands in
the YAML under `search`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from finegrid.errors import one_of, require

# all that the resolvers look at
RECIPE_READS = ("method", "model", "task", "tuned", "trial", "tune")
RATE = "optim.lr"
HEAD_RATE = "optim.head_lr"  # what a method searches that trains nothing else
RATES = (RATE, HEAD_RATE)
SPACE = {RATE: (0.1, 10.0)}  # of a method whose YAML has no `search`
MOST = 2  # options that a search tries at once


@dataclass
class TuneConfig:
    """The search for each method's learning rate, and what it notes on a sweep's cells."""

    factors: list[float] = field(default_factory=list)  # of trial=0, 1, ... in experiment=tune
    trials: int = 0  # that a sweep begins with, for each method; 0: none
    full: int = 2  # trials that run at full length, of which the best is chosen
    seed: int = 100  # of the trials, apart from those of a report
    per: list[str] = field(default_factory=lambda: ["task", "model"])  # what has a rate for itself
    widen: float = 1.0  # factor by which every method's space reaches farther at both ends
    runs: int | None = None  # that a method's search took, which a sweep notes on its cells
    examples: int | None = None  # that these runs trained on
    chosen: list[str] = field(default_factory=list)  # options whose values a search gives
    search: str | None = None  # which search a trial is of
    budget: float | None = None  # of a full run, in the unit of the trial's

    PER: ClassVar[tuple[str, ...]] = ("task", "model", "fraction")

    def __post_init__(self) -> None:
        for key in ("trials", "seed"):
            require(getattr(self, key) >= 0, f"tune.{key}={getattr(self, key)} is negative")
        require(self.full >= 1, f"tune.full={self.full} must be at least 1")
        require(self.widen >= 1, f"tune.widen={self.widen:g} must be at least 1")
        for name in self.per:
            one_of("tune.per", name, self.PER)
        require("model" in self.per, "tune.per must name model: rates differ between models")


def space(method: Mapping[str, Any], where: str = "method") -> dict[str, tuple[float, float]]:
    """Option -> lowest and highest multiple of its own value, as the method's `search` says.

    Raises:
        UserError: if it names another option than the rate or an argument of the method, more
            than two, or a range without 1.
    """
    node = method.get("search")
    if not isinstance(node, Mapping):
        return dict(SPACE)
    require(
        any(rate in node for rate in RATES) and len(node) <= MOST,
        f"{where}.search must name {' or '.join(RATES)} and at most one more option, got "
        f"{list(node)}",
    )
    for option, ends in node.items():
        argument = str(option).removeprefix("method.")
        known = option in RATES or (option != argument and _is_number(method.get(argument)))
        require(known, f"{where}.search names {option}, which is no number of the method's")
        good = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
        require(
            good and 0 < ends[0] <= 1 <= ends[1] and ends[0] < ends[1],
            f"{where}.search.{option}={ends} must be the lowest and the highest multiple of its "
            "own value, such as [0.1, 10]",
        )
    return {str(option): (float(low), float(high)) for option, (low, high) in node.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def recipe(key: str, *, _root_: DictConfig) -> Any:
    """Resolver `${recipe:KEY}`.

    Raises:
        UserError: if neither a search nor the method's YAML has a value for the method and model.
    """
    value = _tuned(key, _root_) if _root_.get("tuned") else _published(key, _root_)
    return _scaled(value, _root_.trial, _root_.tune.factors) if scales(_root_) else value


def head_rate(*, _root_: DictConfig) -> Any:
    """Resolver `${head_rate:}`: the model's rate of a head, unless a search found the method's."""
    found = _beside(_root_)
    if HEAD_RATE not in found:
        return _root_.model.head_lr
    return _of_task(found[HEAD_RATE], f"tuned={_root_.tuned.name} has no {HEAD_RATE}", _root_)


def scales(cfg: Mapping[str, Any]) -> bool:
    """Whether a config's rate is a factor of the method's own: a trial of `experiment=tune`.

    The trials of a sweep's search (`tune.trials`) are given their rate.
    """
    return cfg.get("trial") is not None and not (cfg.get("tune") or {}).get("chosen")


def _scaled(value: float, trial: int, factors: Sequence[float]) -> float:
    """A trial's value, to three digits."""
    good = isinstance(trial, int) and not isinstance(trial, bool) and 0 <= trial < len(factors)
    require(good, f"trial={trial} must be one of 0 to {len(factors) - 1}: see tune.factors")
    return float(f"{value * factors[trial]:.3g}")


def _tuned(key: str, root: DictConfig) -> Any:
    """What a search chose for the method; to mix tuned and untuned methods would be unfair."""
    tuned, method, model = root.tuned, root.method.name, root.model.name
    require(
        tuned.model == model,
        f"tuned={tuned.name} was tuned for model {tuned.model}, not for {model}; drop it, or see "
        "experiment=tune",
    )
    values = tuned.get(key, {})
    require(
        method in values,
        f"tuned={tuned.name} has no {key} for method {method} (it has: {', '.join(values)}); tune "
        f"it alike with experiment=tune, or give optim.{key}=",
    )
    _require_beside(tuned, root)
    return _of_task(values[method], f"tuned={tuned.name} has no {key} of {method}", root)


def _of_task(value: Any, lacks: str, root: DictConfig) -> Any:
    """A value for all tasks, or the one of the run's task."""
    if not isinstance(value, Mapping):
        return value
    task = root.task.name
    require(task in value, f"{lacks} for task {task} (it has: {', '.join(value)}); tune it too")
    return value[task]


def _beside(root: DictConfig) -> Mapping[str, Any]:
    """Option -> what a search chose for the method together with its rate."""
    options = (root.get("tuned") or {}).get("options", {})
    found: Mapping[str, Any] = options.get(root.method.name, {})
    return found


def _require_beside(tuned: DictConfig, root: DictConfig) -> None:
    """Refuse a rate without the value of another option that the search chose together with it."""
    for option, value in _beside(root).items():
        wanted = _of_task(value, f"tuned={tuned.name} has no {option}", root)
        require(
            OmegaConf.select(root, option) == wanted,
            f"tuned={tuned.name} chose {option}={wanted} for {root.method.name} together with its "
            f"rate; give {option}={wanted}",
        )


def _published(key: str, root: DictConfig) -> Any:
    """What the method's YAML says for this model, or else a like one, or else by default."""
    method, model = root.method, root.model.name
    choices: Mapping[str, Any] = method.get("recipe", {}).get(key, {})
    like = root.model.get("recipes_of") or "default"
    value = choices.get(model, choices.get(like, choices.get("default")))
    require(
        value is not None,
        f"method {method.name} names no recipe.{key} for model {model}; give optim.{key}=",
    )
    return value
