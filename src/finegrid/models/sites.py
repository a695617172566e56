"""Sites: the modules of an encoder by their role, for all supported architectures.

A tuning method asks for a role (`sites["query"]`); the table `ANATOMY` says under which name each
architecture has it. Patterns are relative to the base model; `*` stands for one layer number.

    embeddings                      ids -> B T E (E may be narrower than H: ALBERT, small ELECTRA)
    word_embeddings                 Embedding, ids -> B T E, before positions and types are added
    layer                           one transformer layer
    attention                       calls the attention function: heads, H split into d each
    query key value, or fused qkv   Linear, H -> H (or 3H)
    attention_output                Linear, H -> H, after the attention heads
    intermediate, output            Linear, the first and second matrix of the feed-forward block
    attention_norm, output_norm     LayerNorm after the residual sum; post-LN architectures only
    attention_block, output_block   the module whose output, B T H, is added to the residual as is
    pooler                          what turns B T H into B H, where the base model has it itself
    layernorm                       every LayerNorm, by its type, the embeddings' included
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from finegrid.errors import UserError


def _anatomy(root: str, roles: dict[str, str]) -> dict[str, str]:
    """The roles of one layer put below the layers' path `root`, and the embeddings."""
    embeddings = {"embeddings": "embeddings", "word_embeddings": "embeddings.word_embeddings"}
    return embeddings | {role: f"{root}{path}" for role, path in roles.items()}


# fmt: off
_BERT = _anatomy("encoder.layer.*", {
    "layer": "", "attention": ".attention.self", "query": ".attention.self.query",
    "key": ".attention.self.key", "value": ".attention.self.value",
    "attention_output": ".attention.output.dense", "attention_block": ".attention.output.dropout",
    "attention_norm": ".attention.output.LayerNorm",
    "intermediate": ".intermediate.dense", "output": ".output.dense",
    "output_block": ".output.dropout", "output_norm": ".output.LayerNorm",
})
# v3 projects its relative positions with query and key too: a hook there also meets 1 P H.
# It computes its disentangled attention itself, without the shared attention functions.
_DEBERTA = {role: path for role, path in _BERT.items() if role != "attention"} | {
    role: f"encoder.layer.*.attention.self.{role}_proj" for role in ("query", "key", "value")
}
_DISTILBERT = _anatomy("transformer.layer.*", {
    "layer": "", "attention": ".attention", "query": ".attention.q_lin",
    "key": ".attention.k_lin", "value": ".attention.v_lin",
    "attention_output": ".attention.out_lin",
    "attention_block": ".attention.out_lin",  # no dropout between it and the sum
    "attention_norm": ".sa_layer_norm",
    "intermediate": ".ffn.lin1", "output": ".ffn.lin2", "output_block": ".ffn.dropout",
    "output_norm": ".output_layer_norm",
})
# All layers of a group are one physical layer, called again and again: a role has one site, and a
# hook there runs `num_hidden_layers` times a pass. Two stars: the group, the layer inside it.
_ALBERT = _anatomy("encoder.albert_layer_groups.*.albert_layers.*", {
    "layer": "", "attention": ".attention",
    "query": ".attention.query", "key": ".attention.key", "value": ".attention.value",
    "attention_output": ".attention.dense", "attention_block": ".attention.output_dropout",
    "attention_norm": ".attention.LayerNorm", "intermediate": ".ffn", "output": ".ffn_output",
    "output_block": ".ffn_output",  # the layer has a `dropout` but never calls it
    "output_norm": ".full_layer_layer_norm",
})
# Pre-LN: its norms stand before the sub-layers, so no role is called a norm here.
_MODERNBERT = _anatomy("layers.*", {
    "layer": "", "attention": ".attn", "qkv": ".attn.Wqkv",
    "attention_output": ".attn.Wo", "attention_block": ".attn.out_drop",
    "intermediate": ".mlp.Wi", "output": ".mlp.Wo", "output_block": ".mlp",  # gated: Wi is H -> 2F
}) | {"word_embeddings": "embeddings.tok_embeddings"}
# fmt: on

ANATOMY: dict[str, dict[str, str]] = {
    "bert": _BERT | {"pooler": "pooler"},
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "albert": _ALBERT | {"pooler": "pooler"},
    "modernbert": _MODERNBERT,
}


# Architectures that are embeddings, then layers, each a module: others make positions or masks, or
# pool, between them.
LAYERED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
LINEAR = ("query", "key", "value", "qkv", "attention_output", "intermediate", "output")


class SiteError(UserError, LookupError):
    """An architecture without an anatomy, or a role that an architecture does not have."""


@dataclass(frozen=True)
class Site:
    """One module in its role; `name` is its path in the whole model, `layer` counts from 0."""

    name: str
    module: nn.Module
    layer: int | None


def need_anatomy(architecture: str) -> None:
    """Check that `ANATOMY` knows a model type.

    Raises:
        SiteError: naming the known ones.
    """
    if architecture not in ANATOMY:
        raise SiteError(
            f"no anatomy for architecture {architecture!r} "
            f"(known: {', '.join(ANATOMY)}); give its roles as `sites:` in the model's YAML"
        )


class Sites:
    """The modules of a model by role.

    `prefix` is the base model's path in it, e.g. `bert`; empty if the model is a base model.
    """

    def __init__(self, model: nn.Module, anatomy: Mapping[str, str], prefix: str) -> None:
        self._config: Any = getattr(model, "config", None)
        below = f"{prefix}." if prefix else ""
        self._patterns = {role: f"{below}{path}" for role, path in anatomy.items()}
        self.architecture = str(getattr(self._config, "model_type", type(model).__name__))
        matched = {role: _match(model, pattern) for role, pattern in self._patterns.items()}
        numbers = sorted({n for matches in matched.values() for n, _, _ in matches if n})
        rank = {number: layer for layer, number in enumerate(numbers)}
        self._sites = {
            role: [Site(name, module, rank.get(n)) for n, name, module in matches]
            for role, matches in matched.items()
        }
        self._sites["layernorm"] = self._norms(model, below)
        self.in_table = positions(model)
        self.n_layers = len(numbers)  # layers with weights of their own: 1 for ALBERT

    @classmethod
    def of(cls, model: nn.Module) -> "Sites":
        """The sites of a transformers model; raises SiteError where `ANATOMY` lacks its type."""
        config: Any = model.config
        need_anatomy(config.model_type)
        prefix = "" if model.base_model is model else str(model.base_model_prefix)
        return cls(model, ANATOMY[config.model_type], prefix)

    def __getitem__(self, role: str) -> list[Site]:
        """The sites of a role in layer order, never empty; raises SiteError with the choices."""
        if role in self:
            return list(self._sites[role])
        why = f"{self.architecture} has no role {role!r}"
        if role in self._patterns:
            why = f"{self.architecture}: {role} = {self._patterns[role]!r} matches no module"
        raise SiteError(f"{why} (roles found: {', '.join(self.roles) or 'none'})")

    def __contains__(self, role: object) -> bool:
        """Whether the role exists here and matches at least one module."""
        return bool(self._sites.get(str(role)))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that match at least one module, in the order of the anatomy."""
        return tuple(role for role, sites in self._sites.items() if sites)

    def select(
        self, roles: Sequence[str] | None, layers: Sequence[int] | str | None
    ) -> list[tuple[str, Site]]:
        """(role, site) of the roles in the chosen layers.

        `roles`: null for every weight matrix of the layers. `layers`: null for all, a list of
        numbers (-1 is the last), `top-K` or `bottom-K`. What lies in no layer, such as the
        embeddings, is not subject to the choice of layers.
        """
        numbers = {None, *self.numbers(layers)}
        return [
            (role, site)
            for role in (self.linear if roles is None else roles)
            for site in self[role]
            if site.layer in numbers
        ]

    def matrices(
        self, roles: Sequence[str] | None, layers: Sequence[int] | str | None
    ) -> list[tuple[nn.Module, nn.Parameter]]:
        """(module, its raw weight) of the matrices that `select` selects.

        Raises:
            SiteError: if a role is no weight matrix.
        """
        chosen = self.select(roles, layers)
        for role, site in chosen:
            if not isinstance(site.module, nn.Linear):
                raise SiteError(
                    f"method.roles: {role!r} is no weight matrix of {self.architecture}; "
                    f"choose among {', '.join(self.linear)}"
                )
        # the raw parameter, past a property that `reparametrize` may have put over it
        return [(site.module, site.module._parameters["weight"]) for _, site in chosen]  # type: ignore[misc]

    def numbers(self, layers: Sequence[int] | str | None) -> list[int]:
        """The layers meant by null (all), a list, `top-K` or `bottom-K`."""
        every = list(range(self.n_layers))
        if layers is None:
            return every
        if isinstance(layers, str):
            end, _, count = layers.partition("-")
            good = end in ("top", "bottom") and count.isdecimal() and 1 <= int(count) <= len(every)
            if good:
                return every[-int(count) :] if end == "top" else every[: int(count)]
        elif layers and all(-len(every) <= n < len(every) for n in layers):
            return sorted({n % len(every) for n in layers})
        raise SiteError(
            f"method.layers={layers} is no choice among the {len(every)} layers of "
            f"{self.architecture}; give numbers such as [0,-1], top-2, bottom-2, or null for all"
        )

    @property
    def linear(self) -> tuple[str, ...]:
        """The roles of the layers' weight matrices that exist here."""
        return tuple(role for role in LINEAR if role in self)

    def _norms(self, model: nn.Module, prefix: str) -> list[Site]:
        """Every LayerNorm below the base model, with the layer that it lies in."""
        layers = [(f"{site.name}.", site.layer) for site in self._sites.get("layer", ())]
        return [
            Site(name, module, next((n for path, n in layers if name.startswith(path)), None))
            for name, module in model.named_modules()
            if isinstance(module, nn.LayerNorm) and name.startswith(prefix)
        ]

    @property
    def positions(self) -> int:
        """Longest input in tokens, by the position table or else by the config."""
        return self.in_table or int(self._config.max_position_embeddings)

    @property
    def hidden_size(self) -> int:
        """H, the width of the residual stream."""
        return int(self._config.hidden_size)


def positions(model: nn.Module) -> int | None:
    """Rows of the position table that tokens can use; RoBERTa's start after its padding id."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            return module.num_embeddings - (0 if padding is None else padding + 1)
    return None


def _match(model: nn.Module, pattern: str) -> list[tuple[tuple[int, ...], str, nn.Module]]:
    """(numbers that the stars stand for, name, module) of every match, in the model's order."""
    regex = re.compile(r"(\d+)".join(map(re.escape, pattern.split("*"))))
    hits = ((regex.fullmatch(name), name, module) for name, module in model.named_modules())
    return [(tuple(map(int, hit.groups())), name, module) for hit, name, module in hits if hit]
