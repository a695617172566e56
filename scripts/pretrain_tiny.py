"""Pre-train the tiny BERT of the builtin world and save it as a Hugging Face checkpoint.

    python scripts/pretrain_tiny.py --out src/finegrid/data/builtin/tiny
    python scripts/pretrain_tiny.py --head-of src/finegrid/data/builtin/tiny --steps 4000

The second line trains the masked-language-model head alone, on the encoder of a folder that stays
as it is bit by bit, and saves both.

As in BERT (Devlin et al. 2019): masked-language modelling (15 % of the pieces: 80 % masked,
10 % random, 10 % kept, drawn anew for every batch) plus next-sentence prediction, which also
trains the pooler that a classification head starts from. The text comes from
`finegrid.data.builtin.documents`: a sentence followed by one which restates it in other words or
goes on about the same people, or by a sentence of another document, half of them documents
about a similar scene. It holds no task label; sentences of the tasks may turn up in it by
chance. There is no dropout while pre-training, as the text never repeats; the saved config
asks for 0.1 in fine-tuning. Same seed, threads and machine: same file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, BertTokenizerFast

from finegrid.data.builtin import MODEL_DIR
from finegrid.data.builtin.documents import pairs

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
PIECES = """
##s ##es ##ed ##d ##ing ##ting ##ping ##ning ##ly ##er ##ers ##or ##ors ##n ##en ##ies
##ment ##tion ##ation ##ness ##ful ##less ##able ##al ##ity ##ous ##ive ##est ##ist ##ic
##th ##st ##nd ##le ##re ##on ##an ##in ##it ##at ##is ##ar ##ent ##ant ##age un re dis
in pre con com de ex pro st ch sh th
"""
Batch = dict[str, torch.Tensor]


def build_vocab(seed: str, *, words: int, sample: int) -> list[str]:
    """BERT's specials, all characters, common pieces, and the most frequent whole words."""
    counts: Counter[str] = Counter()
    for first, second, _ in itertools.islice(pairs(seed), sample):
        for sentence in (first, second):
            counts.update(sentence.lower().replace(",", "").rstrip(".").split())
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    singles = [*PUNCTUATION, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    return list(dict.fromkeys([*SPECIAL, *singles, *PIECES.split(), *frequent]))


def build_tokenizer(vocab: list[str], max_length: int) -> BertTokenizerFast:
    """A lower-casing WordPiece tokenizer over the vocabulary."""
    ids = {piece: number for number, piece in enumerate(vocab)}
    core = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    return BertTokenizerFast(tokenizer_object=core, model_max_length=max_length)


def batches(
    tokenizer: BertTokenizerFast,
    seed: str,
    *,
    size: int,
    single: float,
    close: float,
    pool: int = 32,
) -> Iterator[Batch]:
    """Endless batches of similar length; a share `single` of the rows is one sentence only."""
    stream, order = pairs(seed, close=close), torch.Generator().manual_seed(len(seed))
    while True:
        rows = list(itertools.islice(stream, size * pool))
        alone = torch.rand(len(rows), generator=order).lt(single).tolist()
        coded = [
            (tokenizer(a, None if lone else b), -100 if lone else 1 - follows)
            for (a, b, follows), lone in zip(rows, alone, strict=True)
        ]
        coded.sort(key=lambda row: len(row[0]["input_ids"]))
        for start in torch.randperm(pool, generator=order).tolist():
            chunk = coded[start * size : (start + 1) * size]
            batch = tokenizer.pad([dict(row) for row, _ in chunk], return_tensors="pt")
            batch["next_sentence_label"] = torch.tensor([label for _, label in chunk])
            yield dict(batch)


def mask(batch: Batch, generator: torch.Generator, *, vocab: int, rate: float) -> Batch:
    """BERT's corruption of the input ids, and the labels to restore."""
    ids = batch["input_ids"]  # B T
    hidden = torch.rand(ids.shape, generator=generator).lt(rate) & ids.ge(len(SPECIAL))
    fate = torch.rand(ids.shape, generator=generator)
    noise = torch.randint(len(SPECIAL), vocab, ids.shape, generator=generator)
    corrupt = torch.where(hidden & fate.lt(0.8), SPECIAL.index("[MASK]"), ids)
    corrupt = torch.where(hidden & fate.ge(0.9), noise, corrupt)
    return {**batch, "input_ids": corrupt, "labels": ids.masked_fill(~hidden, -100)}


def predict(model: BertForPreTraining, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Logits and targets of the masked pieces, then of the sentence pairs."""
    labels, follows = batch["labels"], batch["next_sentence_label"]  # B T, B
    inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
    hidden, pooled = model.bert(**inputs)[:2]  # B T D, B D
    chosen, paired = labels.ge(0), follows.ge(0)
    pieces = model.cls.predictions(hidden[chosen])
    order = model.cls.seq_relationship(pooled[paired])
    return pieces, labels[chosen], order, follows[paired]


@torch.no_grad()
def evaluate(model: BertForPreTraining, held_out: list[Batch]) -> dict[str, float]:
    """Masked-piece loss and accuracy, and next-sentence accuracy, on held-out text."""
    model.eval()
    columns = zip(*(predict(model, batch) for batch in held_out), strict=True)
    pieces, wanted, order, follows = (torch.cat(column) for column in columns)
    model.train()
    return {
        "mlm_loss": cross_entropy(pieces, wanted).item(),
        "mlm_accuracy": pieces.argmax(-1).eq(wanted).float().mean().item(),
        "nsp_accuracy": order.argmax(-1).eq(follows).float().mean().item(),
    }


def objective(model: BertForPreTraining, batch: Batch) -> torch.Tensor:
    """The sum of both losses; a batch may hold lone sentences only, hence the summed second.

    Of masked pieces alone if only their head trains.
    """
    pieces, wanted, order, follows = predict(model, batch)
    if not order.requires_grad:
        return cross_entropy(pieces, wanted)
    second = cross_entropy(order, follows, reduction="sum") / max(1, len(follows))
    return cross_entropy(pieces, wanted) + second


def train(
    model: BertForPreTraining, tokenizer: BertTokenizerFast, args: argparse.Namespace
) -> dict[str, float]:
    """Optimise both objectives; the last evaluation is returned."""
    generator = torch.Generator().manual_seed(args.seed)
    vocab = len(tokenizer)
    shape = {"size": args.batch, "single": args.single, "close": args.close}
    fixed = batches(tokenizer, f"held-out/{args.seed}", **shape)
    held_out = [
        mask(batch, generator, vocab=vocab, rate=0.15) for batch in itertools.islice(fixed, 32)
    ]
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps, pct_start=0.06, anneal_strategy="linear"
    )
    stream = batches(tokenizer, f"train/{args.seed}", **shape)
    scores: dict[str, float] = {}
    bar = tqdm(range(1, args.steps + 1), desc="pretrain", mininterval=2.0)
    for step in bar:
        batch = mask(next(stream), generator, vocab=vocab, rate=args.mask)
        optimizer.zero_grad(set_to_none=True)
        objective(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % args.every == 0 or step == args.steps:
            scores = evaluate(model, held_out)
            told = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
            bar.write(f"step {step} {told}")
    return scores


def save(model: BertForPreTraining, tokenizer: BertTokenizerFast, out: pathlib.Path) -> None:
    """Write the encoder with its pooler and masked-language-model head (fp16), and the tokenizer.

    File by file, atomically.
    """
    out.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=out.parent))
    try:
        tensors = {name: value for name, value in model.half().state_dict().items() if kept(name)}
        model.config.architectures = ["BertForMaskedLM"]
        model.config.dtype = torch.float16
        model.config.save_pretrained(scratch)
        save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(scratch)
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        (scratch / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces))
        for file in sorted(scratch.iterdir()):
            file.chmod(0o644)
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(scratch)


def kept(name: str) -> bool:
    """Whether a tensor is saved: all but the next-sentence head and what is tied to others."""
    return not name.startswith(("cls.seq_relationship.", "cls.predictions.decoder."))


def with_head_to_train(folder: pathlib.Path) -> BertForPreTraining:
    """The encoder of a folder, frozen, with a fresh head for masked pieces."""
    model = BertForPreTraining.from_pretrained(
        folder, dtype=torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model.requires_grad_(False)
    head = model.cls.predictions
    for parameter in (*head.transform.parameters(), head.bias, head.decoder.bias):
        parameter.requires_grad_(True)
    return model


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pre-train the builtin tiny BERT.")
    parser.add_argument("--out", type=pathlib.Path, default=MODEL_DIR)
    parser.add_argument("--head-of", type=pathlib.Path, help="folder of the encoder to keep")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--mask", type=float, default=0.15)
    parser.add_argument("--single", type=float, default=0.1, help="share of lone sentences")
    parser.add_argument("--close", type=float, default=0.5, help="share of similar negatives")
    parser.add_argument("--words", type=int, default=450, help="whole words in the vocabulary")
    parser.add_argument("--sample", type=int, default=20_000, help="pairs counted for it")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--intermediate", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.0, help="saved as 0.1")
    parser.add_argument("--init", type=float, default=0.06)
    parser.add_argument("--every", type=int, default=1000, help="steps between evaluations")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Build the tokenizer and the model, train, save."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.head_of:
        tokenizer = AutoTokenizer.from_pretrained(args.head_of)
        for of_the_load in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(of_the_load, None)
        finish(with_head_to_train(args.head_of).train(), tokenizer, args)
        return
    vocab = build_vocab(f"vocab/{args.seed}", words=args.words, sample=args.sample)
    tokenizer = build_tokenizer(vocab, max_length=64)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=args.hidden, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, intermediate_size=args.intermediate,
        max_position_embeddings=64, hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout, initializer_range=args.init,
    )  # fmt: skip
    finish(BertForPreTraining(config).train(), tokenizer, args)


def finish(
    model: BertForPreTraining, tokenizer: BertTokenizerFast, args: argparse.Namespace
) -> None:
    """Train, save, and say what it came to."""
    began = time.perf_counter()
    scores = train(model, tokenizer, args)
    model.config.update({"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    save(model, tokenizer, args.out)
    seconds = round(time.perf_counter() - began, 1)
    size = sum(p.numel() for p in model.bert.parameters())
    print(json.dumps({**scores, "seconds": seconds, "parameters": size}))


if __name__ == "__main__":
    main()
