"""Batch K fine-tuning runs through one frozen encoder (horizontal fusion, multi-adapter training).

The runs' padded batches, which differ in rows and width, are concatenated into one sequence of
tokens, 1 T H, which passes through the backbone's modules once. Where the runs differ, each
computes on its segment, as B T H: embeddings, biases, norms, injected modules, attention and head.
Where they do not, one matrix product serves all. Nothing mixes rows of different runs.

Prior art: horizontally fused training arrays (Wang et al. 2021, arXiv 2102.02344) stack all
parameters of K like models; here the frozen ones exist once and the runs' methods may differ.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finegrid.errors import UserError
from finegrid.kernels import linear
from finegrid.kernels.dropout import FastDropout, dropout, stream_of
from finegrid.models.attention import function_of
from finegrid.models.backbone import Backbone
from finegrid.models.layered import LAYERED
from finegrid.training.module import logits_of

ATTENTION = "finegrid_fused"


class UnfusableError(UserError):
    """Runs that cannot share a pass."""


@dataclass(frozen=True)
class Segment:
    """One run's batch in the packed sequence of tokens."""

    run: int
    start: int
    batch: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of the batch."""
        rows, width = self.batch["input_ids"].shape
        return rows, width

    @property
    def stop(self) -> int:
        """Where the next run's tokens begin."""
        rows, width = self.shape
        return self.start + rows * width

    @cached_property
    def visible(self) -> Tensor | None:
        """Which tokens attention may see, B 1 1 T; none if there is no padding."""
        seen: Tensor = self.batch["attention_mask"]
        return None if seen.all() else seen.bool()[:, None, None]

    @cached_property
    def bias(self) -> Tensor | None:
        """The same as numbers to add to attention's scores."""
        lowest = torch.finfo(torch.float32).min
        return None if self.visible is None else torch.where(self.visible, 0.0, lowest)


class PackedBatch:
    """The K batches of a forward pass as one sequence of tokens, run after run."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def pack(self, batches: Mapping[int, Mapping[str, Any]]) -> None:
        """Start a pass: concatenate each run's batch."""
        self.segments, start = [], 0
        for run, batch in batches.items():
            self.segments.append(Segment(run, start, batch))
            start = self.segments[-1].stop

    @property
    def sizes(self) -> list[int]:
        """Tokens of each run, padding included."""
        return [segment.stop - segment.start for segment in self.segments]

    def split(self, x: Tensor) -> list[Tensor]:
        """1 T ... -> B T ... of each run."""
        parts = torch.split(x[0], self.sizes)
        pairs = zip(self.segments, parts, strict=True)
        return [part.reshape(*segment.shape, *part.shape[1:]) for segment, part in pairs]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """B T ... of each run -> 1 T ..."""
        return torch.cat([part.flatten(0, 1) for part in parts])[None]


class FusedBackbone:
    """The shared backbone with K runs' own parts in it: batches -> logits, by run.

    Raises:
        UnfusableError: if the runs' backbones are not the same, or their architecture or a method
            of theirs does not fit.
    """

    def __init__(self, base: Backbone, runs: Sequence[Backbone]) -> None:
        if base.sites.architecture not in LAYERED:
            raise UnfusableError(f"{base.sites.architecture} cannot be shared among runs")
        self.runs, self.packed = [run.model for run in runs], PackedBatch()
        shared = base.sharing()
        self.base: Any = shared.model.base_model
        if getattr(self.base, "pooler", None) is not None:
            self.base.pooler = None  # each run has its own
        _check_fusable(self.base, [model.base_model for model in self.runs])
        self._replace_leaves(shared)

    def _replace_leaves(self, shared: Backbone) -> None:
        """Put the runs' own modules where the backbone's leaves are."""
        named = {id(module): name for name, module in self.base.named_modules()}
        attentions = [named[id(site.module)] for site in shared.sites["attention"]]
        (embeddings,) = (named[id(site.module)] for site in shared.sites["embeddings"])
        # read, never called
        skipped = [f"{embeddings}.", *(f"{name}.dropout" for name in attentions)]
        leaves = [name for name, module in self.base.named_modules() if not any(module.children())]
        for name in leaves:
            if not name.startswith(tuple(skipped)):
                self._replace(name, PerRunModule)
        self._replace(embeddings, PerRunEmbeddings)
        self.base.config._attn_implementation = ATTENTION
        for name in attentions:
            attention: Any = self.base.get_submodule(name)
            attention.per_run = (self.packed, self._of_runs(name))

    def _of_runs(self, name: str) -> tuple[nn.Module, ...]:
        return tuple(model.base_model.get_submodule(name) for model in self.runs)

    def _replace(
        self, name: str, kind: Callable[[PackedBatch, tuple[nn.Module, ...]], nn.Module]
    ) -> None:
        path, _, child = name.rpartition(".")
        setattr(self.base.get_submodule(path), child, kind(self.packed, self._of_runs(name)))

    def __call__(self, batches: Mapping[int, Mapping[str, Any]]) -> dict[int, Tensor]:
        """Logits (B, outputs) of each run's batch; the runs' modes decide on dropout."""
        self.packed.pack(batches)
        first = next(iter(batches))
        self.base.train(self.runs[first].training)
        ids = batches[first]["input_ids"].new_zeros(1, sum(self.packed.sizes))  # a shape
        hidden = self.packed.split(self.base(input_ids=ids).last_hidden_state)
        return {
            segment.run: _head(self.runs[segment.run], h, segment.batch)
            for segment, h in zip(self.packed.segments, hidden, strict=True)
        }


def _check_fusable(base: nn.Module, runs: Sequence[nn.Module]) -> None:
    """Refuse hooks of a run on modules that are no leaves: a fused pass would skip them."""
    inner = [name for name, module in base.named_modules() if any(module.children())]
    for run in runs:
        for name in inner:
            module = run.get_submodule(name)
            if name != "embeddings" and (module._forward_hooks or module._forward_pre_hooks):
                raise UnfusableError(f"the method changes {name or 'the backbone'} as a whole")


def _head(model: Any, h: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """A model's logits, given what its layers make of the batch."""
    base = model.base_model
    pooler = getattr(base, "pooler", None)
    pooled = None if pooler is None else pooler(h)
    output = BaseModelOutputWithPooling(last_hidden_state=h, pooler_output=pooled)
    base.forward = lambda *_, **__: output
    try:
        return logits_of(model, batch)
    finally:
        del base.forward


class PerRunEmbeddings(nn.Module):
    """Each run's own embeddings of its own batch, whatever is asked for: ids -> 1 T H."""

    def __init__(self, packed: PackedBatch, per_run: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.packed, self.per_run = packed, per_run

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The hidden states that enter the first layer."""
        return self.packed.join([self._of(segment) for segment in self.packed.segments])

    def _of(self, segment: Segment) -> Tensor:
        names = ("input_ids", "token_type_ids")
        given = {name: segment.batch[name] for name in names if name in segment.batch}
        embedded: Tensor = self.per_run[segment.run](**given)
        return embedded


class PerRunModule(nn.Module):
    """The runs' modules at one place of the backbone, hooks included: 1 T H -> 1 T H'."""

    def __init__(self, packed: PackedBatch, per_run: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.packed, self.per_run = packed, per_run  # a tuple: they belong to the runs

    def forward(self, x: Tensor) -> Tensor:
        """One computation for all where the modules are alike, each run's own where not."""
        modules = [self.per_run[segment.run] for segment in self.packed.segments]
        if any(module._forward_pre_hooks for module in modules):
            pairs = zip(modules, self.packed.split(x), strict=True)
            x = self.packed.join([_before(module, part) for module, part in pairs])
        y = self._shared(modules, x)
        if any(module._forward_hooks for module in modules):
            parts = zip(modules, self.packed.split(x), self.packed.split(y), strict=True)
            y = self.packed.join([_after(*three) for three in parts])
        return y

    def _shared(self, modules: list[Any], x: Tensor) -> Tensor:
        first = modules[0]
        if isinstance(first, FastDropout):
            sizes = [size * x.shape[-1] for size in self.packed.sizes]
            streams = list(zip(map(stream_of, modules), sizes, strict=True))
            return dropout(x, first.p, training=first.training, streams=streams)
        if all(_alike(first, module, *module._parameters) for module in modules):
            return first.forward(x)  # type: ignore[no-any-return]
        if isinstance(first, linear.CachedLinear) and all(
            _alike(first, m, "weight") for m in modules
        ):
            return _per_run_bias(modules, x, self.packed.sizes)
        pairs = zip(modules, self.packed.split(x), strict=True)
        return self.packed.join([module.forward(part) for module, part in pairs])


def _alike(one: Any, other: Any, *names: str) -> bool:
    """Whether two modules compute with the same frozen tensors of these names."""
    return all(
        (a := getattr(one, name)) is (b := getattr(other, name))
        or (a.data_ptr() == b.data_ptr() and not (a.requires_grad or b.requires_grad))
        for name in names
    )


def _before(module: nn.Module, x: Tensor) -> Tensor:
    for hook in module._forward_pre_hooks.values():
        given: Any = hook(module, (x,))
        if given is not None:
            x = given[0] if isinstance(given, tuple) else given
    return x


def _after(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    for hook in module._forward_hooks.values():
        given: Any = hook(module, (x,), y)
        y = y if given is None else given
    return y


def _per_run_bias(modules: Sequence[linear.CachedLinear], x: Tensor, sizes: list[int]) -> Tensor:
    """One frozen matrix, each run's own bias."""
    dtype = linear.autocast_dtype(x) or x.dtype
    biases = [module.bias.to(dtype) for module in modules]
    weight = modules[0].cached_weight(dtype)
    y: Tensor = _PerRunBiasLinear.apply(x.to(dtype), weight, sizes, *biases)  # type: ignore[no-untyped-call]
    return y


class _PerRunBiasLinear(torch.autograd.Function):
    """x W^T + b with W frozen and b that of each run's tokens: 1 T H -> 1 T H'."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: linear.CachedWeight, sizes: list[int], *biases: Tensor
    ) -> Tensor:
        ctx.weight, ctx.sizes = weight, sizes
        parts = zip(torch.split(x, sizes, dim=1), biases, strict=True)
        return torch.cat([weight.forward(*part) for part in parts], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        dx = ctx.weight.grad_input(gradient) if ctx.needs_input_grad[0] else None
        return dx, None, None, *(part.sum(0) for part in torch.split(gradient[0], ctx.sizes))


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **named: Any
) -> tuple[Tensor, None]:
    """Each run's attention over its own batch: 1 heads T d -> 1 T heads d."""
    packed, per_run = module.per_run  # type: ignore[misc]
    parts = zip(*(packed.split(x.transpose(1, 2)) for x in (query, key, value)), strict=True)
    seen = [
        _attend_run(per_run[segment.run], part, segment, named)
        for segment, part in zip(packed.segments, parts, strict=True)
    ]
    return packed.join(seen), None


def _attend_run(
    module: Any, part: Iterable[Tensor], segment: Segment, named: Mapping[str, Any]
) -> Tensor:
    """One run's attention, by the implementation that its model names."""
    name = module.config._attn_implementation
    mask = segment.visible if name.endswith("sdpa") else segment.bias
    hidden: Tensor = function_of(name)(module, *(x.transpose(1, 2) for x in part), mask, **named)[0]
    return hidden


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, lambda *_, **__: None)
