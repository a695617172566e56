"""The peers' way: one task, one method and transformers' Trainer, as run_glue puts them together.

It knows nothing of finegrid, so that it also runs in an environment that has adapters instead.
"""

import math
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.utils import logging

LONGEST = 128  # tokens, run_glue's default
FEED_FORWARD = r".*layer\.\d+\.output\.dense"


@dataclass(frozen=True)
class Setting:
    """How a peer sets its Trainer."""

    padded: bool  # every row to 128 tokens; else a batch to its longest row
    bf16: bool  # where the CPU is fast at it
    attention: str
    grouped: bool = False  # batches of rows of similar length


SETTINGS = {
    "default": Setting(padded=True, bf16=False, attention="sdpa"),  # run_glue as it ships
    "best": Setting(padded=False, bf16=True, attention="eager"),  # on a CPU faster than SDPA
    "best_sdpa": Setting(padded=False, bf16=True, attention="sdpa"),
    "grouped": Setting(padded=False, bf16=True, attention="eager", grouped=True),
    "grouped_sdpa": Setting(padded=False, bf16=True, attention="sdpa", grouped=True),
}


def bitfit(model: Any) -> Any:
    """Every bias and the head, chosen by hand."""
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad = name.endswith("bias")
    return model


def head(model: Any) -> Any:
    """The head alone."""
    return model.base_model.requires_grad_(False) and model


def lora(model: Any) -> Any:
    """peft's LoRA at query and value."""
    from peft import LoraConfig, get_peft_model

    decoder = any(name.endswith("q_proj") for name, _ in model.named_modules())
    roles = ["q_proj", "v_proj"] if decoder else ["query", "value"]
    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=roles)
    return get_peft_model(model, config)


def ia3(model: Any) -> Any:
    """peft's IA3 at key, value and feed-forward units."""
    from peft import IA3Config, get_peft_model

    config = IA3Config(
        task_type="SEQ_CLS",
        target_modules=rf"(.*\.(key|value)|{FEED_FORWARD})",
        feedforward_modules=FEED_FORWARD,
    )
    return get_peft_model(model, config)


def houlsby(model: Any) -> Any:
    """The adapters library's bottlenecks after attention and feed-forward."""
    import adapters

    adapters.init(model)
    config = adapters.DoubleSeqBnConfig(reduction_factor=16, non_linearity="swish")
    model.add_adapter("task", config=config)
    model.train_adapter("task")
    return model


METHODS = {
    "full": lambda model: model,
    "bitfit": bitfit,
    "head": head,
    "lora": lora,
    "ia3": ia3,
    "houlsby": houlsby,
}


class Watch(TrainerCallback):  # type: ignore[misc]
    """CPU-seconds of this process between the first step's start and the last one's end."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self.began = time.process_time()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds = time.process_time() - self.began


def make(spec: dict[str, Any], work: Path, **arguments: Any) -> Trainer:
    """A Trainer for a request: its task, method, setting, files and batch size."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    setting = SETTINGS[spec["setting"]]
    torch.manual_seed(spec.get("seed", 0))
    tokenizer = AutoTokenizer.from_pretrained(spec["path"])
    network = AutoModelForSequenceClassification.from_pretrained(
        spec["path"],
        num_labels=spec["outputs"],
        dtype=torch.float32,
        attn_implementation=setting.attention,
    )
    if spec["separator"] is not None:  # a decoder: it pools before the padding, and needs no cache
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        network.config.update({"pad_token_id": tokenizer.pad_token_id, "use_cache": False})
    model = METHODS[spec["method"]](network)
    rows = {split: encoded(spec, split, tokenizer, setting) for split in ("train", "validation")}
    usual = {"save_strategy": "no"} | (grouping() if setting.grouped else {})
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(work),
            per_device_train_batch_size=spec["batch"],
            per_device_eval_batch_size=spec["batch"],
            learning_rate=spec["lr"],
            seed=spec.get("seed", 0),
            bf16=setting.bf16 and spec["fast_bf16"],
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **(usual | arguments),
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=default_data_collator
        if setting.padded
        else DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda predicted: scores(spec["metrics"], *predicted),
    )


def encoded(spec: dict[str, Any], split: str, tokenizer: Any, setting: Setting) -> Dataset:
    """A split's rows, tokenised and, as run_glue does it, padded once."""
    file = str(Path(spec["folder"], f"{split}-0.parquet"))
    rows = load_dataset("parquet", data_files={split: file}, split=split)
    padding = "max_length" if setting.padded else False

    def tokenised(batch: dict[str, Any]) -> Any:
        texts = [batch[column] for column in spec["text"]]
        if spec["separator"] is not None:
            texts = [[spec["separator"].join(row) for row in zip(*texts, strict=True)]]
        return tokenizer(*texts, padding=padding, max_length=LONGEST, truncation=True)

    return rows.map(tokenised, batched=True)


def grouping() -> dict[str, Any]:
    """Batches of similar length, as this version of transformers calls them."""
    if any(field.name == "train_sampling_strategy" for field in fields(TrainingArguments)):
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def scores(names: list[str], logits: Any, labels: Any) -> dict[str, float]:
    """GLUE's metrics."""
    guess = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)
    found = {
        "accuracy": lambda: np.mean(guess == labels),
        "f1": lambda: 2 * np.sum(guess & labels) / np.sum(guess + labels),
        "matthews": lambda: correlation(guess, labels),
        "pearson": lambda: correlation(guess, labels),
        "spearman": lambda: correlation(guess.argsort().argsort(), labels.argsort().argsort()),
    }
    return {name: float(found[name]()) for name in names}


def correlation(x: Any, y: Any) -> float:
    """Pearson's, which on two classes is Matthews'; 0 if one of them is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if np.std(x) * np.std(y) else 0.0


def trainable(trainer: Trainer) -> int:
    """How many parameters train."""
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)


def measure(spec: dict[str, Any], work: Path) -> dict[str, float]:
    """One epoch over the rows (or `warm` steps) and the dev set once: rows a CPU-second."""
    watch = Watch()
    trainer = make(spec, work, num_train_epochs=1, max_steps=spec.get("warm", -1))
    trainer.add_callback(watch)
    loss = trainer.train().training_loss
    assert math.isfinite(loss), f"loss {loss}"
    trainer.compute_metrics = None
    began = time.process_time()
    trainer.predict(trainer.eval_dataset)
    seconds = time.process_time() - began
    steps = trainer.state.global_step
    return {
        "train": min(steps * spec["batch"], len(trainer.train_dataset)) / watch.seconds,
        "evaluation": len(trainer.eval_dataset) / seconds,
        "steps": steps,
        "parameters": trainable(trainer),
        "loss": loss,
    }
