"""The typed config of a run, checked before anything heavy is imported.

`RunConfig.of` turns what Hydra composed into dataclasses, once, at the door; nothing behind it
knows OmegaConf. Values live in `conf/`; the classes here hold types and limits, no defaults.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from finegrid import recipes
from finegrid.errors import (
    UserError,
    causes,
    is_name,
    nearest,
    one_of,
    require,
    require_allowed,
    slug,
)
from finegrid.tasks.modules import losses
from finegrid.tasks.modules import semi as semis
from finegrid.tasks.modules.heads import check_head
from finegrid.tasks.modules.registry import filled_in, of_kind
from finegrid.tasks.task import Task

T = TypeVar("T")
NOT_ARGUMENTS = ("name", "recipe", "fuses")  # of a method's YAML, for people, optimizer and sweep
PLAIN_NAMES = ("train", "data", "rows")  # of files, which tell nothing of a task
METHOD = re.compile(r"finegrid\.methods\.[a-z]\w*\.[A-Za-z]\w*")  # a class in a module, no deeper
# Its null counts in their hashes; in those of other finegrid methods null is as good as absent.
OWN_LAYERS = ("layers", "mask_fixed", "mask_l0", "mask_threshold", "mpo", "sparse", "supermask")
OUTSIDE = re.compile(r"(?!finegrid\.)[a-zA-Z_]\w*(\.[a-zA-Z_]\w*)+")  # of a package of the user's


def register_resolvers() -> None:
    """Register the resolvers that the YAML files use; safe to call again."""
    OmegaConf.register_new_resolver("recipe", recipes.recipe, replace=True)
    OmegaConf.register_new_resolver("head_rate", recipes.head_rate, replace=True)
    OmegaConf.register_new_resolver("slug", lambda text: slug(str(text)), replace=True)
    OmegaConf.register_new_resolver("named_after", named_after, replace=True)


def named_after(file: str | None) -> str:
    """Resolver `${named_after:FILE}`: the name of a task over a user's file.

    That is the file's without its endings or, where it tells nothing, the name of its folder.
    """
    if file is None:
        return "custom"
    path = Path(file).absolute()
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return slug(path.parent.name if name.lower() in PLAIN_NAMES and path.parent.name else name)


def require_names(cfg: Mapping[Any, Any]) -> None:
    """Raise `UserError` unless the task, the model and the method can name directories."""
    for group in ("task", "model", "method"):
        name = cfg[group].get("name")
        require(
            is_name(name),
            f"{group}.name={name} must be of letters, digits, '.', '_' and '-', and begin with a "
            "letter, a digit or '_'",
        )


@dataclass
class DataConfig:
    """Where the rows come from, how many are used and how they are split and batched."""

    source: str  # auto: data.root, then the hub's cache, then the hub; else a directory
    root: str | None  # directory with one folder of parquet files a task
    fraction: float  # of the training rows; with validation=fixed, of those that it leaves
    protocol: str  # holdout: select on rows carved from train; dev: select and report on dev
    validation_fraction: float
    validation_max: int
    split_seed: int
    subset_seed: int
    batch_size: int
    eval_batch_size: int
    validation: str = "fixed"  # or share: a fifth of the fraction's own rows; older runs name none
    rows: int | None = None  # so many instead of a fraction

    PROTOCOLS: ClassVar[tuple[str, ...]] = ("holdout", "dev")
    VALIDATIONS: ClassVar[tuple[str, ...]] = ("fixed", "share")
    LEAST: ClassVar = {"batch_size": 1, "eval_batch_size": 1, "validation_max": 1,
                       "split_seed": 0, "subset_seed": 0}  # fmt: skip

    def __post_init__(self) -> None:
        require(
            0 < self.fraction <= 1,
            f"data.fraction={self.fraction:g} must lie in (0, 1]; 0.1 means 10 % of the train rows",
        )
        share = self.validation_fraction
        require(0 < share < 1, f"data.validation_fraction={share:g} must lie in (0, 1)")
        one_of("data.protocol", self.protocol, self.PROTOCOLS)
        one_of("data.validation", self.validation, self.VALIDATIONS)
        rows, fraction = self.rows, self.fraction
        require(rows is None or rows >= 0, f"data.rows={rows} must be at least 0")
        both = f"data.rows={rows} and data.fraction={fraction:g} both say how many rows to use"
        require(rows is None or fraction == 1, f"{both}; leave out one")
        for key, least in self.LEAST.items():
            found = getattr(self, key)
            require(found >= least, f"data.{key}={found} must be at least {least}")


@dataclass
class OptimConfig:
    """AdamW and its schedule over the budget, the same for every method but the rate."""

    lr: float  # peak learning rate of what the method trains
    head_lr: float | None  # of the head; null: the same
    weight_decay: float  # on matrices only; biases, norms and other vectors are never decayed
    warmup: float  # share of the budget
    schedule: str  # what follows the warm-up: linear (to zero) or constant
    clip: float  # global gradient norm; 0 switches clipping off

    SCHEDULES: ClassVar[tuple[str, ...]] = ("linear", "constant")

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr={self.lr:g} must be above 0")
        head = self.head_lr
        require(head is None or head > 0, f"optim.head_lr={head} must be above 0, or null for lr")
        require(0 <= self.warmup < 1, f"optim.warmup={self.warmup:g} must lie in [0, 1)")
        require(self.weight_decay >= 0, f"optim.weight_decay={self.weight_decay:g} is negative")
        require(self.clip >= 0, f"optim.clip={self.clip:g} is negative; 0 switches it off")
        one_of("optim.schedule", self.schedule, self.SCHEDULES)


@dataclass
class ModelConfig:
    """A pre-trained model: where its files are and what they are expected to hold."""

    name: str
    path: str  # hub id, a local directory, or `builtin`
    revision: str
    max_length: int  # in tokens; longer texts are cut
    head_lr: float | None  # of a fresh head on this model; null: the method's own rate
    pretrained: bool  # false: the same architecture from random weights
    config: dict[str, Any]  # overrides of the architecture, such as num_hidden_layers
    architecture: dict[str, Any]  # model_type and what differs from its defaults; empty: the files'
    parameters: int | None  # of the base model, without the head, as published
    sites: dict[str, str]  # role -> pattern, for an architecture that is not known yet
    separator: str | None = None  # between two texts on a decoder; older runs do not name it
    chat_template: str = "none"  # own: a row's text is a user's turn; older runs do not name it
    recipes_of: str | None = None  # a model whose published rates fit; older runs do not name it

    def __post_init__(self) -> None:
        require(self.max_length > 1, f"model.max_length={self.max_length} must be at least 2")
        one_of("model.chat_template", self.chat_template, ("none", "own"))


@dataclass
class TrainerConfig:
    """The device and the arithmetic of a run."""

    device: str  # auto, cpu or cuda
    precision: str  # auto, 32 or bf16-mixed
    threads: int | None  # CPU threads of this process; null leaves torch's choice
    kernels: bool = True  # false: torch's and transformers' own modules; older runs do not name it
    gradient_checkpointing: bool = False  # true: less memory, one forward pass more a step

    def __post_init__(self) -> None:
        one_of("trainer.device", self.device, ("auto", "cpu", "cuda"))
        one_of("trainer.precision", self.precision, ("auto", "32", "bf16-mixed"))
        few = self.threads is not None and self.threads < 1
        require(not few, f"trainer.threads={self.threads} must be at least 1")


@dataclass(frozen=True)
class MethodConfig:
    """A tuning method: its class and what the class is called with."""

    name: str
    target: str  # the class, such as finegrid.methods.lora.Lora
    arguments: dict[str, Any]  # plain values
    members: dict[str, "MethodConfig"] | None = None  # of a composition

    @classmethod
    def of(
        cls, node: Mapping[str, Any], where: str = "method", *, allow: Collection[str] = ()
    ) -> "MethodConfig":
        """Read a resolved node; `allow` names packages of the user's that have classes too.

        Raises:
            UserError: if it names no class of a module in finegrid.methods or such a package, or
                holds more than plain values: `_partial_` and the like, or another object to be
                made of a class.
        """
        require(isinstance(node, Mapping), f"{where}={node!r:.60} must be a method's settings")
        target = node.get("_target_", "")
        if isinstance(target, str) and OUTSIDE.fullmatch(target):
            require_allowed(f"{where}._target_", target, allow)
        else:
            require(
                isinstance(target, str) and METHOD.fullmatch(target) is not None,
                f"{where}._target_={target!r} must be a class in finegrid.methods",
            )
        recipes.space(node, where)
        left_out = [*NOT_ARGUMENTS, "_target_", "members"]
        left_out += ["search"] * isinstance(node.get("search"), Mapping)  # of another use: argument
        arguments = {key: value for key, value in node.items() if key not in left_out}
        other = next(_reserved(arguments), "")
        require(not other, f"{where} holds {other}: a method's settings are plain values")
        members = node.get("members")
        if members is not None:
            good = isinstance(members, Mapping)
            require(good, f"{where}.members={members!r:.60} must be methods")
            place = f"{where}.members"
            members = {k: cls.of(v, f"{place}.{k}", allow=allow) for k, v in members.items()}
        return cls(str(node.get("name", "")), target, arguments, members)

    def targets(self) -> Iterator[str]:
        """The classes of the method and of what it is composed of."""
        yield self.target
        for member in (self.members or {}).values():
            yield from member.targets()

    def decisive(self) -> dict[str, Any]:
        """What of the method decides a run's result, as it is hashed."""
        return {"name": self.name} | self._settings()

    def _settings(self) -> dict[str, Any]:
        settings = {"_target_": self.target} | self.arguments
        if METHOD.fullmatch(self.target) and self.target.split(".")[2] not in OWN_LAYERS:
            settings = {k: v for k, v in settings.items() if k != "layers" or v is not None}
        if self.members is not None:
            settings["members"] = {k: v._settings() for k, v in self.members.items()}
        return settings


def _reserved(node: Any) -> Iterator[str]:
    """Keys that mean something to Hydra, at any depth."""
    if isinstance(node, Mapping):
        yield from (str(key) for key in node if str(key).startswith("_"))
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _reserved(value)


STORES = ("float32", "bfloat16", "none")  # none: scored as in float32, and no delta file
UNITS = ("epochs", "steps", "examples", "tokens", "seconds")
_schema = cache(OmegaConf.structured)  # of a dataclass; `merge` copies it


@dataclass(frozen=True)
class Budget:
    """How much a run may train: an amount of exactly one unit."""

    unit: str
    amount: float

    @classmethod
    def of(cls, node: DictConfig) -> "Budget":
        """Read a node such as `{epochs: 3}`."""
        given = {str(key): value for key, value in node.items() if value is not None}
        require(
            len(given) == 1,
            f"budget must name exactly one unit, got {sorted(given)}; for example "
            "budget=seconds budget.seconds=60",
        )
        unit, amount = next(iter(given.items()))
        one_of("budget", unit, UNITS)
        good = isinstance(amount, int | float) and not isinstance(amount, bool)
        require(good, f"budget.{unit}={amount} must be a number")
        finite = 0 < amount < float("inf")  # a run without an end would never leave a record
        require(finite, f"budget.{unit}={amount:g} must be above 0 and finite")
        return cls(unit=unit, amount=float(amount))


def bind(cls: type[T], node: Mapping[Any, Any], where: str) -> T:
    """Turn a config node into its dataclass; unknown keys and wrong types are one clear line."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in node:
        require(str(key) in names, f"unknown key {where}.{key!s}; {nearest(str(key), names)}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(_schema(cls), _plain(node)))  # type: ignore[return-value, arg-type]
    except MissingMandatoryValue as error:
        raise UserError(f"{where}: {error.msg}; give it on the command line") from error
    except OmegaConfBaseException as error:
        for cause in causes(error):
            if isinstance(cause, UserError):  # of a resolver
                raise cause from None
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{where}.{error.key or ''}: {line}") from error


def _plain(node: Mapping[Any, Any]) -> dict[str, Any]:
    """A node as a plain table; its references are followed, which need the config around it."""
    return to_plain(node) if isinstance(node, DictConfig) else dict(node)


def to_plain(node: DictConfig) -> dict[str, Any]:
    """A config as plain tables and lists, its interpolations followed."""
    plain: Any = OmegaConf.to_container(node, resolve=True)
    return dict(plain)


def bind_task(node: Mapping[Any, Any], *, allow: Collection[str] = ()) -> Task:
    """Turn a task's node into the class of its kind."""
    kind = of_kind(str(node.get("kind", Task.kind)), allow=allow)
    return bind(kind, filled_in(_plain(node), allow=allow), "task")


def allowed(cfg: Mapping[Any, Any]) -> tuple[str, ...]:
    """The packages of the user's that a config names, from which classes may come."""
    given = cfg.get("allow") or ()
    names = (given,) if isinstance(given, str) else tuple(map(str, given))
    wrong = next((name for name in names if not name.isidentifier() or name == "finegrid"), "")
    require(not wrong, f"allow={list(names)}: {wrong} is no name of another package")
    return names


OLDER = {"head": "classifier", "loss": "cross_entropy", "semi": "none"}  # of runs that name none
SWITCHES = {"frozen_dropout": True, "score_last": False, "forgetting": False}  # what older runs had


@dataclass(frozen=True)
class RunConfig:
    """The validated settings of one run."""

    task: Task
    head: str  # an option of conf/head
    loss: losses.Loss
    semi: semis.Semi
    method: MethodConfig
    data: DataConfig
    optim: OptimConfig
    model: ModelConfig
    trainer: TrainerConfig
    budget: Budget
    seed: int
    select: str
    store: str
    evaluations: int  # validation passes at most
    log_every: int | None  # steps between two points in a logger; None: about 50 a run
    frozen_dropout: bool
    score_last: bool  # the last weights on test too, besides the selected ones
    forgetting: bool  # measure what tuning costs the model as a language model
    trial: int | None  # of a search for the learning rate; such a run is not scored on test

    @classmethod
    def of(cls, cfg: DictConfig, *, allow: Collection[str] | None = None) -> "RunConfig":
        """Validate a composed config.

        `allow` names the packages of the user's from which classes may come. None: the config
        itself says so, which must then be the user's, and not a finished run's.

        Raises:
            UserError: at the first key that is unknown, of the wrong type or out of range.
        """
        require_names(cfg)
        allow = allowed(cfg) if allow is None else allow
        one_of("select", str(cfg.select), ("best", "last"))
        one_of("store", str(cfg.store), STORES)
        log_every = cfg.get("log_every")  # older runs do not name it
        integers = [("seed", cfg.seed, 0), ("evaluations", cfg.evaluations, 1)]
        integers += [("log_every", log_every, 1)] if log_every is not None else []
        for key, value, least in integers:
            good = type(value) is int and least <= value < 2**53  # any reader of JSON keeps it
            require(good, f"{key}={value} must be an integer of at least {least}, below 2^53")
        switches = {key: cfg.get(key, older) for key, older in SWITCHES.items()}
        for key, value in switches.items():
            require(isinstance(value, bool), f"{key}={value} must be true or false")
        trial = cfg.get("trial")
        bind(recipes.TuneConfig, cfg.get("tune") or {}, "tune")
        require(
            not recipes.scales(cfg) or OmegaConf.is_interpolation(cfg.optim, "lr"),
            f"trial={trial} chooses the learning rate; leave out either it or optim.lr",
        )
        head, loss, semi = (cfg.get(group) or {"name": older} for group, older in OLDER.items())
        task = bind_task(cfg.task, allow=allow)
        check_head(task, str(head["name"]))
        return cls(
            task=task,
            head=str(head["name"]),
            loss=bind(losses.class_of(loss, task), loss, "loss"),
            semi=bind(semis.class_of(semi, task), semi, "semi"),
            method=MethodConfig.of(to_plain(cfg.method), allow=allow),
            data=bind(DataConfig, cfg.data, "data"),
            optim=bind(OptimConfig, cfg.optim, "optim"),
            model=bind(ModelConfig, cfg.model, "model"),
            trainer=bind(TrainerConfig, cfg.trainer, "trainer"),
            budget=Budget.of(cfg.budget),
            seed=int(cfg.seed),
            select=str(cfg.select),
            store=str(cfg.store),
            evaluations=int(cfg.evaluations),
            log_every=log_every,
            trial=trial,
            **switches,
        )
