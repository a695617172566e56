"""Cached features: compute the frozen lower layers once a split (`frozen_dropout=false`).

These are all that lies below what trains: the embeddings, and the layers below the first in which a
parameter trains or a module was injected; every layer where there is no such one. Without dropout
their output for a row is the same in each epoch and evaluation. So it is computed before the timer
starts and cached in memory. Heads read one state a row: where no layer trains only that one is
cached, and on disk too, for all runs on the same rows and weights. A decoder's is its last token's,
after all layers and the norm above them; where some of its layers train nothing is cached.

Prior art: linear probes on stored features; AutoFreeze (Liu et al. 2021, arXiv 2102.01386) stores
the outputs of frozen layers.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from finegrid import __version__
from finegrid.config import Budget, RunConfig
from finegrid.data.batching import TokenizedDataset, sorted_batches
from finegrid.methods.base import TuningMethod, overrides
from finegrid.models import heads
from finegrid.models.backbone import Backbone
from finegrid.models.layered import LAYERED
from finegrid.storage import cache
from finegrid.storage.cache import Array
from finegrid.strategies import split_model
from finegrid.training import heartbeat
from finegrid.training.budget import epochs as budget_epochs
from finegrid.training.module import EVAL_TOKENS

log = logging.getLogger(__name__)
LIMIT = 2 << 30  # bytes of hidden states that a run keeps
FORMAT = 1  # of an entry on disk


@dataclass(frozen=True)
class Features:
    """Hidden states of rows, end to end; row i lies from `offsets[i]` to the next offset."""

    states: Tensor
    offsets: Array

    def batch(self, index: Sequence[int]) -> Tensor:
        """B T H; a row is padded with its last state, since attention does not see it."""
        starts, stops = (self.offsets[np.asarray(index) + more][:, None] for more in (0, 1))
        columns = np.arange(int((stops - starts).max()))
        places = torch.from_numpy(np.minimum(starts + columns, stops - 1))
        return functional.embedding(places, self.states)


class CacheFeatures(pl.Callback):
    """Switches off the dropout of a run's frozen layers, and caches their outputs.

    It comes after the method, which decides what trains.
    """

    def __init__(
        self, method: TuningMethod, encoded: Mapping[str, TokenizedDataset], config: RunConfig
    ) -> None:
        self.method, self.config = method, config
        self.one_state = heads.of(config.head).one_state
        seen = encoded if config.trial is None else ("train", "validation")  # a trial is not tested
        self.encoded = {name: encoded[name] for name in seen}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compute the features, between the method's surgery and the first step."""
        module: Any = pl_module
        backbone: Backbone = module.backbone
        depth = split_model.depth(backbone)
        if obstacle := _obstacle(self.method, backbone, depth):
            log.info("frozen_dropout=false changes nothing: %s", obstacle)
            return
        _quiet(backbone, depth)
        quiet = f"no dropout in the embeddings and {depth} of {backbone.sites.n_layers} layers"
        layers = FrozenLayers(
            backbone,
            depth,
            str(trainer.precision),
            self.config.data.eval_batch_size,
            one_state=self.config.task.ONE_STATE,
        )
        if reason := self._reason(layers):
            log.info("%s; they run in every pass: %s", quiet, reason)
            return
        split_model.split_at(backbone, depth)
        cached = [name for name, rows in self.encoded.items() if self._cache(layers, name, rows)]
        log.info("%s; their outputs are cached: %s", quiet, ", ".join(cached))

    def _cache(self, layers: "FrozenLayers", name: str, encoded: TokenizedDataset) -> bool:
        """Give a split's batches their features; False if they are not worth computing."""
        features = layers.features(encoded, compute=self._worth(name, encoded))
        if features is not None:
            encoded.extra_inputs["features"] = features.batch
        return features is not None

    def _worth(self, name: str, encoded: TokenizedDataset) -> bool:
        """Whether a split's rows meet the model often enough for a pass over all of them."""
        config = self.config
        return name != "train" or repeats(config.budget, encoded, config.data.batch_size)

    def _reason(self, layers: "FrozenLayers") -> str | None:
        """Why the layers' outputs are not cached, if they are not."""
        if not self.one_state:
            return "the head reads other states than the first"
        sites = layers.backbone.sites
        if not self.config.task.FUSES:
            return "a row of the task is not one sequence"
        if layers.depth == 0:
            return "embeddings are as quick as memory"
        if sites.architecture not in LAYERED and not (sites.decoder and layers.all_layers):
            return f"{sites.architecture} cannot start from hidden states"
        size = sum(map(layers.size, self.encoded.values()))
        return f"their outputs take {size:,} bytes" if size > LIMIT else None


def _obstacle(method: TuningMethod, backbone: Backbone, depth: int) -> str | None:
    """Why no part is frozen throughout, if none is."""
    model: Any = backbone.model
    if overrides(method, "after_step"):
        return "the method changes what trains on the way"
    if depth < 0:
        return "something trains in the embeddings, or the layers are not known"
    if depth < backbone.sites.n_layers < model.config.num_hidden_layers:
        return "all layers are one, in which something trains"
    return None


def _quiet(backbone: Backbone, depth: int) -> None:
    """Switch off the dropout of the frozen layers; poolers, which may lie beside all, have none."""
    sites = backbone.sites
    if depth == sites.n_layers:
        _keep_eval(backbone.model.base_model)
    else:
        # GPT-2's dropout of embeddings lies beside them
        beside = [x for x in backbone.model.base_model.children() if isinstance(x, nn.Dropout)]
        lowest = [site.module for site in (*sites["embeddings"], *sites["layer"][:depth])]
        for module in (*beside, *lowest):
            _keep_eval(module)


def _keep_eval(module: torch.nn.Module) -> None:
    """Keep a module in eval mode, without dropout, whatever mode the model around it is in."""
    module.eval()
    module.__dict__["train"] = lambda mode=True: module


def repeats(budget: Budget, rows: TokenizedDataset, batch_size: int) -> bool:
    """Whether training meets each row at least once, as far as its budget tells."""
    passes = budget_epochs(budget, rows, batch_size)
    return passes is None or passes >= 1


class FrozenLayers:
    """A backbone's embeddings and lowest layers: rows -> the hidden states that leave them."""

    def __init__(
        self,
        backbone: Backbone,
        depth: int,
        precision: str,
        batch_size: int,
        *,
        one_state: bool = True,
    ) -> None:
        """`one_state`: the head reads one state of a row alone, where no layer follows."""
        self.backbone, self.depth = backbone, depth
        self.precision, self.batch_size = precision, batch_size
        self.all_layers = one_state and depth == backbone.sites.n_layers
        self.dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32

    def size(self, encoded: TokenizedDataset) -> int:
        """Bytes of the states that are cached of a split."""
        return int(self._offsets(encoded)[-1]) * self._width * self.dtype.itemsize

    def features(self, encoded: TokenizedDataset, *, compute: bool) -> Features | None:
        """The states of a split: from disk, or else computed if they shall be."""
        path = self._place(encoded) if self.all_layers else None
        stored = path and cache.read(path)
        if stored:
            return Features(self._unpacked(stored["states"]), self._offsets(encoded))
        if not compute:
            return None
        computed = self._computed(encoded)
        if path:
            cache.keep(path, {"states": _packed(computed.states)})
        return computed

    def _computed(self, encoded: TokenizedDataset) -> Features:
        model, offsets = self.backbone.model.eval(), self._offsets(encoded)
        hidden = torch.empty(int(offsets[-1]), self._width, dtype=self.dtype)
        kind = model.device.type
        batches = sorted_batches(encoded, self.batch_size, tokens=EVAL_TOKENS[kind])
        mixed = torch.autocast(kind, torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        with torch.inference_mode(), mixed:
            for index, batch in batches:
                inputs = {
                    name: batch[name].to(model.device)
                    for name in split_model.INPUTS
                    if name in batch
                }
                for row, h in zip(index, split_model.states(model, inputs).cpu(), strict=True):
                    start, stop = offsets[row], offsets[row + 1]
                    hidden[start:stop] = h[: stop - start]
                heartbeat.beat()
        return Features(hidden, offsets)

    def _offsets(self, encoded: TokenizedDataset) -> Array:
        """Where each row's states begin; it has one, or as many as tokens."""
        return np.arange(len(encoded) + 1) if self.all_layers else encoded.tokens.offsets

    @property
    def _width(self) -> int:
        return self.backbone.sites.hidden_size

    def _place(self, encoded: TokenizedDataset) -> Path:
        """Where on disk a split's states lie: by all that decides them."""
        model: Any = self.backbone.model
        about = {
            "config": model.config.to_dict() | {"_name_or_path": ""},
            "weights": self.backbone.fingerprint,
            "arithmetic": [self.precision, model.device.type, self.depth],
            "versions": [__version__, torch.__version__, transformers.__version__, FORMAT],
            "padding": encoded.tokens.padding,
        }
        text = json.dumps(about, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        tokens = encoded.tokens
        for name, array in sorted({**tokens.fields, "offsets": tokens.offsets}.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return cache.place(f"features/{digest.hexdigest()}")

    def _unpacked(self, states: Array) -> Tensor:
        return torch.from_numpy(states).view(self.dtype)


def _packed(states: Tensor) -> Array:
    """Hidden states as numpy has them, which knows no bf16."""
    return states.view(torch.int16 if states.dtype == torch.bfloat16 else states.dtype).numpy()
