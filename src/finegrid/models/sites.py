"""Sites: the modules of an encoder or decoder by their role, for all supported architectures.

A tuning method asks for a role (`sites["query"]`); `models.anatomy` says under which name each
architecture has it.
"""

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from finegrid.errors import UserError
from finegrid.models.anatomy import ANATOMY, DECODERS, LINEAR, POSITIONS, is_linear, is_norm

log = logging.getLogger(__name__)


class SiteError(UserError, LookupError):
    """An architecture without an anatomy, or a role that an architecture does not have."""


FUSED = ("query", "key", "value")  # which `qkv` is, where an architecture has that


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
    `decoder` says whether a token sees only those before it.
    """

    def __init__(
        self, model: nn.Module, anatomy: Mapping[str, str], prefix: str, *, decoder: bool = False
    ) -> None:
        self.decoder = decoder
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
        self._told: set[str] = set()  # fused roles that were spoken of
        self._chosen: Sequence[int] | None = None  # layers whose sites are left; None: all
        self.n_layers = len(numbers)  # layers with weights of their own: 1 for ALBERT

    @classmethod
    def of(cls, model: nn.Module) -> "Sites":
        """The sites of a transformers model; raises SiteError where `ANATOMY` lacks its type."""
        config: Any = model.config
        need_anatomy(config.model_type)
        prefix = "" if model.base_model is model else str(model.base_model_prefix)
        kind = config.model_type
        return cls(model, ANATOMY[kind], prefix, decoder=kind in DECODERS)

    def __getitem__(self, role: str) -> list[Site]:
        """The sites of a role in layer order, never empty; raises SiteError with the choices."""
        if role in self:
            return list(self._sites[role])
        why = f"{self.architecture} has no role {role!r}"
        if role in FUSED and "qkv" in self:
            why += ", its query, key and value being one matrix, `qkv`"
        if role in self._patterns:
            where = "" if self._chosen is None else f" in method.layers={self._chosen}"
            why = f"{self.architecture}: {role} = {self._patterns[role]!r} matches no module{where}"
        raise SiteError(f"{why} (roles found: {', '.join(self.roles) or 'none'})")

    def __contains__(self, role: object) -> bool:
        """Whether the role exists here and matches at least one module."""
        return bool(self._sites.get(str(role)))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that match at least one module, in the order of the anatomy."""
        return tuple(role for role, sites in self._sites.items() if sites)

    def within(self, layers: Sequence[int] | str) -> "Sites":
        """The same without the sites of other layers; what lies in no layer stays.

        `layers`: as of `numbers`, counted in the whole model.
        """
        rest = copy.copy(self)
        rest._chosen = self.numbers(layers)
        rest._sites = {
            role: [site for site in sites if site.layer in (None, *rest._chosen)]
            for role, sites in self._sites.items()
        }
        return rest

    def scope(self, backbone: nn.Module) -> list[nn.Module]:
        """What a method works on that asks for no role: all of the backbone, or chosen layers."""
        return [backbone] if self._chosen is None else [site.module for site in self["layer"]]

    def layer_of(self) -> dict[int, int]:
        """id -> layer of every module and parameter that lies in one."""
        return {
            id(part): site.layer
            for sites in self._sites.values()
            for site in sites
            if site.layer is not None
            for part in (*site.module.modules(), *site.module.parameters())
        }

    def select(
        self, roles: Sequence[str] | None, layers: Sequence[int] | str | None
    ) -> list[tuple[str, Site]]:
        """(role, site) of the roles in the chosen layers.

        `roles`: null for every weight matrix of the layers. `layers`: null for all, a list of
        numbers (-1 is the last), `top-K` or `bottom-K`. What lies in no layer, such as the
        embeddings, is not subject to the choice of layers. Query, key or value that are part of one
        matrix mean all of it, once.
        """
        numbers = {None, *self.numbers(layers)}
        return [
            (role, site)
            for role in (self.linear if roles is None else self._held(roles))
            for site in self[role]
            if site.layer in numbers
        ]

    def _held(self, roles: Sequence[str]) -> list[str]:
        """The roles as they are here, each once: one within a fused matrix is that matrix's."""
        fused = [role for role in roles if role in FUSED and role not in self and "qkv" in self]
        if set(fused) - self._told:
            self._told.update(fused)
            log.info(
                "%s keeps query, key and value in one matrix: roles %s mean all of it (`qkv`)",
                self.architecture,
                ", ".join(fused),
            )
        return list(dict.fromkeys("qkv" if role in fused else role for role in roles))

    def matrices(
        self, roles: Sequence[str] | None, layers: Sequence[int] | str | None
    ) -> list[tuple[nn.Module, nn.Parameter]]:
        """(module, its raw weight) of the matrices that `select` selects.

        Raises:
            SiteError: if a role is no weight matrix.
        """
        chosen = self.select(roles, layers)
        for role, site in chosen:
            if not is_linear(site.module):
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
        elif isinstance(layers, list | tuple) and layers:
            whole = all(isinstance(n, int) and not isinstance(n, bool) for n in layers)
            if whole and all(-len(every) <= n < len(every) for n in layers):
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
        """Every norm below the base model, with the layer that it lies in."""
        layers = [(f"{site.name}.", site.layer) for site in self._sites.get("layer", ())]
        return [
            Site(name, module, next((n for path, n in layers if name.startswith(path)), None))
            for name, module in model.named_modules()
            if is_norm(module) and name.startswith(prefix)
        ]

    @property
    def positions(self) -> int:
        """Longest input in tokens, by the position table or else by the config."""
        return self.in_table or int(self._config.max_position_embeddings)

    @property
    def hidden_size(self) -> int:
        """H, the width of the residual stream."""
        return int(self._config.hidden_size)

    @property
    def head_width(self) -> int:
        """d, the width of an attention head."""
        heads = int(self._config.num_attention_heads)
        return int(getattr(self._config, "head_dim", None) or self.hidden_size // heads)

    @property
    def query_width(self) -> int:
        """Width of the queries, all heads together: H but for some decoders."""
        return self.head_width * int(self._config.num_attention_heads)

    @property
    def key_width(self) -> int:
        """Width of the keys, and of the values: narrower where query heads share them."""
        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return self.head_width * int(heads)


def positions(model: nn.Module) -> int | None:
    """Rows of the position table that tokens can use.

    RoBERTa's start after its padding id, OPT's after an offset.
    """
    for name, module in model.named_modules():
        if name.endswith(POSITIONS) and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            unused = getattr(module, "offset", 0) if padding is None else padding + 1
            return module.num_embeddings - unused
    return None


def _match(model: nn.Module, pattern: str) -> list[tuple[tuple[int, ...], str, nn.Module]]:
    """(numbers that the stars stand for, name, module) of every match, in the model's order."""
    regex = re.compile(r"(\d+)".join(map(re.escape, pattern.split("*"))))
    hits = ((regex.fullmatch(name), name, module) for name, module in model.named_modules())
    return [(tuple(map(int, hit.groups())), name, module) for hit, name, module in hits if hit]
