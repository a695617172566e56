"""Pre-train the tiny Llama of the builtin world and save it as a Hugging Face checkpoint.

    python scripts/pretrain_tiny_llama.py --out src/finegrid/data/builtin/tiny_llama

Next-token prediction on documents of the builtin grammar, of up to three lines and the end of text.
Half of them tell one scene: each line says the first again in other words, or goes on about the
same people. The others are digests: each line is about a similar scene, or about anything. Which
of them a document is, its second line tells and its third depends on. What
real decoders have, it has: a byte-level BPE tokenizer that adds no token around a text, padding
that is the end of text, key and value heads shared by query heads, a head tied to the embeddings.
There is no task label in the text; sentences of the tasks may turn up in it by chance. Same seed,
threads and machine: same file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finegrid.data.builtin import MODEL_DIR
from finegrid.data.builtin.documents import continued, rival, shortened
from finegrid.data.builtin.grammar import Draw, random_event, say

END = "<|endoftext|>"
LINES = (1, 2, 2, 3, 3, 3, 3, 3, 3, 3)  # of a document, each as likely
Batch = dict[str, torch.Tensor]


def documents(seed: str, *, restate: float = 0.8, close: float = 0.8) -> Iterator[str]:
    """Endless documents; `restate` and `close` are shares of the lines behind a first one."""
    draw = Draw(seed)
    while True:
        event = random_event(draw)
        synonyms = draw.pick((0.0, 0.5, 0.5))  # some authors have few words: copying comes first
        one_scene, lines = draw.chance(0.5), [event]
        for _ in range(draw.pick(LINES) - 1):
            if one_scene:
                again = draw.chance(restate)
                lines.append(shortened(draw, event) if again else continued(draw, event))
            else:
                lines.append(rival(draw, event) if draw.chance(close) else random_event(draw))
        yield "\n".join(say(draw, told, synonyms=synonyms) for told in lines)


def build_tokenizer(seed: str, *, size: int, sample: int, length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on documents; padding is the end of text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    core.train_from_iterator(itertools.islice(documents(seed), sample), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, model_max_length=length
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: str, *, size: int, pool: int = 32
) -> Iterator[Batch]:
    """Endless batches of documents of similar length, each with its end, padded on the right."""
    stream, order = documents(seed), torch.Generator().manual_seed(len(seed))
    while True:
        rows = sorted(tokenizer(list(itertools.islice(stream, size * pool))).input_ids, key=len)
        for start in torch.randperm(pool, generator=order).tolist():
            chunk = [
                torch.tensor([*row, tokenizer.eos_token_id])
                for row in rows[start * size : (start + 1) * size]
            ]
            lengths = torch.tensor([len(row) for row in chunk])
            ids = torch.nn.utils.rnn.pad_sequence(chunk, True, tokenizer.pad_token_id)  # B T
            inside = torch.arange(ids.shape[1]) < lengths[:, None]
            labels = ids.masked_fill(~inside, -100)  # by place: the end is the padding's id
            yield {"input_ids": ids, "attention_mask": inside.long(), "labels": labels}


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, held_out: list[Batch]) -> float:
    """exp of the mean loss of a token of held-out text, the end of text among them."""
    losses, counts = [], []
    for batch in held_out:
        counts.append(batch["labels"][:, 1:].ge(0).sum().item())
        losses.append(model(**batch, use_cache=False).loss.item() * counts[-1])
    return math.exp(sum(losses) / sum(counts))


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> list[Batch]:
    """Optimise for a fixed number of steps; the held-out batches are returned."""
    fixed = batches(tokenizer, f"held-out/{args.seed}", size=args.batch)
    held_out = list(itertools.islice(fixed, args.held_out))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps, pct_start=0.06, anneal_strategy="linear"
    )
    stream = batches(tokenizer, f"train/{args.seed}", size=args.batch)
    bar = tqdm(range(1, args.steps + 1), desc="pretrain", mininterval=2.0)
    for step in bar:
        optimizer.zero_grad(set_to_none=True)
        model(**next(stream), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % args.every == 0:
            bar.write(f"step {step} perplexity {perplexity(model, held_out):.3f}")
    return held_out


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: pathlib.Path) -> None:
    """Write the model (fp16, to be trained in fp32) and the tokenizer, file by file, atomically."""
    out.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=out.parent))
    try:
        model.half().save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "generation_config.json").unlink(missing_ok=True)
        config = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
        config |= {"dtype": "float32"}
        (scratch / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for file in sorted(scratch.iterdir()):
            file.chmod(0o644)
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(scratch)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pre-train the builtin tiny Llama.")
    parser.add_argument("--out", type=pathlib.Path, default=MODEL_DIR.with_name("tiny_llama"))
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--sample", type=int, default=20_000, help="documents that it is made from")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--shared", type=int, default=2, help="key and value heads")
    parser.add_argument("--intermediate", type=int, default=256)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--init", type=float, default=0.06)
    parser.add_argument("--held-out", type=int, default=32, help="batches")
    parser.add_argument("--every", type=int, default=1000, help="steps between evaluations")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Build the tokenizer and the model, train, save."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    began = time.process_time()
    tokenizer = build_tokenizer(
        f"vocab/{args.seed}", size=args.vocabulary, sample=args.sample, length=args.positions
    )
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=args.hidden, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, num_key_value_heads=args.shared,
        intermediate_size=args.intermediate, max_position_embeddings=args.positions,
        initializer_range=args.init, tie_word_embeddings=True,
        bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    fresh = LlamaForCausalLM(config)
    held_out = train(model, tokenizer, args)
    save(model, tokenizer, args.out)
    facts = {
        "perplexity": perplexity(model.float(), held_out),  # of the weights as stored
        "untrained": perplexity(fresh, held_out),
        "cpu_seconds": round(time.process_time() - began, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
