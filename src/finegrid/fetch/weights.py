"""The weights of a GGUF file, read by transformers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from finegrid.errors import require

Array = np.ndarray[Any, np.dtype[Any]]


def need_packages() -> None:
    """Raise `UserError` unless what transformers reads GGUF files with is installed."""
    lacking = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    require(
        not lacking,
        f"reading GGUF files needs {' and '.join(lacking)}: pip install 'finegrid[fetch]'",
    )


def of_gguf(file: Path) -> dict[str, Array]:
    """The tensors in fp16, dequantised; the head is left out, as it is the embedding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    )
    state = model.state_dict().items()
    return {name: values.half().numpy() for name, values in state if name != "lm_head.weight"}
