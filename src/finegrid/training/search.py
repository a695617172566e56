"""A method's search for what trains, by cross-validation on training rows, paid from the budget."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from finegrid.data.batching import BucketSampler, TokenizedDataset
from finegrid.data.splits import Order, stratified_order
from finegrid.errors import Diverged
from finegrid.methods.base import SearchPlan
from finegrid.seeds import forked, stream
from finegrid.training.budget import BudgetTimer, epochs, schedule
from finegrid.training.components import RunComponents
from finegrid.training.cost import CostMonitor
from finegrid.training.flops import flops_per_token
from finegrid.training.module import predict, restore, saved


class MethodSearch(pl.Callback):
    """Lets a method search before the first step, once the clock runs; then training begins anew.

    It comes after the clock and before the method, in whose stead it acts.
    """

    def __init__(self, clock: BudgetTimer, meter: CostMonitor, components: RunComponents) -> None:
        self.clock, self.meter, self.components = clock, meter, components
        self.examples = 0  # read by the search

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search, and make the optimizer of what was chosen."""
        method, module = self.components.method, self.components.module
        assert method.search_plan is not None
        folds = Folds(
            method.search_plan,
            self.clock,
            self.meter,
            self.components,
            precision=str(trainer.precision),
        )
        with forked(folds.seed):
            method.search(module.model.base_model, folds)
        with self.clock.paused():
            self.clock.begin_phase()
            module.state.progress, self.examples = self.clock.progress, self.clock.examples
            self.meter.on_train_start(trainer, module)
            trainer.strategy.setup_optimizers(trainer)


class Folds:
    """Cross-validation of what trains, see `methods.base.CrossValidation`.

    Every score is of the same folds, batches and dropout seeds, so that two differ by what trains
    alone. Rows that are scored count like rows that are trained on, in batches of the same size.
    """

    def __init__(
        self,
        plan: SearchPlan,
        clock: BudgetTimer,
        meter: CostMonitor,
        components: RunComponents,
        *,
        precision: str,
    ) -> None:
        self.plan, self.clock, self.meter, self.components = plan, clock, meter, components
        self.config, self.module = components.config, components.module
        self.rows: TokenizedDataset = components.encoded["train"]
        self.precision = precision
        self.seed = stream(self.config.seed, "search")
        self.order = stratified_order(components.task.strata(self.rows.numbers), self.seed)
        self._cost: float | None = None  # share of the budget that the last score took

    def affords(self, scores: int) -> bool:
        """Whether so many more scores fit into the search's share of the budget."""
        cost = self._expected() if self._cost is None else self._cost
        return self.clock.progress + scores * cost <= self.plan.share

    def score(self) -> float:
        """Mean of the headline metric over the folds; the weights are left as they were."""
        before, start = self.clock.progress, saved(self.module)
        with self.clock.paused():
            rates = [flops_per_token(self.module, self.rows, backward=b) for b in (True, False)]
        values = []
        for fold in range(self.plan.folds):
            held = self.order[fold :: self.plan.folds]
            torch.manual_seed(self.seed + fold)
            self._train(np.setdiff1d(self.order, held), fold, rates[0])
            values.append(self._score(held, rates[1]))
            restore(self.module, start)
        self._cost = self.clock.progress - before
        return float(np.mean(values))

    def _expected(self) -> float:
        """The share of the budget that a score takes; 0 for seconds, which do not tell."""
        size = self.config.data.batch_size
        passes = epochs(self.config.budget, self.rows, size)
        if passes is None:
            return 0.0
        return 2 * self.plan.steps * self.plan.folds / (passes * len(self.rows) / size)

    def _train(self, rows: Order, fold: int, rate: float) -> None:
        module, optim = self.module, self.config.optim
        optimizer: Any = module.configure_optimizers()
        module.model.train()
        kind = module.device.type
        mixed = self.precision == "bf16-mixed"
        for step, index in enumerate(islice(self._batches(rows, fold), self.plan.steps)):
            batch = self.rows.batch(index)
            moved = {k: v.to(module.device) for k, v in batch.items() if isinstance(v, Tensor)}
            done = (step + 0.5) / self.plan.steps
            factor = schedule(done, warmup=optim.warmup, shape=optim.schedule)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.zero_grad()
            with torch.autocast(kind, torch.bfloat16, enabled=mixed):
                loss = module.training_step(moved, step)
            if not torch.isfinite(loss):
                raise Diverged(f"the loss became {loss.item()} in a search; lower optim.lr")
            loss.backward()  # type: ignore[no-untyped-call]
            module.configure_gradient_clipping(optimizer, optim.clip)
            optimizer.step()
            self.components.head.after_step(module.model, moved["labels"])
            self._count(1, len(index), batch["real_tokens"], rate)
        module.zero_grad(set_to_none=True)

    def _batches(self, rows: Order, fold: int) -> Iterator[list[int]]:
        """Endless batches of these rows, in an order of the fold's."""
        size = self.config.data.batch_size
        sampler = BucketSampler(self.rows.lengths[rows], batch_size=size, seed=self.seed + fold)
        while True:
            for index in sampler:
                yield rows[index].tolist()

    def _score(self, held: Order, rate: float) -> float:
        config, task = self.config, self.components.task
        part = self.rows.take(held[: self.plan.steps * config.data.batch_size])
        outputs = predict(
            self.module.model,
            part,
            batch_size=config.data.eval_batch_size,
            precision=self.precision,
            task=task,
        )
        batches = -(-len(part) // config.data.batch_size)
        self._count(batches, len(part), int(part.lengths.sum()), rate)
        return task.score(outputs, part.labels)[task.headline]

    def _count(self, steps: int, examples: int, tokens: int, rate: float) -> None:
        self.clock.count(steps, examples, tokens)
        self.meter.add(tokens, rate)
