"""Everything a run is made of, from its config, built and checked before the first step."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from finegrid.config import RunConfig, bind_task
from finegrid.data.batching import Encoded
from finegrid.data.loading import load
from finegrid.data.splits import Splits, split
from finegrid.data.tokenization import Tokeniser
from finegrid.errors import UserError, require
from finegrid.kernels.optimize import optimize
from finegrid.methods.base import TuningMethod, overrides
from finegrid.models import backbone
from finegrid.models.backbone import Backbone, Limits
from finegrid.runs import identity
from finegrid.seeds import stream
from finegrid.tasks.task import Task
from finegrid.training.module import FineTuner

log = logging.getLogger(__name__)
UNKNOWN = 0.25  # a share of unknown tokens that is worth a warning


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of."""

    config: RunConfig
    task: Task
    splits: Splits
    encoded: dict[str, Encoded]  # train, validation, test and further test splits
    module: FineTuner
    method: TuningMethod
    kernels: list[pl.Callback]  # what the kernels do when training starts; none without them


def prepare(
    cfg: DictConfig, config: RunConfig, *, build: Callable[..., Backbone] = backbone.build
) -> Parts:
    """Build every part of a run, data first, so that bad input fails before weights load.

    The labels are found in the rows, so no head is built before. `build` makes the frozen backbone
    as `backbone.build` does; others may share its memory.
    """
    method = build_method(cfg)
    task, splits, encoded = rows_of(cfg, config)
    acts = any(overrides(method, hook) for hook in ("after_step", "after_backward"))
    token_ids = None if acts else encoded["train"].token_ids  # it may look at all of what trains
    base, kernels = load_backbone(config, task, build=build, token_ids=token_ids)
    _fits(method, encoded, base, config)
    module = FineTuner(base, task, config.optim, seed=config.seed, train=encoded["train"])
    return Parts(config, task, splits, encoded, module, method, kernels)


def load_backbone(
    config: RunConfig,
    task: Task,
    *,
    build: Callable[..., Backbone] = backbone.build,
    token_ids: Callable[[], Tensor] | None = None,
) -> tuple[Backbone, list[pl.Callback]]:
    """A run's frozen backbone, with kernels in it if the config asks for them, and their callback.

    `token_ids` is for `optimize`.
    """
    seed = stream(config.seed, "init")
    base = build(config.model, outputs=task.outputs, seed=seed, auto_class=task.AUTO_CLASS)
    return base, [optimize(base.model, token_ids=token_ids)] if config.trainer.kernels else []


def rows_of(cfg: DictConfig, config: RunConfig) -> tuple[Task, Splits, dict[str, Encoded]]:
    """The task, its splits, and each of them tokenised."""
    task, tables = load(bind_task(cfg.task), config.data)
    splits = split(tables, task, config.data)
    tokenise = Tokeniser(
        backbone.locate(config.model),
        config.model.revision,
        max_length=config.model.max_length,
        load=partial(backbone.tokenizer, config.model),
    )
    named = {"train": splits.train, "validation": splits.validation, **splits.test}
    return (
        task,
        splits,
        {
            name: Encoded(rows, tokenise(rows.texts), collate=task.collate)
            for name, rows in named.items()
        },
    )


def build_method(cfg: DictConfig) -> TuningMethod:
    """The method that a config names; nothing but `TuningMethod`s is made, whoever wrote it.

    Raises:
        UserError: if it names another class, or arguments that its class does not take.
    """
    plain: Any = OmegaConf.to_container(cfg.method, resolve=True)
    return _made(identity.arguments(plain), "method")


def _made(node: dict[str, Any], where: str) -> TuningMethod:
    target = node.pop("_target_")
    made = _class(target, where)
    if "members" in node:
        members = node["members"].items()
        node["members"] = {name: _made(own, f"{where}.members.{name}") for name, own in members}
    try:
        signature(made).bind(**node)
    except TypeError as error:
        raise UserError(f"{where}: {target}: {error}") from error
    return made(**node)


def _class(target: str, where: str) -> type[TuningMethod]:
    path, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(path), name, None)
    except ModuleNotFoundError as error:
        raise UserError(f"{where}._target_={target!r}: {error}") from error
    require(
        isinstance(found, type) and issubclass(found, TuningMethod) and found is not TuningMethod,
        f"{where}._target_={target!r} is no tuning method; it must be a subclass of TuningMethod",
    )
    return found  # type: ignore[return-value]


def _fits(
    method: TuningMethod, encoded: Mapping[str, Encoded], base: Backbone, config: RunConfig
) -> None:
    """Refuse texts that the model cannot read, or that leave no room for a method's positions."""
    limits = Limits.of(base.model, config.model.name)
    limits.check_length(config.model.max_length)
    for name, tokens in limits.fit({k: rows.tokens for k, rows in encoded.items()}).items():
        encoded[name].tokens = tokens
    _tell(encoded["train"], base, config)
    if not method.positions:
        return
    longest = max(int(rows.lengths.max()) for rows in encoded.values())
    room = base.sites.positions - method.positions
    require(
        longest <= room,
        f"the longest text has {longest} tokens and the method adds {method.positions}, but "
        f"{config.model.name} has {base.sites.positions} positions; "
        + (f"set model.max_length={room}" if room > 2 else "use a shorter prompt"),
    )


def _tell(train: Encoded, base: Backbone, config: RunConfig) -> None:
    """Warn of what trains well or badly without an error."""
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
