"""Prefix tuning: learned keys and values in every layer (Li & Liang 2021, arXiv 2101.00190).

    attention(Q, [P_K; K], [P_V; V])        with P_K, P_V (length, H) for each layer

split into heads like K and V and drawn from N(0, 0.02); no prefix leaves the pre-trained model's
outputs unchanged. With `reparametrization`, a width, a network in each layer computes them,

    [P_K, P_V] = W_2 tanh(W_1 E + b_1) + b_2        with E (length, H)

of which only P_K and P_V are stored. With `gated` both are multiplied by sigmoid(w q_0 + c), q_0
being the query of the row's first token (UniPELT, Mao et al. 2022, arXiv 2110.07577).

Where we differ: the authors share one W_1 and E among the layers, we do not; UniPELT gates by the
mean over a row's tokens, we by the first token, because a mean over a padded batch would let the
padding matter. ALBERT's layers share one prefix as they share their weights. With rotary positions
(ModernBERT, most decoders) the prefix has no position (its keys are not rotated), and local layers
see all of it. Where query heads share keys and values, the prefix is as narrow as these.
"""

import torch
from torch import Tensor, nn

from finegrid.errors import UserError
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.prefix import Prefix
from finegrid.models import surgery
from finegrid.models.attention import read_prefixes
from finegrid.models.sites import Sites


class ReparametrizedPrefix(Prefix):
    """A prefix computed by a network in training; its delta holds keys and values only."""

    def __init__(
        self, width: int, *, length: int, gate: int | None, hidden: int, inner: int
    ) -> None:
        super().__init__(width, length=length, gate=gate)
        del self.key, self.value
        self.embedding = nn.Parameter(torch.empty(length, hidden).normal_())
        self.network = nn.Sequential(
            nn.Linear(hidden, inner), nn.Tanh(), nn.Linear(inner, 2 * width)
        )

    def pair(self) -> tuple[Tensor, Tensor]:
        """The network's keys and values, or the ones loaded by `from_delta`; length H."""
        if "key" in self._parameters:
            return self.key, self.value
        with torch.autocast(
            self.embedding.device.type, enabled=False
        ):  # exactly what the delta stores
            key, value = self.network(self.embedding).chunk(2, dim=-1)
        return key, value

    @torch.no_grad()
    def to_delta(self) -> dict[str, Tensor]:
        """Keys, values and the gate, without the network."""
        key, value = self.pair()
        gate = {} if self.gate is None else self.gate.state_dict(prefix="gate.")
        return {"key": key.clone(), "value": value.clone()} | gate

    def from_delta(self, state: dict[str, Tensor]) -> None:
        """Load keys, values and gate and drop the network.

        Raises:
            UserError: if its shapes are not this prefix's.
        """
        tensors = self.to_delta()
        for name, value in tensors.items():
            if state[name].shape != value.shape:
                shapes = f"{tuple(state[name].shape)}, not {tuple(value.shape)}"
                raise UserError(f"the prefix's {name} has shape {shapes}")
            value.copy_(state[name])
        if "key" not in self._parameters:
            del self.embedding, self.network
        self.key, self.value = nn.Parameter(tensors["key"]), nn.Parameter(tensors["value"])


class PrefixTuning(TuningMethod):
    """Inject a prefix in every layer's attention."""

    starts_pretrained = False

    def __init__(
        self, *, length: int = YAML, reparametrization: int | None = YAML, gated: bool = YAML
    ) -> None:
        self.length, self.width, self.gated = length, reparametrization, gated

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach the prefixes and switch the backbone to an attention function that reads them.

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
            surgery.add_child(site.module, "prefix", self._made_for(sites))

    def _made_for(self, sites: Sites) -> Prefix:
        gate = sites.query_width if self.gated else None
        if self.width is None:
            return Prefix(sites.key_width, length=self.length, gate=gate)
        return ReparametrizedPrefix(
            sites.key_width,
            length=self.length,
            gate=gate,
            hidden=sites.hidden_size,
            inner=self.width,
        )
