"""Which tokens a model can read: the sizes of its tables of positions, words and token types."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from finegrid.data.tokenization import Tokens
from finegrid.errors import require
from finegrid.models.pretrained import is_decoder
from finegrid.models.sites import positions


@dataclass(frozen=True)
class Limits:
    """Which tokens a model has rows for in its tables."""

    name: str
    positions: float
    vocabulary: int
    types: float

    @classmethod
    def of(cls, network: Any, name: str) -> "Limits":
        """The limits of a model; where it has no table of a kind, there is none."""
        base = network.base_model
        # GPT-2 would add the embeddings of words 0 and 1
        takes_types = "token_type_ids" in inspect.signature(
            base.forward
        ).parameters and not is_decoder(network.config)
        types = [
            float(module.num_embeddings)
            for path, module in base.named_modules()
            if path.endswith("token_type_embeddings") and isinstance(module, nn.Embedding)
        ]
        return cls(
            name=name,
            positions=positions(base) or math.inf,
            vocabulary=len(network.get_input_embeddings().weight),
            types=min(types, default=math.inf if takes_types else 0),
        )

    def check_length(self, longest: int) -> None:
        """Raise `UserError` if texts may get longer than the model has positions."""
        require(
            longest <= self.positions,
            f"model.max_length={longest} exceeds the {self.positions} positions of {self.name}; "
            f"set model.max_length={self.positions}",
        )

    def fit(self, splits: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """The tokens as the model reads them: without types, if it has no rows for theirs.

        Raises:
            UserError: if it has no row for one of the tokens.
        """
        for name, tokens in splits.items():
            largest = max(int(tokens.fields["input_ids"].max(initial=0)), tokens.padding)
            require(
                largest < self.vocabulary,
                f"{name}: the tokenizer gives token {largest}, but the embeddings of {self.name} "
                f"have {self.vocabulary} rows; the two do not belong together: take the model's "
                "own tokenizer, or save the model after resize_token_embeddings",
            )
        types = [tokens.fields.get("token_type_ids") for tokens in splits.values()]
        largest = max((int(kind.max(initial=0)) for kind in types if kind is not None), default=0)
        if self.types >= 2 and largest < self.types:
            return dict(splits)
        return {name: tokens.without_types() for name, tokens in splits.items()}
