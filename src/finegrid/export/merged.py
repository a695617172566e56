"""A plain Hugging Face checkpoint: encoder with the method in its weights, head, tokenizer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from finegrid import surgery
from finegrid.export.parts import Inputs, Unfit, label_names, need
from finegrid.export.verify import logits_from
from finegrid.inference import Restored


class Merged:
    """For every method that amounts to other weights."""

    def check(self, run: Restored) -> None:
        """Refuse what works on activations, which no weight can replace."""
        for path, child in surgery.unmergeable(run.model):
            what = f"{path} ({type(child).__name__})"
            raise Unfit(f"{what} works on activations and cannot be merged into weights")

    def write(self, run: Restored, folder: Path) -> None:
        """Merge the run's own model and save it with its class names and tokenizer."""
        model: Any = run.model
        surgery.merge(model)
        names = label_names(run)
        model.config.id2label = names
        model.config.label2id = {name: number for number, name in names.items()}
        if run.task.kind == "regression":
            model.config.problem_type = "regression"
        model.save_pretrained(folder)
        run.tokenizer.save_pretrained(folder)

    def load_back(self, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
        """Logits of the checkpoint as transformers loads it."""
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            need(not info[problem], f"{folder.name} has {problem}: {sorted(info[problem])[:3]}")
        return logits_from(model, inputs), "loaded back with transformers"
