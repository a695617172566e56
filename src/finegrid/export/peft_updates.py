"""What the peft library calls LoRA's relatives: types, settings and tensors of each update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finegrid.methods.adalora import Triplets
from finegrid.methods.dora import WeightDecomposed
from finegrid.methods.fourierft import SpectralUpdate
from finegrid.methods.hira import HadamardFactor
from finegrid.methods.loha import HadamardUpdate
from finegrid.methods.lokr import KroneckerUpdate
from finegrid.methods.lora import FrozenDown
from finegrid.methods.miss import ShardUpdate
from finegrid.methods.modules.update import LowRank
from finegrid.methods.oft import Rotation
from finegrid.methods.pissa import Principal
from finegrid.methods.randlora import BasesUpdate
from finegrid.methods.vera import VectorUpdate

Settings = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A type of peft: `settings` of one update, and its tensors below the site."""

    peft_type: str
    settings: Callable[[Any], Settings]
    names: Mapping[str, str]  # of our parameters -> theirs
    tensors: Callable[[Any], dict[str, Tensor]] | None = None  # in place of the parameters
    pattern: Callable[[Any], list[bool]] | None = None  # which of its ranks an update has left

    def of(self, child: Any) -> dict[str, Tensor]:
        """Their name -> tensor of one update."""
        ours = self.tensors(child) if self.tensors else dict(child.named_parameters())
        return {self.names[name]: value for name, value in ours.items()}


def _lora(child: Any) -> Settings:
    rank = len(child.a)
    return {
        "r": rank,
        "lora_alpha": child.scale * rank,
        "lora_dropout": getattr(child.dropout, "p", 0.0),
    }


def _pissa(child: Any) -> Settings:
    """The start's factors count as further ranks, so that the stock weight fits."""
    return {"r": 2 * len(child.a), "lora_alpha": 2 * len(child.a) * child.scale}


def _both_products(child: Any) -> dict[str, Tensor]:
    return {
        "a": torch.cat([child.a, child.first_a]),
        "b": torch.cat([child.b, -child.first_b], dim=1),
    }


def _triplets(child: Any) -> Settings:
    """peft divides by the rank at the start, and asks for a schedule that it does not need."""
    rank = len(child.values)
    return {"init_r": rank, "lora_alpha": child.scale * rank, "total_step": 1}


def _left_triplets(child: Any) -> dict[str, Tensor]:
    stored = child.to_delta()
    return {
        "left": stored["left"].mT,
        "values": stored["values"][:, None],
        "right": stored["right"],
    }


def _shared(child: Any) -> Settings:
    return {"projection_prng_key": child.shared.key, "save_projection": False}


AB = {"a": "lora_A.weight", "b": "lora_B.weight"}
KINDS: dict[type, Kind] = {
    LowRank: Kind("LORA", _lora, AB),
    FrozenDown: Kind("LORA", _lora, AB),
    WeightDecomposed: Kind(
        "LORA", lambda c: _lora(c) | {"use_dora": True}, AB | {"magnitude": "lora_magnitude_vector"}
    ),
    Principal: Kind("LORA", _pissa, AB, _both_products),
    Triplets: Kind(
        "ADALORA",
        _triplets,
        {"left": "lora_B", "values": "lora_E", "right": "lora_A"},
        _left_triplets,
        lambda c: (c.values != 0).tolist(),
    ),
    VectorUpdate: Kind(
        "VERA",
        lambda c: {"r": len(c.d)} | _shared(c),
        {"d": "vera_lambda_d", "b": "vera_lambda_b"},
    ),
    BasesUpdate: Kind(
        "RANDLORA",
        lambda c: {"r": c.shared.rank, "randlora_alpha": c.scale * c.shared.rank} | _shared(c),
        {"by_rank": "randlora_lambda", "by_unit": "randlora_gamma"},
    ),
    HadamardUpdate: Kind(
        "LOHA",
        lambda c: {"r": len(c.a1), "alpha": c.scale * len(c.a1)},
        {"b1": "hada_w1_a", "a1": "hada_w1_b", "b2": "hada_w2_a", "a2": "hada_w2_b"},
    ),
    KroneckerUpdate: Kind(
        "LOKR",
        lambda c: {"r": c.rank, "alpha": c.scale * c.rank},
        {"c": "lokr_w1", "d": "lokr_w2", "b": "lokr_w2_a", "a": "lokr_w2_b"},
    ),
    HadamardFactor: Kind("HIRA", lambda c: {"r": len(c.a)}, {"a": "hira_A", "b": "hira_B"}),
    SpectralUpdate: Kind(
        "FOURIERFT",
        lambda c: {
            "n_frequency": len(c.spectrum),
            "scaling": c.scaling,
            "random_loc_seed": c.key,
        },
        {"spectrum": "fourierft_spectrum"},
    ),
    ShardUpdate: Kind("MISS", lambda c: {"r": len(c.d)}, {"d": "miss_block"}),
    Rotation: Kind(
        "OFT",
        lambda c: {"oft_block_size": c.block, "use_cayley_neumann": False},
        {"q": "oft_R.weight"},
    ),
}
