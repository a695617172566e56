"""The LightningModule: one step, one optimizer, and prediction over a full set."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finegrid.config import OptimConfig
from finegrid.data.batching import TokenizedDataset, sorted_batches
from finegrid.errors import require
from finegrid.methods.base import Texts, adamw
from finegrid.models import surgery
from finegrid.models.backbone import Backbone, drawn_pooler
from finegrid.models.heads import masked_language
from finegrid.seeds import stream
from finegrid.tasks.modules.losses import LOSSES, CrossEntropy, Loss
from finegrid.tasks.task import Task
from finegrid.training import heartbeat
from finegrid.training.state import TrainState

# Of an evaluation's batch: attention's intermediate results should fit a CPU core's cache.
EVAL_TOKENS = {"cpu": 2048, "cuda": 65536}
NOT_INPUTS = ("labels", "real_tokens")  # of a batch: all else is the model's


class FineTuner(pl.LightningModule):
    """A backbone and its head on one task; what trains is what `requires_grad` says."""

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        optim: OptimConfig,
        *,
        seed: int,
        train: TokenizedDataset | None = None,
        loss: Loss | None = None,  # None: the kind's own
    ) -> None:
        super().__init__()
        self.model = backbone.model
        self.backbone = backbone
        self.task, self.optim, self.train_rows = task, optim, train
        self.state = TrainState()
        self.run_loss: Loss = loss or CrossEntropy()
        self.use_loss(None)
        self.text_loss: Callable[[Texts], Tensor] | None = None  # in place of the loss, in a phase
        self.added_loss: Callable[[nn.Module], Tensor | None] | None = None  # beside it, a method's
        self.make_optimizer: Callable[[Sequence[dict[str, Any]]], Optimizer] = adamw
        self.init_seed, self.dropout_seed = stream(seed, "init"), stream(seed, "dropout")
        self.clipped_norm: Tensor | None = None  # of the gradient before clipping

    def on_train_start(self) -> None:
        """Switch dropout on (weights load in eval mode and stay so) and seed its draws."""
        self.model.train()
        torch.manual_seed(self.dropout_seed)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        return self.loss(batch) if self.state.micro_batch_size is None else self._in_chunks(batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear the gradients, unless this batch's first chunks have added theirs already."""
        if self.state.micro_batch_size is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def _in_chunks(self, batch: dict[str, Any]) -> Tensor:
        """The loss of the whole batch, with the graph of its last chunk alone.

        The other chunks have run backward by then, so that one graph is held at a time; Lightning
        runs the last one's, and whatever follows sees the gradient of the whole batch.
        """
        self.zero_grad()
        terms = self.task.loss_terms(batch["labels"])
        total = torch.zeros((), device=self.device)
        for chunk in _chunks(batch, self.state.micro_batch_size or len(batch["labels"])):
            if total.requires_grad:
                with torch.autocast(self.device.type, enabled=False):  # for forward passes alone
                    total.backward()  # type: ignore[no-untyped-call]
            total = total.detach() + self.loss(chunk) * (
                self.task.loss_terms(chunk["labels"]) / terms
            )
        return total

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Mean loss over the batch's rows, in fp32, with what the method has beside or for it."""
        read = partial(self.task.logits, self.model, batch, forward=logits_of)
        if self.text_loss is None:
            loss = self.loss_of(read(), batch)
            more = None if self.added_loss is None else self.added_loss(self.model.base_model)
            return loss if more is None else loss + more
        base, sites = self.model.base_model, self.backbone.sites
        language = partial(masked_language.of, self.backbone.source)
        return self.text_loss(Texts(base, sites, read, language)).float()

    def loss_of(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Mean loss of a batch's logits, in fp32."""
        return self.criterion(logits.float(), batch["labels"])

    def use_loss(self, given: Mapping[str, Any] | None) -> None:
        """Train with a loss of these settings from now on; with the run's if none are given or fit.

        `given` is as an option of `conf/loss` says.
        """
        fits = given is not None and given["name"] in self.task.LOSSES
        loss: Loss = LOSSES[given["name"]](**given) if given and fits else self.run_loss
        rows = self.train_rows
        self.criterion = loss.criterion(self.task, None if rows is None else rows.numbers)

    def losses(self, count: int, batch_size: int) -> Iterator[Tensor]:
        """Mean losses of the first `count` training rows in a seeded order, without dropout."""
        assert self.train_rows is not None
        generator = torch.Generator().manual_seed(self.init_seed)
        order = torch.randperm(len(self.train_rows), generator=generator)[:count].tolist()
        training = self.model.training
        self.model.eval()
        for start in range(0, len(order), batch_size):
            batch = self.train_rows.batch(order[start : start + batch_size])
            del batch["real_tokens"]
            yield self.loss({name: value.to(self.device) for name, value in batch.items()})
        self.model.train(training)

    def configure_optimizers(self) -> Optimizer:
        """The method's, AdamW for most, over exactly what trains; only matrices decay.

        The clock scales the rates.
        """
        base, drawn = f"{self.model.base_model_prefix}.", drawn_pooler(self.model)
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in surgery.trainable(self.model).items():
            head_lr = self.optim.head_lr or self.optim.lr
            fresh = not name.startswith(base) and not self.backbone.language_model
            tuned = not fresh and name not in drawn
            scale = self.state.lr_scale * self.state.lr_ratio(name)
            lr = scale * self.optim.lr if tuned else head_lr
            groups[lr, self.optim.weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
        require(
            bool(groups),
            "nothing trains: a language model's head stays as pre-trained, and this method trains "
            "nothing below it; use another, such as method=lora, or data.rows=0 to score alone",
        )
        return self.make_optimizer(
            [
                {"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": decay}
                for (lr, decay), parameters in groups.items()
            ]
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradients down to a global norm; None or 0 leaves them.

        Lightning's own refuses a fused optimizer, for fp16's sake alone.
        """
        if gradient_clip_val:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            self.clipped_norm = nn.utils.clip_grad_norm_(held, gradient_clip_val)

    def gradient_norm(self) -> Tensor:
        """Global norm of the step's gradient, before clipping; computed here if none is done."""
        if self.clipped_norm is not None:
            return self.clipped_norm
        trained = surgery.trainable(self.model).values()
        return nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])


def _chunks(batch: dict[str, Any], size: int) -> Iterator[dict[str, Tensor]]:
    """A batch's tensors, so many rows at a time."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    for start in range(0, len(batch["labels"]), size):
        yield {name: value[start : start + size] for name, value in tensors.items()}


def logits_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Logits (B, outputs) of a padded batch."""
    inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    logits: Tensor = model(**inputs).logits
    return logits


def _fp32_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    return logits_of(model, batch).float()


def saved(module: FineTuner) -> dict[str, Tensor]:
    """Copies of what a training changes: what trains, and the buffers."""
    return {name: value.detach().clone() for name, value in _changing(module).items()}


@torch.no_grad()
def restore(module: FineTuner, values: Mapping[str, Tensor]) -> None:
    """Put saved values back."""
    named = _changing(module)
    for name, value in values.items():
        named[name].copy_(value)


def _changing(module: FineTuner) -> dict[str, Tensor]:
    return {**surgery.trainable(module.model), **dict(module.model.named_buffers())}


def predict(
    model: nn.Module,
    encoded: TokenizedDataset,
    *,
    batch_size: int,
    precision: str = "32",
    task: Task | None = None,
    dropout: bool = False,
) -> Any:
    """Outputs on the CPU, in the rows' order: fp32 logits (N, outputs), without dropout by default.

    `task` may keep something else of each row, see `Task.infer`. The model's train or eval mode is
    left as it was.
    """
    device = next(model.parameters()).device
    training = model.training
    model.train(dropout)
    parts: list[Any] = []
    order: list[int] = []
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), autocast:
        for index, batch in sorted_batches(encoded, batch_size, tokens=EVAL_TOKENS[device.type]):
            moved = {
                name: value.to(device) for name, value in batch.items() if name != "real_tokens"
            }
            if task is None:
                parts.append(_fp32_logits(model, moved))
            else:
                parts.append(
                    task.infer(model, moved, forward=_fp32_logits, tokenizer=encoded.tokenizer)
                )
            heartbeat.beat()
            order += index
    model.train(training)
    outputs = _in_order(parts, order)
    return outputs if task is None else task.complete(outputs, encoded.numbers)


def _in_order(parts: list[Any], order: list[int]) -> Any:
    """What was kept of the rows, batch after batch, in the rows' own order."""
    if isinstance(parts[0], Tensor):
        logits = torch.cat(parts).cpu()
        return torch.empty_like(logits).index_copy_(0, torch.tensor(order), logits)
    kept = dict(zip(order, (row for part in parts for row in part), strict=True))
    return [kept[number] for number in range(len(order))]
