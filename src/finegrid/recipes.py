"""Learning rates by method and model: what `${recipe:lr}` in a config stands for.

That is the rate which a search (`tuned=NAME`) chose, or else the one that the method's YAML
publishes under `recipe`; in a trial of a search it is multiplied by one of `tune.factors`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from finegrid.errors import require

RECIPE_READS = ("method", "model", "tuned", "trial", "tune")  # all that the resolver looks at


def recipe(key: str, *, _root_: DictConfig) -> Any:
    """Resolver `${recipe:KEY}`.

    Raises:
        UserError: if neither a search nor the method's YAML has a value for the method and model.
    """
    value = _tuned(key, _root_) if _root_.get("tuned") else _published(key, _root_)
    trial = _root_.get("trial")
    return value if trial is None else _scaled(value, trial, _root_.tune.factors)


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
    return values[method]


def _published(key: str, root: DictConfig) -> Any:
    """What the method's YAML says for this model, or else by default."""
    method, model = root.method, root.model.name
    choices: Mapping[str, Any] = method.get("recipe", {}).get(key, {})
    value = choices.get(model, choices.get("default"))
    require(
        value is not None,
        f"method {method.name} names no recipe.{key} for model {model}; give optim.{key}=",
    )
    return value
