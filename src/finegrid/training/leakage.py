"""Leakage: what the embedding of a text tells of `task.attribute`, by a fresh probe.

The probe (one hidden layer of the embedding's width) learns the attribute of training rows, at most
2,048, from the embeddings of the tuned model, which stays as it is; the record holds its balanced
accuracy on the test rows: 1 / values is chance. It reads what the task's head reads, standardised,
with each value weighing the same. A method that can be switched off is measured both ways.

Elazar & Goldberg 2018, arXiv 1808.06640, ask the same of encoders trained with an adversary.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finegrid.data.batching import TokenizedDataset
from finegrid.methods.modules import attribute
from finegrid.methods.modules.switch import switched_off, switches
from finegrid.models.embedding import watch
from finegrid.runs.record import Record
from finegrid.seeds import forked
from finegrid.storage.cache import Array
from finegrid.training import device
from finegrid.training.components import RunComponents
from finegrid.training.module import predict

ROWS, STEPS, RATE = 2048, 200, 3e-3  # of the probe, which sees all its rows in each step
SEED = 0  # of the probe's start, the same for every run


class Embedder(nn.Module):
    """A model that answers with embeddings in the place of logits."""

    def __init__(self, model: Any, *, decoder: bool) -> None:
        super().__init__()
        self.model, self.decoder = model, decoder
        self.train(model.training)

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """The embeddings of a batch, B H."""
        seen: list[Tensor] = []
        base = self.model.base_model
        handle = watch(base, lambda base, h: seen.append(h), decoder=self.decoder)
        self.model(**inputs)
        handle.remove()
        return SimpleNamespace(logits=seen[-1])


def add(record: Record, components: RunComponents) -> None:
    """Note what a scored run's embeddings tell of the attribute, of a task that has one."""
    task, model = components.task, components.module.model
    fits = task.ONE_STATE and task.FUSES and len(task.attribute_values) > 1
    if task.attribute is None or not fits or components.config.trial is not None:
        return
    record.leakage = measure(components)
    if switches(model):
        with switched_off(model):
            outputs = _predict(components, model, components.encoded["test"], task=task)
            scores = task.score(outputs, components.encoded["test"].labels)
            record.test_off, record.leakage_off = scores[task.headline], measure(components)


def measure(components: RunComponents) -> float | None:
    """Balanced accuracy of a probe on test rows; None where they have one value alone."""
    base = components.module.backbone
    embedder = Embedder(base.model, decoder=base.sites.decoder)
    parts = []
    for split in ("train", "test"):
        rows, numbers = _told(components.encoded[split], components.task.attribute_values)
        parts += [_predict(components, embedder, rows), numbers]
    train, known, test, wanted = parts
    if min(len(set(numbers.tolist())) for numbers in (known, wanted)) < 2:
        return None
    values = len(components.task.attribute_values)
    with torch.inference_mode(False), torch.enable_grad(), forked(SEED):
        return balanced_accuracy(probed(train.clone(), known, test.clone(), values), wanted)


def _told(rows: TokenizedDataset, values: Sequence[str]) -> tuple[TokenizedDataset, Tensor]:
    """The first rows whose attribute has one of the values, and its numbers."""
    found = attribute.numbers(rows, values)
    index = (found >= 0).nonzero().flatten()[:ROWS]
    places: Array = index.numpy()
    return rows.take(places), found[index]


def _predict(
    components: RunComponents, model: Any, rows: TokenizedDataset, *, task: Any = None
) -> Any:
    config = components.config
    return predict(
        model,
        rows,
        batch_size=config.data.eval_batch_size,
        precision=device.precision(config.trainer),
        task=task,
    )


def probed(train: Tensor, numbers: Tensor, test: Tensor, values: int) -> Tensor:
    """The values (M) that a probe of embeddings (N H) and their values (N) predicts for M H."""
    mean, spread = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / spread, (test - mean) / spread
    width = train.shape[1]
    probe = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, values))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=0.1)
    weights = 1 / torch.bincount(numbers, minlength=values).clamp(min=1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = functional.cross_entropy(probe(train), numbers, weight=weights.float())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found: Tensor = probe(test).argmax(-1)
    return found


def balanced_accuracy(found: Tensor, wanted: Tensor) -> float:
    """Mean over the values there are of the share of their rows that is right."""
    values = sorted(set(wanted.tolist()))
    right = [(found[wanted == value] == value).float().mean() for value in values]
    return float(torch.stack(right).mean())
