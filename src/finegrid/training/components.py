"""Everything a run is made of, from its config: rows, tokens, backbone, head, method, module.

Built and checked before the first step, the data first, so that bad input fails before weights are
loaded.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any, get_type_hints

import pytorch_lightning as pl
import torch
from torch import Tensor

from finegrid.config import MethodConfig, ModelConfig, RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.data.loading import load
from finegrid.data.splits import Splits, split
from finegrid.data.tokenization import Tokeniser, fingerprint
from finegrid.errors import IMPORTABLE, UserError, one_of, require
from finegrid.kernels.optimize import optimize
from finegrid.methods.base import YAML, TuningMethod, layered, overrides
from finegrid.models import backbone, heads
from finegrid.models.backbone import Backbone
from finegrid.models.heads import Head
from finegrid.models.heads.language_model import LM_HEAD
from finegrid.runs import delta
from finegrid.seeds import stream
from finegrid.storage import paths
from finegrid.tasks.modules.semi import UPET, check_rows
from finegrid.tasks.task import Task
from finegrid.training import gradient_checkpointing
from finegrid.training.limits import Limits
from finegrid.training.module import FineTuner

log = logging.getLogger(__name__)
TYPES = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}  # of a method's arguments
UNKNOWN = 0.25  # a share of unknown tokens that is worth a warning


@dataclass(frozen=True)
class RunComponents:
    """Everything a run is made of."""

    config: RunConfig
    task: Task  # with its class names, which may have come from the rows
    splits: Splits
    encoded: dict[str, TokenizedDataset]  # train, validation, test and further test splits
    head: Head
    module: FineTuner
    method: TuningMethod
    kernels: list[pl.Callback]  # what the kernels do when training starts; none without them


def prepare(config: RunConfig, *, build: Callable[..., Backbone] = backbone.build) -> RunComponents:
    """Build the components of a run.

    `build` makes the frozen backbone as `backbone.build` does; others may share its memory.

    Raises:
        UserError: for what the user can mend: rows, files, a method's arguments, lengths.
    """
    method, head = check_settings(config)
    task, splits, encoded = rows_of(config)
    method.read_task(task)
    for rows in encoded.values():
        method.add_inputs(rows)
    acts = any(overrides(method, hook) for hook in ("after_step", "after_backward"))
    more = acts or splits.unlabelled is not None  # it may look at all of what trains, or read more
    token_ids = None if more else encoded["train"].token_ids
    _check_folds(method, encoded["train"])
    base, kernels = load_backbone(config, task, build=build, token_ids=token_ids)
    if config.trainer.gradient_checkpointing:
        gradient_checkpointing.enable(base.model)
    _check_lengths(method, task, encoded, base, config)
    module = FineTuner(
        base, task, config.optim, seed=config.seed, train=encoded["train"], loss=config.loss
    )
    module.state.lr_ratio = method.lr_ratio
    return RunComponents(config, task, splits, encoded, head, module, method, kernels)


def check_settings(config: RunConfig) -> tuple[TuningMethod, Head]:
    """A run's method and head, if they fit its task and model, as far as their settings tell.

    Raises:
        UserError: what does not fit.
    """
    method, head = build_method(config.method), heads.of(config.head)
    head.check(config.model, config.task)
    auto_class = head.auto_class(config.task, backbone.is_decoder(config.model))
    fresh = head.needs_rows and auto_class not in LM_HEAD.values()
    _check_rows(config, method, fresh_head=fresh)
    require(
        not (overrides(method, "search") and config.task.new_tokens),
        f"method={config.method.name} scores held-out training rows, which hold the answers of "
        f"task.kind={config.task.kind}; use another, such as method=layers",
    )
    if isinstance(config.semi, UPET):
        _check_student(config, method)
    backbone.separator(config.model)
    _check_turn(config)
    method.read_task(config.task)
    if (like := config.model.recipes_of) is not None:
        shipped = tuple(file.stem for file in (paths.CONF / "model").glob("*.yaml"))
        one_of("model.recipes_of", like, shipped)
    if layered(method):
        outlined(config)  # refuses layers that the model lacks, before it is loaded
    return method, head


def load_backbone(
    config: RunConfig,
    task: Task,
    *,
    build: Callable[..., Backbone] = backbone.build,
    token_ids: Callable[[], Tensor] | None = None,
) -> tuple[Backbone, list[pl.Callback]]:
    """A run's frozen backbone, and the callback of the kernels in it if the config asks for them.

    What of the head is drawn comes from the run's seed; `token_ids` is for `optimize`.
    """
    seed, head = stream(config.seed, "init"), heads.of(config.head)
    auto_class = head.auto_class(task, backbone.is_decoder(config.model))
    base = build(config.model, outputs=task.outputs, seed=seed, auto_class=auto_class)
    head.attach(base, task, partial(backbone.tokenizer, config.model))
    if base.language_model:
        token_ids = None  # a tied head gives every word's embedding a gradient
    return base, [optimize(base.model, token_ids=token_ids)] if config.trainer.kernels else []


def outlined(config: RunConfig) -> Backbone:
    """A run's backbone with its method's parts, of shapes alone; asks nothing of the hub.

    Raises:
        UserError: if the method does not fit the backbone, or the backbone the task.
    """
    task, drawn = config.task, replace(config.model, pretrained=False)  # no look at the hub
    auto_class = heads.of(config.head).auto_class(task, backbone.is_decoder(drawn))
    base = backbone.outline(config.model, outputs=task.outputs or 2, auto_class=auto_class)
    method = build_method(config.method)
    method.read_task(task)
    with torch.device("meta"):
        method.apply(base.model.base_model, base.sites)
    base.train_tied_head()
    return base


def stored_bytes(config: RunConfig, number: int) -> float:
    """About the bytes of a run's delta, by the shapes of what trains; `number`: of one number.

    A mask counts with a bit an entry, which it takes at most.
    """
    base = outlined(config)
    tensors = delta.state(base.model).values()
    return sum(t.numel() * (1 / 8 if t.dtype == torch.bool else number) for t in tensors)


def rows_of(config: RunConfig) -> tuple[Task, Splits, dict[str, TokenizedDataset]]:
    """The task with its class names, its splits, and each of them tokenised.

    Raises:
        UserError: for what is wrong with rows or settings, such as a user's turn around prompts.
    """
    head = heads.of(config.head)
    _check_turn(config)
    task, tables = load(config.task, config.data)
    splits = split(tables, task, config.data, unlabelled=isinstance(config.semi, UPET))
    values = sorted({value for value in splits.train.attributes if value is not None})
    task = replace(task, attribute_values=values)
    tokenise = Tokeniser(
        backbone.locate(config.model),
        config.model.revision,
        max_length=config.model.max_length,
        load=partial(backbone.tokenizer, config.model),
        task=head.reader(task),
        decoder=backbone.is_decoder(config.model),
        separator=backbone.separator(config.model),
        chat_template=config.model.chat_template,
    )
    named = {"train": splits.train, "validation": splits.validation, **splits.test}
    if splits.unlabelled is not None:
        named["unlabelled"] = splits.unlabelled
    encoded = {
        name: TokenizedDataset(
            rows,
            tokenise(rows.texts, rows.labels, train=name == "train"),
            collate=task.collate,
            tokenizer=lambda: tokenise.tokenizer,
        )
        for name, rows in named.items()
    }
    return task, splits, encoded


def tokenizer_fingerprint(model: ModelConfig) -> str:
    """What tells the tokenizer of a model from others."""
    load = partial(backbone.tokenizer, model)
    return fingerprint(backbone.locate(model), model.revision, load)


def _check_turn(config: RunConfig) -> None:
    """Refuse a user's turn around what is a prompt already."""
    head = heads.of(config.head)
    maker = config.task.kind if head.one_state else f"head={config.head}"
    require(
        config.model.chat_template == "none" or (config.task.ONE_STATE and head.one_state),
        f"model.chat_template=own is for tasks that label a text; {maker} makes its own "
        "prompts, use none",
    )


def build_method(config: MethodConfig, where: str = "method") -> TuningMethod:
    """An instance of the method's class.

    Raises:
        UserError: if that is no subclass of `TuningMethod`, or does not take the arguments.
    """
    make, arguments = _class(config.target, where), dict(config.arguments)
    if config.members is not None:
        arguments["members"] = {
            name: build_method(member, f"{where}.members.{name}")
            for name, member in config.members.items()
        }
    try:
        call = signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{where}: {config.target}: {error}") from error
    call.apply_defaults()
    for name, value in call.arguments.items():  # what decides a run's result stands in its config
        require(value is not YAML, f"{where}: {config.target}: missing the argument {name!r}")
    _require_types(make, arguments, where)
    return make(**arguments)


def _require_types(make: type[TuningMethod], arguments: Mapping[str, Any], where: str) -> None:
    """Refuse a text where the method's class asks for a number, and the like."""
    hints = get_type_hints(make.__init__)
    for name, value in arguments.items():
        kind = hints.get(name)
        if kind in TYPES:
            good = isinstance(value, TYPES[kind]) and isinstance(value, bool) == (kind is bool)
            require(good, f"{where}.{name}={value} must be of type {kind.__name__}")


def _class(target: str, where: str) -> type[TuningMethod]:
    path, _, name = target.rpartition(".")
    try:
        value = getattr(import_module(path), name, None)
    except ModuleNotFoundError as error:
        hint = "" if path.startswith("finegrid.") else f"; {IMPORTABLE}"
        raise UserError(f"{where}._target_={target!r}: {error}{hint}") from error
    require(
        isinstance(value, type) and issubclass(value, TuningMethod) and value is not TuningMethod,
        f"{where}._target_={target!r} is no tuning method; it must be a subclass of TuningMethod",
    )
    return value  # type: ignore[return-value]


def _check_lengths(
    method: TuningMethod,
    task: Task,
    encoded: Mapping[str, TokenizedDataset],
    base: Backbone,
    config: RunConfig,
) -> None:
    """Refuse texts that the model cannot read, or that leave no room for a method's positions."""
    limits = Limits.of(base.model, config.model.name)
    limits.check_length(config.model.max_length)
    for name, tokens in limits.fit({k: rows.tokens for k, rows in encoded.items()}).items():
        encoded[name].tokens = tokens
    _warn(encoded["train"], base, config)
    added = {"method adds": method.positions, "task generates": task.new_tokens}
    if not any(added.values()):
        return
    longest = max(rows.longest for rows in encoded.values())
    room = base.sites.positions - sum(added.values())
    told = " and ".join(f"the {what} {count}" for what, count in added.items() if count)
    require(
        longest <= room,
        f"the longest text has {longest} tokens and {told}, but "
        f"{config.model.name} has {base.sites.positions} positions; "
        + (f"set model.max_length={room}" if room > 2 else "let these be fewer"),
    )


def _check_rows(config: RunConfig, method: TuningMethod, *, fresh_head: bool) -> None:
    """Refuse a run without training rows, unless the model can be scored as it is."""
    if config.data.rows != 0:
        return
    fits = ", use head=pattern" if "pattern" in config.task.HEADS else ""
    require(
        not fresh_head,
        f"data.rows=0 scores a model without training; head={config.head} of "
        f"task.kind={config.task.kind} needs rows to learn from{fits}",
    )
    require(
        not (overrides(method, "choose") or overrides(method, "search")),
        f"data.rows=0 leaves no rows for method={config.method.name}, which chooses by them what "
        "trains; use method=head",
    )
    require(config.trial is None, "data.rows=0 trains nothing, so there is no rate to search for")


def _check_student(config: RunConfig, method: TuningMethod) -> None:
    """Refuse self-training where a student could not begin anew, or its share is not known."""
    semi, data = f"semi={config.semi.name}", config.data
    check_rows(config.semi, fraction=data.fraction, rows=data.rows)
    require(
        not any(overrides(method, x) for x in ("search", "after_step", "after_backward")),
        f"method={config.method.name} follows one training over the budget, and {semi} has two, of "
        "a teacher and a student; use another, such as method=lora",
    )
    require(
        config.frozen_dropout,
        f"{semi} estimates certainty by dropout, which frozen_dropout=false switches off",
    )
    require(
        config.budget.unit != "seconds",
        f"{semi} divides its budget by steps, which budget=seconds does not tell; use budget=steps",
    )


def _check_folds(method: TuningMethod, train: TokenizedDataset) -> None:
    """Refuse a search that has too few rows to hold some of them out."""
    plan = method.search_plan
    require(
        plan is None or len(train) >= 2 * plan.folds,
        f"method.folds={plan and plan.folds} of {len(train)} training rows leave fewer than two a "
        "fold; use fewer, or more rows",
    )


def _warn(train: TokenizedDataset, base: Backbone, config: RunConfig) -> None:
    """Warn of a pooler that was drawn, and of a tokenizer that cannot read the texts."""
    if backbone.drawn_pooler(base.model):
        log.warning(
            "model %s: the checkpoint has no pooler; it is drawn from the seed and trains with "
            "the head, for every method alike",
            config.model.name,
        )
    share = train.tokens.unknown_share
    if share > UNKNOWN:
        log.warning(
            "model %s: %.0f %% of the training rows' tokens are unknown to its tokenizer; is it "
            "for this language, and are its files complete?",
            config.model.name,
            100 * share,
        )
