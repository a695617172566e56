"""Anatomy: under which name each architecture has the modules that tuning methods ask for.

Patterns are relative to the base model; `*` stands for one layer number. `models.sites` turns them
into modules.

    embeddings                      ids -> B T E (E may be narrower than H: ALBERT, small ELECTRA)
    word_embeddings                 Embedding, ids -> B T E, before positions and types are added
    layer                           one transformer layer
    attention                       calls the attention function: heads, H split into d each
    query key value, or fused qkv   linear, H -> H (or 3H); fewer heads of key and value: narrower
    attention_output                linear, H -> H, after the attention heads
    gate                            linear, multiplies the first matrix's output; gated blocks only
    intermediate, output            linear, the first and second matrix of the feed-forward block
    attention_norm, output_norm     LayerNorm after the residual sum; post-LN architectures only
    attention_block, output_block   the module whose output, B T H, is added to the residual as is
    pooler                          what turns B T H into B H, where the base model has it itself
    stack                           what a language-model head calls, where not the base model
    layernorm                       every LayerNorm and RMSNorm, by its type: in no table

"linear" is `nn.Linear`, or in GPT-2 transformers' `Conv1D`, whose weight is transposed.
"""

from typing import Any

from torch import Tensor, nn

from finegrid.errors import require


def _below(root: str, roles: dict[str, str]) -> dict[str, str]:
    """The roles of one layer put below the layers' path `root`."""
    return {role: f"{root}{path}" for role, path in roles.items()}


def _anatomy(root: str, roles: dict[str, str]) -> dict[str, str]:
    """The roles of one layer, and the embeddings, as most encoders have them."""
    embeddings = {"embeddings": "embeddings", "word_embeddings": "embeddings.word_embeddings"}
    return embeddings | _below(root, roles)


_SPLIT = ("query", "key", "value", "gate")  # matrices that some architectures fuse with others

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
# Decoders are pre-LN. A sub-layer whose last matrix no dropout or norm follows has it as its block.
_LLAMA = {"embeddings": "embed_tokens", "word_embeddings": "embed_tokens"} | _below("layers.*", {
    "layer": "", "attention": ".self_attn", "query": ".self_attn.q_proj",
    "key": ".self_attn.k_proj", "value": ".self_attn.v_proj",
    "attention_output": ".self_attn.o_proj", "attention_block": ".self_attn.o_proj",
    "gate": ".mlp.gate_proj", "intermediate": ".mlp.up_proj", "output": ".mlp.down_proj",
    "output_block": ".mlp",
})
_GEMMA = _LLAMA | _below("layers.*", {  # a norm follows each sub-layer, before the residual sum
    "attention_block": ".post_attention_layernorm", "output_block": ".post_feedforward_layernorm",
})
_PHI3 = {role: path for role, path in _LLAMA.items() if role not in _SPLIT} | _below("layers.*", {
    "qkv": ".self_attn.qkv_proj", "attention_block": ".resid_attn_dropout",
    "intermediate": ".mlp.gate_up_proj", "output_block": ".resid_mlp_dropout",  # H -> 2F
})
_GPT2 = {"embeddings": "wte", "word_embeddings": "wte"} | _below("h.*", {
    "layer": "", "attention": ".attn", "qkv": ".attn.c_attn",
    "attention_output": ".attn.c_proj", "attention_block": ".attn.resid_dropout",
    "intermediate": ".mlp.c_fc", "output": ".mlp.c_proj", "output_block": ".mlp",
})
# Attention and feed-forward read the same residual, to which both are added.
_GPT_NEOX = {"embeddings": "embed_in", "word_embeddings": "embed_in"} | _below("layers.*", {
    "layer": "", "attention": ".attention", "qkv": ".attention.query_key_value",
    "attention_output": ".attention.dense", "attention_block": ".post_attention_dropout",
    "intermediate": ".mlp.dense_h_to_4h", "output": ".mlp.dense_4h_to_h",
    "output_block": ".post_mlp_dropout",
})
# Its dropout before each residual sum is a function: what is added at a block is dropped, too.
_OPT = dict.fromkeys(("embeddings", "word_embeddings"), "decoder.embed_tokens") | _below(
    "decoder.layers.*", {
    "layer": "", "attention": ".self_attn", "query": ".self_attn.q_proj",
    "key": ".self_attn.k_proj", "value": ".self_attn.v_proj",
    "attention_output": ".self_attn.out_proj", "attention_block": ".self_attn.out_proj",
    "intermediate": ".fc1", "output": ".fc2", "output_block": ".fc2",
}) | {"stack": "decoder"}
# fmt: on

ENCODERS: dict[str, dict[str, str]] = {
    "bert": _BERT | {"pooler": "pooler"},
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "albert": _ALBERT | {"pooler": "pooler"},
    "modernbert": _MODERNBERT,
}

DECODERS: dict[str, dict[str, str]] = {  # causal: a token sees those before it, and itself
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _PHI3,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "opt": _OPT,
}
ANATOMY: dict[str, dict[str, str]] = ENCODERS | DECODERS

# Roles that are weight matrices of a layer.
LINEAR = (
    "query", "key", "value", "qkv", "attention_output", "gate", "intermediate", "output",
)  # fmt: skip
POSITIONS = ("position_embeddings", "wpe", "embed_positions")  # ends the name of a position table
NORMS = ("LayerNorm", "RMSNorm")  # ends the name of a norm's class, of which there are many


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm or RMSNorm of torch's or of an architecture's own."""
    return type(module).__name__.endswith(NORMS)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear module keeps its weight as (in, out): transformers' `Conv1D`."""
    return hasattr(module, "nf")


def weight_matrix(site: Any) -> Tensor:
    """A linear module's weight as (out, in), a view: to change it in place is to change that."""
    weight: Tensor = site.weight
    return weight.T if is_transposed(site) else weight


def is_linear(module: nn.Module) -> bool:
    """Whether a module is x W^T + b with a weight of its own."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def widths(module: nn.Module) -> tuple[int, int]:
    """Width of what a linear module reads, and of what it returns.

    Raises:
        UserError: for a module that is no linear map.
    """
    weight = module._parameters.get("weight")
    require(weight is not None, f"{type(module).__name__} is no linear map")
    outputs, inputs = weight.shape  # type: ignore[union-attr]
    return (outputs, inputs) if is_transposed(module) else (inputs, outputs)
