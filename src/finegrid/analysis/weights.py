"""The change that finished runs made to each parameter, beside random weights of its shape.

Only the encoder is measured: the head has no pre-trained counterpart.
"""

import copy
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from finegrid.config import ModelConfig
from finegrid.errors import UserError
from finegrid.inference import Restored, restore
from finegrid.models import backbone, heads, surgery
from finegrid.models.anatomy import LINEAR, POSITIONS
from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.runs import layout
from finegrid.runs.record import Record, read
from finegrid.seeds import stream

log = logging.getLogger(__name__)
KINDS = (*LINEAR, "layernorm", "pooler", "embeddings")  # in this order of preference
CACHED = 1 << 30  # bytes of restored runs; what they share is counted as if it were each one's
OTHER = "other"  # what plays none of these roles, such as DeBERTa's relative positions


@dataclass(frozen=True)
class ParameterChange:
    """One parameter of the encoder: pre-trained, fine-tuned and freshly initialised."""

    name: str  # in the whole model, such as bert.encoder.layer.0.output.dense.weight
    layer: int | None  # none: the embeddings and the pooler
    kind: str  # one of KINDS, or other; a bias is of its matrix's kind
    before: Tensor
    after: Tensor
    random: Tensor

    @property
    def delta(self) -> Tensor:
        """Fine-tuned less pre-trained, fp64: the difference of two fp32 numbers is exact in it."""
        return self.after.double() - self.before.double()

    @property
    def columns(self) -> dict[str, object]:
        """The columns that say which parameter a row is about."""
        named = {"layer": self.layer, "kind": self.kind, "name": self.name}
        return {**named, "numel": self.before.numel()}


@dataclass(frozen=True)
class Solution:
    """A finished run, the weights that it started from, and random ones of the same shapes."""

    run: Restored
    start: Backbone
    random: Backbone

    def changes(self) -> Iterator[ParameterChange]:
        """The encoder's parameters one by one, with what was injected merged where it merges."""
        prefix = f"{self.start.model.base_model_prefix}."
        random = dict(self.random.model.named_parameters())
        for name, before in self.start.model.named_parameters():
            if name.startswith(prefix):
                layer, kind = place(name, self.start.sites)
                after = _effective(self.run.model, name)
                yield ParameterChange(
                    name, layer, kind, before.detach(), after, random[name].detach()
                )

    def unmerged(self) -> dict[str, nn.Module]:
        """Path -> injected module that no change of weights could replace; no distance sees it."""
        return dict(surgery.unmergeable(self.run.model))


class Weights:
    """Restores runs; the weights that they start from are in memory once.

    Small restored runs are cached: in a comparison of pairs each comes often.
    """

    def __init__(self, *, model_path: str | None = None, allow: Collection[str] = ()) -> None:
        self._model_path, self._allow = model_path, allow
        self._loaded: dict[str, Backbone] = {}
        self._cached: dict[Path, Solution] = {}
        self._room = CACHED

    def solution(self, directory: Path) -> Solution:
        """Restore a finished run.

        Raises:
            UserError: if it is unfinished, or its delta belongs to another backbone or method.
        """
        if directory in self._cached:
            return self._cached[directory]
        run = restore(directory, model_path=self._model_path, allow=self._allow, build=self._copy)
        solution = self.of(run)
        self._room -= sum(value.nbytes for value in run.model.parameters())
        if self._room >= 0:
            self._cached[directory] = solution
        return solution

    def of(self, run: Restored) -> Solution:
        """A restored run, in eval mode from now on, beside its start."""
        run.model.eval()
        model, seed = run.config.model, stream(run.config.seed, "init")
        auto_class = run.auto_class
        start = self._copy(model, outputs=run.task.outputs, seed=seed, auto_class=auto_class)
        heads.of(run.config.head).attach(start, run.task, lambda: run.tokenizer)
        fresh = replace(model, pretrained=False)
        return Solution(run, start, self._load(fresh, outputs=2, seed=stream(0, "random")))

    def _copy(self, model: ModelConfig, *, outputs: int, seed: int, auto_class: str) -> Backbone:
        base = self._load(model, outputs=outputs, seed=seed, auto_class=auto_class)
        return base.sharing(seed=seed)

    def _load(
        self, model: ModelConfig, *, outputs: int, seed: int, auto_class: str = backbone.HEAD
    ) -> Backbone:
        key = repr((model, outputs, auto_class, None if model.pretrained else seed))
        if key not in self._loaded:
            new = backbone.build(model, outputs=outputs, seed=seed, auto_class=auto_class)
            for known in self._loaded.values():
                if known.fingerprint == new.fingerprint:
                    _share(known, new)
            self._loaded[key] = new
        return self._loaded[key]


def finished(directories: Iterable[Path]) -> dict[Path, Record]:
    """The finished runs at or below the directories; of several runs of one cell, the last.

    Trials of a search for a learning rate are left out, unless named themselves.

    Raises:
        UserError: if there is none below one of them.
    """
    latest: dict[str, tuple[Path, Record]] = {}
    for directory in directories:
        runs = dict(_below(directory))
        if not runs:
            raise UserError(f"no finished run at or below {directory}; name a run or a sweep")
        for path, record in sorted(runs.items(), key=lambda item: item[1].started):
            latest[record.cell or str(path)] = path, record
    return dict(latest.values())


def _below(directory: Path) -> Iterator[tuple[Path, Record]]:
    for path in layout.run_directories(directory):
        if path == directory:  # named itself
            yield directory, read(directory)
            return
        try:
            record = read(path)
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        if record.status == "ok" and record.trial is None:
            yield path, record


def place(name: str, sites: Sites) -> tuple[int | None, str]:
    """(layer, kind) of a parameter."""
    if name.rpartition(".")[0].endswith(POSITIONS):
        return None, "embeddings"
    for role in filter(sites.__contains__, (*KINDS, "layer")):
        for site in sites[role]:
            if name.startswith(f"{site.name}."):
                return site.layer, OTHER if role == "layer" else role
    return None, OTHER


@torch.no_grad()
def _effective(model: nn.Module, name: str) -> Tensor:
    """The value that a forward pass uses: a merged copy where something is injected at its site."""
    path, _, tensor = name.rpartition(".")
    site = model.get_submodule(path)
    if hasattr(site, "injected") and not any(surgery.unmergeable(site)):
        site = copy.deepcopy(site)
        surgery.merge(site)
    value: Tensor = getattr(site, tensor)
    return value.detach()


def _share(known: Backbone, new: Backbone) -> None:
    """Share the storage of the encoder's parameters, which are bit-identical in both."""
    pairs = zip(known.model.base_model.parameters(), new.model.base_model.parameters(), strict=True)
    for mine, other in pairs:
        other.data = mine.data
