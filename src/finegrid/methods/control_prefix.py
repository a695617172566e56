"""Control prefixes: an attribute's value chooses keys and values (Clive et al. 2022, 2110.08329).

    attention(Q, [C_K^a; P_K; K], [C_V^a; P_V; V])

in every layer, with the general prefix P (length, H) of all rows, as in prefix tuning, and a
prefix C^a (control_length, H) for each value a of an attribute of the row: what `task.attribute`,
a column, says of it. The values are those of the training rows. A row with another value, or none,
sees the general prefix alone. All are drawn from N(0, 0.02).

Where we differ: the paper's model is an encoder-decoder, whose decoder and cross-attention have
prefixes of their own; ours is one stack. The authors compute both prefixes by one network for each
kind of attention, so that they share its weights; here the keys and values train themselves, and
nothing is shared. They have several attributes at once, we one. For values that no training row
has they use prefixes of zeros, which take a share of the attention; ours are hidden.

A pass that tells no attribute, as in a loop of one's own, is read as having the only value where
there is one, else as having none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.attribute import INPUT, add_numbers
from finegrid.methods.modules.prefix import Prefix
from finegrid.models import surgery
from finegrid.models.attention import read_prefixes
from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.tasks.task import Task

if TYPE_CHECKING:
    from finegrid.data.batching import TokenizedDataset


class Attribute(nn.Module):
    """The attribute of the rows of a pass; the model tells it before its layers run."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.numbers: Tensor | None = None  # B

    def of(self, query: Tensor) -> Tensor:
        """The number of each row's value, B; -1: none."""
        if self.numbers is None:
            only = 0 if self.values == 1 else -1
            return torch.full((len(query),), only, device=query.device)
        return self.numbers


class ControlledPrefix(Prefix):
    """A layer's general prefix and those of an attribute's values.

    Queries B heads T d -> keys and values, B heads (control_length + length) d each.
    """

    def __init__(self, width: int, attribute: Attribute, *, length: int, control: int) -> None:
        super().__init__(width, length=length, gate=None)
        self.attribute = attribute
        shape = (attribute.values, control, width)
        self.control_key = nn.Parameter(torch.empty(shape).normal_(std=0.02))
        self.control_value = nn.Parameter(torch.empty(shape).normal_(std=0.02))

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for each row of the queries."""
        chosen, d = self.attribute.of(query).clamp(min=0), query.shape[-1]
        controls = [
            x[chosen].reshape(len(query), x.shape[1], -1, d).transpose(1, 2)
            for x in (self.control_key, self.control_value)
        ]
        key, value = (
            torch.cat([control, general], dim=2)
            for control, general in zip(controls, super().forward(query), strict=True)
        )
        return key, value

    def seen(self, query: Tensor) -> Tensor | None:
        """A row without one of the values sees the general keys alone."""
        known = self.attribute.of(query) >= 0
        if known.all():
            return None
        control, length = self.control_key.shape[1], len(self.key)
        return torch.cat(
            [
                known[:, None].expand(-1, control),
                torch.ones_like(known)[:, None].expand(-1, length),
            ],
            dim=1,
        )


def _take(model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Take the attribute out of a pass's inputs, which the model itself does not know."""
    attribute: Any = model.base_model.get_submodule("control_prefix")
    attribute.numbers = named.pop(INPUT, None)
    return inputs, named


def _forget(model: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep the attribute for the backward pass alone, which may compute layers again."""
    if not model.training:
        model.base_model.get_submodule("control_prefix").numbers = None


class ControlPrefix(TuningMethod):
    """Inject general prefixes in every layer's attention, and such that an attribute chooses."""

    starts_pretrained = False

    def __init__(self, *, length: int = YAML, control_length: int = YAML) -> None:
        for name, value in (("length", length), ("control_length", control_length)):
            require(value >= 1, f"method.{name}={value} must lie in [1, ...)")
        self.length, self.control_length = length, control_length
        self.values: Sequence[str] = ()  # of the attribute

    def read_task(self, task: Task) -> None:
        """Learn the attribute's values, which only the training rows tell.

        Raises:
            UserError: for a task without an attribute, whose attribute is the label, or whose rows
                are several sequences or texts to be generated.
        """
        require(
            task.attribute is not None,
            "method=control_prefix chooses prefixes by an attribute of the row; name its column, "
            "+task.attribute=COLUMN (task=custom: task.attribute=COLUMN), or use method=prefix",
        )
        require(
            task.attribute not in task.label_columns,
            f"task.attribute={task.attribute} is the label, which test rows must not tell",
        )
        require(task.FUSES, f"method=control_prefix does not fit task.kind={task.kind}")
        self.values = task.attribute_values

    def add_inputs(self, rows: "TokenizedDataset") -> None:
        """Let a batch hold the number of each row's value.

        Raises:
            UserError: if the rows have come without their attribute.
        """
        require(
            len(rows.attributes) == len(rows),
            "the run's method=control_prefix reads an attribute of each row, which is not told "
            "here: Run.predict takes attribute=, finegrid predict the attribute's column of a file",
        )
        add_numbers(rows, self.values)

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the prefixes, and to the backbone what tells them the attribute.

        Raises:
            UserError: for an attention that takes no prefix.
        """
        attentions = sites["attention"]
        read_prefixes(backbone)
        attribute = Attribute(max(1, len(self.values)))
        surgery.add_child(backbone, "control_prefix", attribute)
        for site in attentions:
            prefix = ControlledPrefix(
                sites.key_width, attribute, length=self.length, control=self.control_length
            )
            surgery.add_child(site.module, "prefix", prefix)

    def finish(self, backbone: Backbone) -> None:
        """Let the model take the attribute of a pass."""
        hooks = backbone.model._forward_pre_hooks
        if _take not in hooks.values():
            backbone.model.register_forward_pre_hook(_take, with_kwargs=True)
            backbone.model.register_forward_hook(_forget)
