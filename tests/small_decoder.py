"""A small random Llama with a tokenizer of its own, saved as a checkpoint."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<end>"
TEXTS = (
    "Question: what does the green cat eat at night?\nAnswer: a fish and the old red bird",
    "Meaning: name[The Mill], food[English]\nText: The Mill serves English food near the river.",
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pairs of letters; the end is the only special token, and no padding is named."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


def save(folder: Path) -> Path:
    """The checkpoint in a folder: two layers, tied embeddings, fewer key heads than query heads."""
    reader = tokenizer()
    config = LlamaConfig(
        vocab_size=len(reader), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=256,
        initializer_range=0.2, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=reader.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder
