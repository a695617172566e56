"""The builtin world: three small tasks and a tiny pre-trained model, with no download.

`load` gives the rows of ``builtin_paraphrase``, ``builtin_acceptability`` or
``builtin_similarity``; `MODEL_DIR` is a BERT checkpoint pre-trained on text of the same
grammar (see ``scripts/pretrain_tiny.py``). Standard library only.
"""

from __future__ import annotations

import pathlib

from finegrid.data.builtin.tasks import TASKS, Row, split

MODEL_DIR = pathlib.Path(__file__).resolve().parent / "tiny"

__all__ = ["MODEL_DIR", "load"]


def load(name: str) -> dict[str, list[Row]]:
    """The ``train`` and ``validation`` rows of a builtin task, the same on every machine."""
    if name not in TASKS:
        raise ValueError(f"no builtin task {name!r}; there are {', '.join(TASKS)}")
    taken: set[str] = set()
    held_out = split(name, "validation", taken)
    return {"train": split(name, "train", taken), "validation": held_out}
