"""Prefix tuning: learned keys and values in every layer (Li & Liang 2021, arXiv 2101.00190).

    attention(Q, [P_K; K], [P_V; V])        with P_K, P_V (length, H) for each layer

split into heads like K and V. They start from N(0, 0.02); a start equal to the pre-trained model
does not exist. With `reparametrization` a width, training goes through a network of each layer,

    [P_K, P_V] = W_2 tanh(W_1 E + b_1) + b_2        with E (length, H)

of which only P_K and P_V are kept. With `gated` a factor sigmoid(w q_0 + c), with q_0 the query of
the row's first token, scales both (UniPELT, Mao et al. 2022, arXiv 2110.07577).

Where we differ: the authors share one W_1 and E among the layers, we do not; UniPELT gates by the
mean over a row's tokens, we by the first token, because a mean over a padded batch would let the
padding matter. ALBERT's layers share one prefix as they share their weights. In ModernBERT the
prefix has no position (its keys are not rotated) and local layers see all of it.
"""

import torch
from torch import Tensor, nn

from finegrid.errors import UserError
from finegrid.methods.base import TuningMethod
from finegrid.methods.modules.adapter import Gate
from finegrid.models import surgery
from finegrid.models.attention import read_prefixes
from finegrid.models.sites import Sites


class Prefix(nn.Module):
    """Queries -> keys and values, B heads length d each, that come before the text's."""

    def __init__(self, hidden: int, *, length: int, gated: bool) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.empty(length, hidden).normal_(std=0.02))
        self.value = nn.Parameter(torch.empty(length, hidden).normal_(std=0.02))
        self.gate = Gate(hidden) if gated else None

    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values before they are split into heads: length H."""
        return self.key, self.value

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for each row of the queries, B heads T d."""
        rows, heads = query.shape[:2]
        key, value = (x.reshape(len(x), heads, -1).transpose(0, 1) for x in self.pair())
        key, value = key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)
        if self.gate is None:
            return key, value
        gate: Tensor = self.gate(query[:, :, 0].flatten(1))[..., None, None]  # B 1 1 1
        return gate * key, gate * value


class ReparametrizedPrefix(Prefix):
    """A prefix that a network makes while it trains; `expand` leaves the prefix alone."""

    def __init__(self, hidden: int, *, length: int, gated: bool, width: int) -> None:
        super().__init__(hidden, length=length, gated=gated)
        del self.key, self.value
        self.embedding = nn.Parameter(torch.empty(length, hidden).normal_())
        self.network = nn.Sequential(
            nn.Linear(hidden, width), nn.Tanh(), nn.Linear(width, 2 * hidden)
        )

    def pair(self) -> tuple[Tensor, Tensor]:
        """The network's keys and values, or those that `expand` set."""
        if "key" in self._parameters:
            return self.key, self.value
        with torch.autocast(self.embedding.device.type, enabled=False):  # the bits that are kept
            key, value = self.network(self.embedding).chunk(2, dim=-1)
        return key, value

    @torch.no_grad()
    def compact(self) -> dict[str, Tensor]:
        """What a plain prefix would hold: keys, values and the gate, without the network."""
        key, value = self.pair()
        gate = {} if self.gate is None else self.gate.state_dict(prefix="gate.")
        return {"key": key.clone(), "value": value.clone()} | gate

    def expand(self, state: dict[str, Tensor]) -> None:
        """Become the plain prefix that `compact` returned.

        Raises:
            UserError: if its shapes are not this prefix's.
        """
        own = self.compact()
        for name, value in own.items():
            if state[name].shape != value.shape:
                shapes = f"{tuple(state[name].shape)}, not {tuple(value.shape)}"
                raise UserError(f"the prefix's {name} has shape {shapes}")
            value.copy_(state[name])
        if "key" not in self._parameters:
            del self.embedding, self.network
        self.key, self.value = nn.Parameter(own["key"]), nn.Parameter(own["value"])


class PrefixTuning(TuningMethod):
    """Inject a prefix in every layer's attention."""

    starts_pretrained = False

    def __init__(self, *, length: int, reparametrization: int | None, gated: bool) -> None:
        self.length, self.width, self.gated = length, reparametrization, gated

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the prefixes and switch the backbone to attention that looks for them.

        Raises:
            UserError: for a length or width below one, or an attention that takes no prefix.
        """
        attentions = sites["attention"]
        if self.length < 1:
            raise UserError(f"method.length={self.length} must lie in [1, ...)")
        if self.width is not None and self.width < 1:
            raise UserError(
                f"method.reparametrization={self.width} must be null or lie in [1, ...)"
            )
        read_prefixes(backbone)
        for site in attentions:
            surgery.adopt(site.module, "prefix", self._made_for(sites.hidden_size))

    def _made_for(self, hidden: int) -> Prefix:
        if self.width is None:
            return Prefix(hidden, length=self.length, gated=self.gated)
        return ReparametrizedPrefix(hidden, length=self.length, gated=self.gated, width=self.width)
