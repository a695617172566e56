"""Train several runs of one task and backbone in one loop: one fused pass a step serves all.

Each run keeps what it has on its own: seeds and batch order, head, loss, clipping, schedule,
budget, validation, checkpoint, record. What they share must be divided for the records:

- A step's seconds, CPU seconds too, are divided by the tokens, padding included, that each run has
  in it. Seconds of validation and scoring are a run's own.
- Set-up is a run's own, plus an equal part of what was made for all.
- The peak of memory is the process's, divided by the number of runs.

A budget of seconds would therefore depend on a run's company; such runs train alone.
"""

import gc
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finegrid.config import ModelConfig, TrainerConfig
from finegrid.methods.base import adamw
from finegrid.models import backbone
from finegrid.models.backbone import Backbone
from finegrid.runs import layout, saved_config
from finegrid.runs.spec import RunSpec
from finegrid.strategies.fused_model import FusedBackbone
from finegrid.strategies.single import run as run_alone
from finegrid.training import device, heads
from finegrid.training.budget import BudgetTimer
from finegrid.training.components import RunComponents, rows_of
from finegrid.training.run import trainer_of
from finegrid.training.session import RunCallbacks, RunSession

log = logging.getLogger(__name__)
TOKENS = {"cpu": 2048, "gpu": 32768}  # of a pass: what keeps the device busy, and fits its caches


@dataclass
class TrainerStub:
    """The attributes of a Trainer that a run's callbacks read and write."""

    precision: str
    loggers: list[Any]
    should_stop: bool = False
    optimizers: list[Any] = field(default_factory=list)


class SharedTimer(BudgetTimer):
    """The timer of a run that shares its steps: it counts only the seconds that it is credited."""

    def credit(self, seconds: float, cpu_seconds: float) -> None:
        """Add the run's share of a step."""
        self._seconds += seconds
        self.cpu_seconds += cpu_seconds

    def _resume(self) -> None:
        """Leave the time that passes to `credit`."""


class FusedRun:
    """One run among those that train together."""

    def __init__(self, session: RunSession, components: RunComponents, watch: RunCallbacks) -> None:
        self.session, self.components, self.watch = session, components, watch
        self.module = components.module
        self.prepared = time.perf_counter() - session.started  # seconds
        loggers = [session.logger] if session.logger else []
        self.trainer = TrainerStub(str(session.record.precision), loggers)
        self.callbacks = watch.in_order(components)
        self.over = False

    def dispatch(self, hook: str, *given: Any) -> None:
        """Call a hook of the run's callbacks; a failure ends this run alone."""
        if self.over:
            return
        try:
            for callback in self.callbacks:
                getattr(callback, hook)(self.trainer, self.module, *given)
        except Exception as error:
            self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Close the run's record."""
        self.over = True
        self.session.end(error)


class FusedModule(pl.LightningModule):
    """K runs as one module: the loss is the sum of theirs, so that each gets its own gradient."""

    def __init__(self, fused: FusedBackbone, members: Sequence[FusedRun]) -> None:
        super().__init__()
        self.fused, self.members = fused, members
        self.modules_of_runs = nn.ModuleList(member.module for member in members)
        self.losses: dict[int, Tensor] = {}

    def training_step(self, batches: dict[int, dict[str, Any]], batch_idx: int) -> Tensor:
        """The losses' sum over the runs that still train."""
        live = {run: batch for run, batch in batches.items() if not self.members[run].over}
        logits = self.fused(live)
        losses = {run: self.members[run].module.loss_of(logits[run], live[run]) for run in live}
        self.losses = {run: loss.detach() for run, loss in losses.items()}
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> Optimizer:
        """One AdamW over the runs' own groups: it acts on each number by itself."""
        groups_of = [member.module.configure_optimizers().param_groups for member in self.members]
        optimizer = adamw([group for groups in groups_of for group in groups])
        start = 0
        for member, groups_of_run in zip(self.members, groups_of, strict=True):
            stop = start + len(groups_of_run)
            mine = SimpleNamespace(param_groups=optimizer.param_groups[start:stop])
            member.trainer.optimizers, start = [mine], stop
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each run's own norm."""
        for member in self.members:
            if not member.over:
                (optimizer_of_run,) = member.trainer.optimizers
                member.module.configure_gradient_clipping(optimizer_of_run, gradient_clip_val)


class CallbackDispatcher(pl.Callback):
    """Calls every run's callbacks at each hook, and ends a run when its budget is spent."""

    def __init__(self, members: Sequence[FusedRun]) -> None:
        self.members = members
        self.began = self.cpu_began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin every run."""
        for member in self.members:
            member.dispatch("on_train_start")
            member.module.on_train_start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let each run set its learning rate."""
        self.began, self.cpu_began = time.perf_counter(), time.process_time()
        for run, batch_of_run in batch.items():
            self.members[run].dispatch("on_train_batch_start", batch_of_run, batch_idx)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let each method change its gradients."""
        for member in self.members:
            member.dispatch("on_after_backward")

    def on_train_batch_end(
        self, trainer: Any, module: Any, out: Any, batch: Any, index: int
    ) -> None:
        """Share out the step's seconds, and let each run count, validate and end."""
        spent = time.perf_counter() - self.began, time.process_time() - self.cpu_began
        _share(spent, self.members, {k: batch[k] for k in module.losses})
        for run, loss in module.losses.items():
            member = self.members[run]
            member.dispatch("on_train_batch_end", {"loss": loss}, batch[run], index)
            if member.trainer.should_stop:
                _finish(member, self.members)
        trainer.should_stop = all(member.over for member in self.members)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop: the batches end only when no run trains any more, even before the first step."""
        trainer.should_stop = True


def _share(
    spent: tuple[float, float], members: Sequence[FusedRun], batches: Mapping[int, Any]
) -> None:
    tokens = {run: batch["input_ids"].numel() for run, batch in batches.items()}
    for run, count in tokens.items():
        share = count / sum(tokens.values())
        timer: Any = members[run].watch.clock
        timer.credit(spent[0] * share, spent[1] * share)


def _finish(member: FusedRun, members: Sequence[FusedRun]) -> None:
    """Score a run and write its record, while others may still train."""
    member.dispatch("on_train_end")
    if member.over:
        return
    record = member.session.record
    since = member.watch.clock.started - members[0].session.started
    common = since - sum(other.prepared for other in members)
    try:
        member.session.score(
            member.components, member.watch, setup=member.prepared + common / len(members)
        )
        record.fused = len(members)
        record.peak_memory_bytes = (record.peak_memory_bytes or 0) // len(members)
    except Exception as error:
        member.end(error)
    else:
        member.end(None)


class RunBatches:
    """The runs' batches, step by step, as long as any of them trains."""

    def __init__(self, members: Sequence[FusedRun]) -> None:
        self.members = members

    def __iter__(self) -> Iterator[dict[int, Any]]:
        each = [_endless(member.session.loader(member.components)) for member in self.members]
        while live := [run for run, member in enumerate(self.members) if not member.over]:
            yield {run: next(each[run]) for run in live}


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def run_group(specs: Sequence[RunSpec], *, most: int | None, job: Path) -> None:
    """Run the cells of a sweep's job, each as if it were one; `job` is Hydra's own directory."""
    with ExitStack() as logs:
        for spec in specs:
            if spec.directory.resolve() != job.resolve():  # there Hydra has done so itself
                logs.enter_context(_hydras_files(spec))
        run_together(specs, most=most)


@contextmanager
def _hydras_files(spec: RunSpec) -> Iterator[None]:
    """What Hydra leaves beside a job of its own: the config, the overrides and the log."""
    saved_config.write(spec.directory, spec.plain, spec.overrides)
    root = logging.getLogger()
    handler = logging.FileHandler(spec.directory / layout.LOG)
    handler.setFormatter(root.handlers[0].formatter if root.handlers else None)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def run_together(specs: Sequence[RunSpec], *, most: int | None) -> None:
    """Run cells of one task and model, so many at a time; each leaves its record.

    `most` null fills a pass with as many tokens as keep the device busy. What cannot share a pass,
    by its nature or because sharing failed, runs alone, one after the other.
    """
    size = (most or _runs_of_a_pass(specs[0])) if specs[0].config.task.FUSES else 1
    shared = SharedBackbone()
    for start in range(0, len(specs), size):
        now = list(specs[start : start + size])
        gc.collect()  # Lightning's parts refer to one another, and the next runs need the room
        if len(now) > 1:
            now = _train_together(now, shared)
        for spec in now:
            try:
                run_alone(spec)
            except Exception as error:  # its record says why; the others are to run
                log.info("%s: %s", spec.directory, error)


def _runs_of_a_pass(spec: RunSpec) -> int:
    """How many runs like this one fill a pass; one, if its rows cannot be read."""
    config = spec.config
    try:
        _, _, encoded = rows_of(config)
    except Exception as error:  # which its record will tell, and those of the runs like it
        log.info("the runs go alone: %s", error)
        return 1
    tokens = float(encoded["train"].lengths.mean()) * config.data.batch_size
    return max(1, round(TOKENS[device.accelerator(config.trainer)] / tokens))


class SharedBackbone:
    """The backbone that runs share, where they run: loaded once the first of them has its labels.

    Runs of one pass have the same labels, unless their files change meanwhile.
    """

    def __init__(self) -> None:
        self.loaded: dict[int, Backbone] = {}  # by the number of outputs

    @property
    def base(self) -> Backbone:
        """What all runs have in common."""
        return next(iter(self.loaded.values()))

    def build(
        self,
        trainer: TrainerConfig,
        model: ModelConfig,
        *,
        outputs: int,
        seed: int,
        auto_class: str,
    ) -> Backbone:
        """The same as `backbone.build`, in memory that is shared."""
        if outputs not in self.loaded:
            base = backbone.build(model, outputs=outputs, seed=0, auto_class=auto_class)
            if device.accelerator(trainer) == "gpu":
                base.model.cuda()
            self.loaded[outputs] = base
        return self.loaded[outputs].sharing(seed=seed)


def _train_together(specs: Sequence[RunSpec], shared: SharedBackbone) -> list[RunSpec]:
    """Train runs in one pass; returns those that have to run alone after all."""
    made = [_prepared(spec, shared) for spec in specs]
    members = [member for member in made if member is not None]
    if not members:
        return []
    try:
        fused = FusedBackbone(shared.base, [member.module.backbone for member in members])
        first = members[0].session
        trainer = trainer_of(first.config, [CallbackDispatcher(members)], None, first.directory)
        trainer.fit(FusedModule(fused, members), RunBatches(members))
    except Exception as error:  # of the pass itself, which is nobody's alone
        log.info("running alone what is left: %s", error)
    except BaseException as error:
        for member in members:
            if not member.over:
                member.end(error)
        raise
    return [member.session.spec for member in members if not member.over]


def _prepared(spec: RunSpec, shared: SharedBackbone) -> FusedRun | None:
    """A run that is ready to train, or none if its record says already why it is not."""
    session = RunSession(spec)
    try:
        components = session.prepare(build=partial(shared.build, session.config.trainer))
        heads.begin(components.head, components.module)
        components.method.tune(components.module.backbone, seed=components.module.init_seed)
        components.module.backbone.own()
        watch = session.callbacks(components, timer=SharedTimer)
    except Exception as error:
        session.end(error)
        return None
    return FusedRun(session, components, watch)
