"""A Llama's tensors from a GGUF file: dequantised, renamed, the rotary order of rows undone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finegrid.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm"}  # the head is the embedding


def reader() -> Any:
    """The package that reads GGUF files.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError("reading GGUF files needs a package: pip install 'gguf>=0.10'") from error
    return gguf


def tensors(file: Path, config: Mapping[str, Any]) -> dict[str, Array]:
    """The tensors of a GGUF file in fp16, under the names that transformers gives them."""
    gguf = reader()
    converted = {}
    for tensor in gguf.GGUFReader(file).tensors:
        name = renamed(tensor.name)
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape(tuple(int(size) for size in reversed(tensor.shape)))
        if heads := rotated(name, config):
            values = halves(values, heads)
        converted[name] = np.ascontiguousarray(values, dtype=np.float16)
    return converted


def renamed(name: str) -> str:
    """`blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"model.layers.{match[1]}.{LAYER[match[2]]}.weight"
    return f"model.{OUTSIDE[name.removesuffix('.weight')]}.weight"


def rotated(name: str, config: Mapping[str, Any]) -> int:
    """The heads of a matrix whose outputs are turned by rotary positions; 0 for all others."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = heads.get(name.split(".")[-2])
    return int(config[key]) if key else 0


def halves(weight: Array, heads: int) -> Array:
    """Rows of interleaved pairs, as llama.cpp turns them, as first and second halves of a head.

    Without this the model still writes words: only its perplexity tells.
    """
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(rows, width)
