"""Heads: what turns a backbone's states into the logits of a task; one file a head.

`head=pattern` is the class in `heads/pattern.py`. Which heads fit a kind of task says the kind
(`tasks.modules.heads`); everything else asks the head.
"""

from finegrid.models.heads.base import Head
from finegrid.models.heads.classifier import Classifier
from finegrid.models.heads.pattern import PatternHead
from finegrid.models.heads.prototype import PrototypeHead

__all__ = ["Head", "of"]

HEADS: dict[str, type[Head]] = {
    "classifier": Classifier,
    "pattern": PatternHead,
    "prototype": PrototypeHead,
}


def of(name: str) -> Head:
    """The head of that name."""
    return HEADS[name]()
