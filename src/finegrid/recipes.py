"""Settings that follow the method and the model: resolver `${recipe:lr}`, tuned or published."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from finegrid.errors import require

RECIPE_READS = ("method", "model", "tuned", "trial", "tune")  # all that the resolver looks at


def recipe(key: str, *, _root_: DictConfig) -> Any:
    """Resolver `${recipe:lr}`: tuned, or else the method's own; in a trial times its factor."""
    value = _tuned(key, _root_) if _root_.get("tuned") else _own(key, _root_)
    trial = _root_.get("trial")
    return value if trial is None else _scaled(value, trial, _root_.tune.factors)


def _scaled(value: float, trial: int, factors: Sequence[float]) -> float:
    """A trial's value, to three digits."""
    good = isinstance(trial, int) and not isinstance(trial, bool) and 0 <= trial < len(factors)
    require(good, f"trial={trial} must be one of 0 to {len(factors) - 1}: see tune.factors")
    return float(f"{value * factors[trial]:.3g}")


def _tuned(key: str, root: DictConfig) -> Any:
    """The setting that `tuned=` holds for the method; to mix tuned and untuned would be unfair."""
    tuned, method, model = root.tuned, root.method.name, root.model.name
    require(
        tuned.model == model,
        f"tuned={tuned.name} was tuned for model {tuned.model}, not for {model}; drop it, or see "
        "experiment=tune",
    )
    found = tuned.get(key, {})
    require(
        method in found,
        f"tuned={tuned.name} has no {key} for method {method} (it has: {', '.join(found)}); tune "
        f"it alike with experiment=tune, or give optim.{key}=",
    )
    return found[method]


def _own(key: str, root: DictConfig) -> Any:
    """The method's own setting for this model, else its default."""
    method, model = root.method, root.model.name
    choices: Mapping[str, Any] = method.get("recipe", {}).get(key, {})
    value = choices.get(model, choices.get("default"))
    require(
        value is not None,
        f"method {method.name} names no recipe.{key} for model {model}; give optim.{key}=",
    )
    return value
