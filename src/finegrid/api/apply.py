"""A tuning method on a transformers model of yours: apply, save, load, merge.

For a loop of your own or HF Trainer; `finegrid.run` is the way to train and compare as the
command does. The model stays a stock transformers model, without kernels.
"""

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from finegrid.api import naming
from finegrid.config import MethodConfig
from finegrid.errors import UserError, require
from finegrid.methods.base import Losses, TuningMethod
from finegrid.models import backbone, pretrained, surgery
from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.runs import delta
from finegrid.seeds import stream
from finegrid.storage.files import write_atomic
from finegrid.training.components import build_method
from finegrid.training.cost import count_parameters

M = TypeVar("M", bound=PreTrainedModel)
CONFIG = "config.json"
NOT_STOCK = (
    "from_pretrained cannot load this: a tuning method injected more than the model's class knows. "
    "finegrid.merge(model) before save_pretrained makes it plain weights; "
    f"finegrid.load_delta({delta.FILE!r}, model) loads what is saved here into a stock model"
)
HOW = {  # hook of a method -> what a loop must do
    "choose": "pass losses=, a function (rows, batch size) -> the mean loss of each batch",
    "search": "call model.finegrid.method.search(model.base_model, validation) before the first "
    "step, validation having affords and score of finegrid.methods.base.CrossValidation",
    "optimizer": "make the optimizer by model.finegrid.method.optimizer(groups), each a dict of "
    "params, lr and weight_decay",
    "after_backward": "call model.finegrid.method.after_backward(model.base_model, progress) after "
    "every backward pass",
    "after_step": "call model.finegrid.method.after_step(model.base_model, progress) after every "
    "step, and make the optimizer anew where it returns True",
    "added_loss": "add model.finegrid.method.added_loss(model.base_model) to every loss unless it "
    "is None",
    "text_loss": "train by model.finegrid.method.text_loss while its `texts_only` is True",
}


@dataclass(frozen=True)
class Applied:
    """What was applied to a model: its attribute `finegrid`."""

    method: TuningMethod
    config: MethodConfig
    seed: int
    fingerprint: str  # of the stock base model


def apply(
    method: str | TuningMethod,
    model: M,
    *,
    seed: int = 0,
    losses: Losses | None = None,
    hooks: bool = False,
    verbose: bool = True,
    **arguments: Any,
) -> M:
    """Apply a tuning method: freeze the base model, then unfreeze, inject or mask what it names.

    Whatever lies outside the base model (the head) trains, and so does a pooler that the
    checkpoint lacks. Give the optimizer the parameters with `requires_grad`; HF Trainer does so by
    itself. The model is changed in place.

    Example:
        ```python
        import finegrid
        from finegrid.methods import LoRA
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
        finegrid.apply(LoRA(rank=4), model)  # or finegrid.apply("lora", model, rank=4)
        ```

    Args:
        method: One of `finegrid.methods.names()`, or an instance of a method's class.
        model: A transformers model in float32 whose architecture is known, with any head or none.
        seed: Decides what the method draws: as in a run of this seed.
        losses: For methods that choose weights by gradients (`sparse`, `sparse_sam`,
            `layernorm_fisher`): a function (rows, batch size) that yields the mean loss of one
            batch of training rows after the other, with its graph.
        hooks: Say that your loop calls `after_backward` and `after_step` of `model.finegrid.method`
            (see `TuningMethod`), where a method acts during training: `adalora`, `diff_pruning`,
            `lisa`, `hft` with several rounds.
        verbose: Print how many parameters train.
        **arguments: Of a method given by name, in place of its YAML's values.

    Returns:
        The same model.

    Raises:
        UserError: for an unknown method or argument, an architecture or precision that does not
            fit, a model that has a method already, or a method that acts during training without
            `losses` or `hooks`. Load the model anew after an error.
    """
    config, made = naming.resolved(method, arguments)
    missing = [hook for hook in made.acts() if not (losses if hook == "choose" else hooks)]
    require(not missing, _todo(config.name, missing))
    _tune(model, made, config, seed)
    if losses is not None:
        made.choose(model.base_model, losses)
    if verbose:
        print(_summary(model))
    return model


def _todo(name: str, missing: list[str]) -> str:
    """What a loop must do for a method that acts during training, by the hooks it misses."""
    todo = "; ".join(HOW[hook] for hook in missing)
    flag = "" if missing == ["choose"] else "; then say hooks=True"
    return (
        f"{name} acts during training ({', '.join(missing)}): train it with finegrid.run, or in a "
        f"loop of yours {todo}{flag}"
    )


def save(model: PreTrainedModel, path: str | Path) -> Path:
    """Write what a model has learned (delta and head) as one small safetensors file.

    Its header names the method with its arguments and the base model by a hash of its weights, as
    plain data.

    Example:
        ```python
        finegrid.save(model, "spam.safetensors")  # 0.6 MB for LoRA of rank 4 on BERT-base
        ```

    Returns:
        The path.

    Raises:
        UserError: if no method was applied, or it is in a phase whose weights are no result.
    """
    applied, path = _ready(model), Path(path)
    require(not path.is_dir(), f"{path} is a directory; name a file, such as {path}/{delta.FILE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    delta.save(
        path,
        model,
        method=applied.config.name,
        fingerprint=applied.fingerprint,
        labels=_labels(model),
        more=naming.header(applied.config, applied.seed),
    )
    return path


def load_delta(path: str | Path, model: M, *, allow: Iterable[str] = ()) -> M:
    """Apply the method that a file names to a stock model and load what was learned.

    Reads the files of `finegrid.save`, and a run's `delta.safetensors` where its config lies
    beside it. The file is read as data; nothing in it is run.

    Example:
        ```python
        model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
        finegrid.load_delta("spam.safetensors", model).eval()
        ```

    Args:
        path: The file.
        model: A stock model as the one that `finegrid.apply` was given: the same weights, a head
            of the same shape.
        allow: Packages besides finegrid whose methods a file may name.

    Returns:
        The same model.

    Raises:
        UserError: if the file is damaged, of another base model or head, or names a method that is
            unknown or not allowed. Load the model anew after an error.
    """
    path = Path(path)
    about = delta.metadata(path)
    config, seed = naming.of_file(path, about, allow=allow)
    method = build_method(config)
    try:
        _tune(model, method, config, seed, expected=about["fingerprint"])
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # of what the file says
        raise UserError(f"{path}: method {config.name}: {pretrained.reason(error)}") from error
    delta.load(
        path,
        model,
        method=about["method"],
        fingerprint=about["fingerprint"],
        recall=partial(method.recall, model.base_model),
    )
    if len(labels := about["labels"]) == model.config.num_labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
    return model


def merge(model: M) -> M:
    """Fold a method into the model's weights, which makes it a stock model again.

    In eval mode its outputs stay as they were; `save_pretrained` then gives what `from_pretrained`
    loads without finegrid.

    Example:
        ```python
        finegrid.merge(model).save_pretrained("spam")
        ```

    Returns:
        The same model.

    Raises:
        UserError: if no method was applied, or what it injected works on activations (adapters,
            prefixes, prompts, gates), which no weight can replace. Nothing has changed then.
    """
    applied: Any = _ready(model)
    for path, child in surgery.unmergeable(model):
        raise UserError(
            f"{applied.config.name} cannot be merged: {path} ({type(child).__name__}) works on "
            "activations; keep it beside the stock model with finegrid.save(model, path)"
        )
    training = model.training
    model.eval()  # the mask that was learned, not a draw
    surgery.merge(model)
    model.train(training)
    del model.finegrid, model.save_pretrained
    return model


def _tune(
    model: Any, method: TuningMethod, config: MethodConfig, seed: int, *, expected: str = ""
) -> None:
    """Apply a method to a stock model, of the expected fingerprint if there is one."""
    _require_stock(model)
    sites, device = Sites.of(model), model.device
    if _lacks_pooler(model):
        model.base_model.pooler.drawn = True
    fingerprint = backbone.fingerprint(model.base_model)
    require(
        not expected or fingerprint == expected,
        f"the delta was trained on other weights (fingerprint {expected}) than the model's "
        f"({fingerprint}); load the same checkpoint, in float32",
    )
    model.requires_grad_(True)
    surgery.freeze(model.base_model)
    for parameter in backbone.drawn_pooler(model).values():
        parameter.requires_grad_(True)
    method.tune(Backbone(model, sites, fingerprint, ""), seed=stream(seed, "init"))
    model.to(device).train(model.training)  # what was injected too
    model.finegrid = Applied(method, config, seed, fingerprint)
    model.save_pretrained = partial(_save_pretrained, model)


def _require_stock(model: Any) -> None:
    require(
        isinstance(model, PreTrainedModel),
        f"{type(model).__name__} is no transformers model; pass the PreTrainedModel inside it",
    )
    applied = getattr(model, "finegrid", None)
    name = applied.config.name if applied else "one that was not finished"
    require(
        applied is None and not any(surgery.injected(model)),
        f"the model has a method already ({name}); load the model anew, or finegrid.merge it first",
    )
    other = {str(p.dtype) for p in model.parameters()} - {"torch.float32"}
    require(
        not other,
        f"the model's weights are {', '.join(sorted(other))}, in which small updates are lost; "
        "load it with dtype=torch.float32 (torch.autocast makes it fast)",
    )


def _lacks_pooler(model: Any) -> bool:
    """Whether `from_pretrained` had to draw the pooler; it marks what it has loaded."""
    drawn = pretrained.pooler_parameters(model).values()
    loaded = [getattr(p, "_is_hf_initialized", False) for p in model.base_model.parameters()]
    return any(loaded) and any(not getattr(p, "_is_hf_initialized", False) for p in drawn)


def _ready(model: Any) -> Applied:
    """What was applied to a model, whose weights are a result now."""
    applied: Applied | None = getattr(model, "finegrid", None)
    if applied is None:
        raise UserError("the model has no tuning method; call finegrid.apply first")
    require(
        applied.method.checkpointable,
        f"{applied.config.name} is in a phase whose weights are no result; end it with "
        "model.finegrid.method.after_step(model.base_model, 1.0)",
    )
    return applied


def _summary(model: Any) -> str:
    """What trains, as one line for people."""
    counts = count_parameters(model, Sites.of(model))
    below = counts["params_delta"] + counts["params_pooler"]
    head, total = counts["params_head"], counts["params_total"]
    return (
        f"{model.finegrid.config.name} trains {below:,} parameters below the head and {head:,} in "
        f"it: {100 * (below + head) / total:.3g} % of {total:,}"
    )


def _labels(model: Any) -> list[str]:
    """The names of the classes, if they have any but transformers' own."""
    names = [str(name) for _, name in sorted(model.config.id2label.items())]
    return [] if names == [f"LABEL_{number}" for number in range(len(names))] else names


def _save_pretrained(model: Any, folder: str | Path, *args: Any, **named: Any) -> None:
    """Save as `PreTrainedModel.save_pretrained` does, where `from_pretrained` loses nothing.

    It would leave out what is injected without an error. So a folder with that holds what HF
    Trainer resumes from, a delta, and a config.json that no model can be made of.
    """
    if not any(surgery.injected(model)):
        type(model).save_pretrained(model, folder, *args, **named)
        return
    require(not named.get("push_to_hub"), f"nothing is pushed: {NOT_STOCK}")
    type(model).save_pretrained(model, folder, *args, **named)
    if not named.get("is_main_process", True):
        return
    config = json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))
    config["max_position_embeddings"] = NOT_STOCK  # the error that transformers raises quotes it
    write_atomic(Path(folder, CONFIG), json.dumps(config, indent=2).encode())
    if model.finegrid.method.checkpointable:
        save(model, Path(folder, delta.FILE))
    warnings.warn(NOT_STOCK, stacklevel=2)
