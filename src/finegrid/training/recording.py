"""What a run writes into its record at each stage: what was asked for, met, and spent."""

import json
from typing import Any

import torch

from finegrid.data.splits import Splits
from finegrid.methods.base import TuningMethod
from finegrid.models import backbone
from finegrid.models.backbone import drawn_pooler
from finegrid.runs import identity, provenance
from finegrid.runs.record import Record
from finegrid.runs.spec import RunSpec
from finegrid.training import device
from finegrid.training.budget import BudgetTimer
from finegrid.training.components import RunComponents, tokenizer_fingerprint
from finegrid.training.cost import CostMonitor
from finegrid.training.search import MethodSearch
from finegrid.training.self_training import SelfTraining


def begin(spec: RunSpec) -> Record:
    """The record of a run that has just begun: what was asked for, and where it runs."""
    trainer = spec.config.trainer
    asked: dict[str, Any] = identity.facts(spec.plain)
    return Record(
        **asked,
        cell=spec.key or identity.cell(spec.plain),
        config_hash=identity.config_hash(spec.plain),
        overrides=spec.overrides,
        threads=torch.get_num_threads(),
        device=device.device(trainer),
        precision=device.precision(trainer),
        gradient_checkpointing=trainer.gradient_checkpointing,
        started=provenance.now(),
        **provenance.facts(spec.overrides if spec.sweep else None),
    )


def add_inputs(record: Record, components: RunComponents) -> None:
    """Note which data and weights the run reads."""
    splits, base, task = components.splits, components.module.backbone, components.task
    record.positive_class = of = task.positive_class
    record.positive = None if of is None else task.labels[of]
    record.labels = json.dumps(task.labels) if task.labels else None
    record.data_source, record.model_revision = splits.source, base.revision
    record.fingerprint = base.fingerprint
    record.tokenizer = tokenizer_fingerprint(components.config.model)
    record.drawn_pooler = bool(drawn_pooler(base.model))
    if len(task.text) > 1 and components.head.one_state:
        record.separator = backbone.separator(components.config.model)
    record.chat_template = components.config.model.chat_template
    record.fraction = splits.fraction
    record.subset_seed = components.config.data.subset_seed
    record.train_hash = splits.train.digest()
    record.validation_hash = splits.validation.digest()
    record.test_hash = splits.test["test"].digest()
    record.train_rows, record.validation_rows = len(splits.train), len(splits.validation)
    record.test_rows, record.test_overlap = len(splits.test["test"]), splits.overlap
    record.truncated = {name: rows.tokens.truncated for name, rows in components.encoded.items()}


def add_search(record: Record, method: TuningMethod, search: MethodSearch) -> None:
    """Note what a method's search chose, by which scores, and what it read of the budget."""
    record.chosen, record.chosen_by = list(method.chosen or ()), dict(method.chosen_by or {})
    record.search_examples = search.examples


def add_self_training(record: Record, splits: Splits, semi: SelfTraining) -> None:
    """Note the rows of self-training."""
    record.unlabelled_rows = len(splits.unlabelled or ())
    record.estimated_rows, record.pseudo_rows = semi.estimated, semi.pseudo


def add_costs(record: Record, clock: BudgetTimer, meter: CostMonitor, *, setup: float) -> None:
    """Note what training cost, and the `setup` seconds before it."""
    record.steps, record.epochs = clock.steps, clock.epochs
    record.setup_seconds, record.train_seconds = setup, clock.seconds
    record.train_cpu_seconds = clock.cpu_seconds
    if clock.seconds:
        record.examples_per_second = clock.examples / clock.seconds
        record.tokens_per_second = clock.tokens / clock.seconds
    record.train_flops = meter.flops(clock.tokens)
    record.matmul_rate = meter.matmul_rate
    record.mfu = meter.mfu(clock.tokens, clock.seconds)
    for name, count in meter.parameters.items():
        setattr(record, name, count)
