"""UPET: self-training on rows left out, chosen by uncertainty (Wang et al. 2023, 2310.13022).

Few rows are labelled, many are not. On one budget, with any method:

    teacher    trains on the labelled rows, for `teacher_share` of it
    estimate   reads rows left out, `passes` times with dropout: p_t (C) of pass t; it takes
               `estimate_share` at most, which says how many rows, drawn at random
    label      y = the class that most passes predict
    certainty  1 - B,  B = H(mean_t p_t) - mean_t H(p_t): what dropout's draws tell of the class
    sample     of each class as many rows, with chances proportional to their certainty; with
               replacement where it has fewer
    student    begins anew from the pre-trained weights and trains on sampled and labelled rows
               alike, by the loss phce (Menon et al., ICLR 2020), with a schedule of its own

Every batch of the estimate counts as a step, with its examples, tokens and time.

Estimate, labels and sampling are those of the authors' code (github.com/wjn1996/UPET, after
Mukherjee & Awadallah's UST), at 20 passes. Where we differ: there the student becomes the teacher
of a next round, 15 in its script for MRPC, and the best of all is taken by validation; here is one
round, and its student is the result. Its teacher tunes all weights and is taken at its best by
validation, ours tunes what the method does and is taken at its last step. The paper samples by a
balance of confidence and certainty, which the code does not have, and whose formula was not read.
The code's student has plain cross-entropy (`semi.tau=null`); of the paper's phce the name was read,
its tau was not. The paper's easy-hard contrastive loss stands in neither the code nor any text that
could be read, and is left out.
"""

from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from finegrid.data.batching import TokenizedDataset
from finegrid.errors import require
from finegrid.seeds import forked, stream
from finegrid.storage.cache import Array
from finegrid.tasks.modules.semi import UPET
from finegrid.training.budget import DONE, BudgetTimer, epochs
from finegrid.training.components import RunComponents
from finegrid.training.cost import CostMonitor
from finegrid.training.flops import flops_per_token
from finegrid.training.module import FineTuner, predict, restore, saved

SMALL = 1e-10  # added to a probability before its logarithm


class SelfTraining(pl.Callback):
    """Turns the teacher into a student once its share of the budget is spent.

    It comes after the clock and the method, whose steps it follows.
    """

    def __init__(
        self, semi: UPET, clock: BudgetTimer, meter: CostMonitor, components: RunComponents
    ) -> None:
        self.semi, self.clock, self.meter, self.components = semi, clock, meter, components
        self.start: dict[str, Tensor] | None = None  # of what trains; none once a student does
        self.estimated, self.pseudo = pool_size(components, semi), 0  # rows
        classes = components.task.outputs
        require(
            round(semi.sampled * self.estimated) >= classes,
            f"semi.estimate_share={semi.estimate_share:g} of the budget pays {semi.passes} passes "
            f"over {self.estimated} of {len(components.encoded['unlabelled'])} rows left out, of "
            f"which semi.sampled={semi.sampled:g} is less than a row for each of {classes} "
            "classes; raise the budget, or lower semi.passes",
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that teacher and student start from."""
        self.start = saved(self.components.module)
        self.clock.begin_phase(self.semi.teacher_share)

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """End the teacher's phase when it is time; its weights are no result."""
        if self.start is None:
            return
        # nor are those that a student starts from
        self.components.module.state.checkpointable = False
        if self.clock.progress >= self.semi.teacher_share * DONE:
            self._become_student(trainer, self.start)
            self.start = None

    def _become_student(self, trainer: pl.Trainer, start: dict[str, Tensor]) -> None:
        """Label rows, then begin anew from the first weights, on more rows, with another loss."""
        module, tau = self.components.module, self.semi.tau
        module.train_rows = self._labelled_by(module, str(trainer.precision))
        restore(module, start)
        module.use_loss(None if tau is None else {"name": "phce", "tau": tau})
        loader: Any = trainer.train_dataloader
        loader.use(module.train_rows)
        trainer.strategy.setup_optimizers(trainer)
        self.clock.begin_phase()
        module.state.progress = self.clock.progress
        trainer.should_stop = self.clock.progress >= DONE

    def _labelled_by(self, module: FineTuner, precision: str) -> TokenizedDataset:
        """The labelled rows and those that the teacher labels."""
        config, encoded = self.components.config, self.components.encoded
        random = np.random.default_rng(stream(config.seed, "semi"))
        every = encoded["unlabelled"]
        pool = every.take(np.sort(random.permutation(len(every))[: self.estimated]))
        with forked(stream(config.seed, "semi")):
            drawn = self._estimate(module, pool, precision)
        labels = majority(drawn)
        size = round(self.semi.sampled * len(pool))
        chosen = sample(labels, certainty(drawn), size, classes=drawn.shape[-1], random=random)
        self.pseudo = len(chosen)
        return encoded["train"].joined(pool.take(chosen, labels[chosen]))

    def _estimate(self, module: FineTuner, pool: TokenizedDataset, precision: str) -> Array:
        """Probabilities (passes, N, C) with dropout."""
        with self.clock.paused():
            rate = flops_per_token(module, pool, backward=False)
        task, size = self.components.task, self.components.config.data.batch_size
        tokens = int(pool.lengths.sum())
        drawn: list[Array] = []
        for _ in range(self.semi.passes):
            logits = predict(
                module.model, pool, batch_size=size, precision=precision, task=task, dropout=True
            )
            drawn.append(logits.softmax(-1).numpy())
            self.clock.count(-(-len(pool) // size), len(pool), tokens)
            self.meter.add(tokens, rate)
        return np.stack(drawn)


def pool_size(components: RunComponents, semi: UPET) -> int:
    """How many rows left out the teacher reads, at most what its share of the budget pays."""
    config, train = components.config, components.encoded["train"]
    planned = epochs(config.budget, train, config.data.batch_size) or 0.0
    size = min(config.data.batch_size, len(train))  # what a step of the budget reads
    batches = int(semi.estimate_share * planned * len(train) / size / semi.passes)
    return min(batches * size, len(components.encoded["unlabelled"]))


def majority(drawn: Array) -> Array:
    """The class (N) that most passes predict; of equals the first."""
    classes = drawn.shape[-1]
    votes = np.eye(classes)[drawn.argmax(-1)].sum(0)
    found: Array = votes.argmax(-1)
    return found


def certainty(drawn: Array) -> Array:
    """1 - B (N), B the entropy of the mean less the mean entropy."""
    mean = drawn.mean(0)
    found: Array = 1 - (_entropy(mean) - _entropy(drawn).mean(0))
    return found


def sample(
    labels: Array, certainty: Array, size: int, *, classes: int, random: np.random.Generator
) -> Array:
    """Rows: of each class as many, with chances by certainty; none of a class without rows."""
    each = size // classes
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        if len(members):
            weights = np.maximum(0, certainty[members])
            chosen.append(
                random.choice(members, each, p=weights / weights.sum(), replace=len(members) < each)
            )
    return np.concatenate(chosen)


def _entropy(p: Array) -> Array:
    found: Array = -(p * np.log(p + SMALL)).sum(-1)
    return found
