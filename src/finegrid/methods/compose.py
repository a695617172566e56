"""Compositions: several methods applied to one backbone, in the order given.

A composition is a YAML, not code: `defaults: [bitfit@members.bitfit, lora@members.lora]`. Known
ones are MAM (prefix + parallel adapter; He et al. 2021, arXiv 2110.04366), UniPELT (gated prefix,
adapter and LoRA; Mao et al. 2021, arXiv 2110.07577) and DSEE (LoRA + sparse residual; Chen et al.
2023, arXiv 2111.00160). Two members may not change the same parameter or inject at the same name.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import HOOKS, Losses, Texts, TuningMethod, overrides
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    from finegrid.data.batching import TokenizedDataset


class Compose(TuningMethod):
    """Apply every member to one backbone; raises UserError where two overlap."""

    def __init__(self, *, members: Mapping[str, TuningMethod]) -> None:
        require(len(members) > 0, "method.members is empty; name the methods to compose")
        for name, member in members.items():
            require(
                not overrides(member, "search"),
                f"method.members.{name} searches for what trains, on a run's own budget; "
                "compose methods that do not, such as layers",
            )
            require(
                not overrides(member, "optimizer"),
                f"method.members.{name} has an optimizer of its own; compose methods that do not",
            )
        self.members = dict(members)
        self.starts_pretrained = all(member.starts_pretrained for member in self.each)
        self.positions = sum(member.positions for member in self.each)
        self._read_members()

    @property
    def each(self) -> tuple[TuningMethod, ...]:
        """The members in order."""
        return tuple(self.members.values())

    def read_task(self, task: Task) -> None:
        """Let every member know the task."""
        for member in self.each:
            member.read_task(task)

    def add_inputs(self, rows: "TokenizedDataset") -> None:
        """Let every member add what it reads."""
        for member in self.each:
            member.add_inputs(rows)

    def finish(self, backbone: Backbone) -> None:
        """Let every member finish."""
        for member in self.each:
            member.finish(backbone)

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Apply the members one after the other.

        Raises:
            UserError: naming both members, if two claim one parameter or one place.
        """
        names = _names(backbone)
        owners: dict[str, str] = {}
        for name, member in self.members.items():
            with surgery.track_ownership() as owned:
                member.apply(backbone, sites)
            for place in sorted(f"{names[key]}{child and '.' + child}" for key, child in owned):
                first = owners.setdefault(place, name)
                require(
                    first == name,
                    f"methods {first} and {name} both claim {place}; "
                    "compose methods that do not overlap",
                )

    def lr_ratio(self, name: str) -> float:
        """The product of the members' ratios, of which one at most is not 1."""
        return math.prod(member.lr_ratio(name) for member in self.each)

    def acts(self) -> tuple[str, ...]:
        """The hooks that any member relies on."""
        return tuple(hook for hook in HOOKS if any(hook in member.acts() for member in self.each))

    def choose(self, backbone: nn.Module, losses: Losses) -> None:
        """Let every member choose."""
        for member in self.each:
            member.choose(backbone, losses)

    def after_step(self, backbone: nn.Module, progress: float) -> bool:
        """Let every member change what trains."""
        changed = [member.after_step(backbone, progress) for member in self.each]
        self._read_members()
        return any(changed)

    def _read_members(self) -> None:
        """Take over what the members' phases have in common."""
        self.checkpointable = all(member.checkpointable for member in self.each)
        self.lr_scale = math.prod(member.lr_scale for member in self.each)
        losses = (member.phase_loss for member in self.each if member.phase_loss is not None)
        self.phase_loss = next(losses, None)
        self.texts_only = any(member.texts_only for member in self.each)

    def text_loss(self, texts: Texts) -> Tensor:
        """That of the first member in such a phase."""
        return next(member for member in self.each if member.texts_only).text_loss(texts)

    def added_loss(self, backbone: nn.Module) -> Tensor | None:
        """The sum of the members'."""
        losses = [member.added_loss(backbone) for member in self.each]
        there = [loss for loss in losses if loss is not None]
        return torch.stack(there).sum() if there else None

    def after_backward(self, backbone: nn.Module, progress: float) -> None:
        """Let every member change the gradients."""
        for member in self.each:
            member.after_backward(backbone, progress)


def _names(backbone: nn.Module) -> dict[int, str]:
    """id -> name of every parameter and module."""
    modules = {id(module): name for name, module in backbone.named_modules()}
    return modules | {id(parameter): name for name, parameter in backbone.named_parameters()}
