"""Export to a plain transformers checkpoint: the method merged into the weights, with the head."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from finegrid.data.tokenization import padding_of
from finegrid.export import layout
from finegrid.export.layout import Inputs, Unfit, label_names, need
from finegrid.export.verify import logits_from
from finegrid.inference import Restored
from finegrid.methods.bitfit_added import AddedBias
from finegrid.models import pretrained, surgery

USAGE = """```python
import torch
from transformers import {auto_class}, AutoTokenizer

folder = {folder!r}  # wherever these files lie now
model = {auto_class}.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**{example}).logits
```
"""


BIASES = ("attention_bias", "mlp_bias")  # settings of Llama


class Merged:
    """For every method that amounts to other weights."""

    library = "transformers"

    def check(self, run: Restored) -> None:
        """Refuse what works on activations, which no weight can replace."""
        for path, child in surgery.unmergeable(run.model):
            what = f"{path} ({type(child).__name__})"
            raise Unfit(f"{what} works on activations and cannot be merged into weights")

    def write(self, run: Restored, folder: Path) -> None:
        """Merge the run's own model and save it with class names and tokenizer."""
        model: Any = run.model
        if any(isinstance(child, AddedBias) for child in layout.injected(model).values()):
            for name in BIASES:  # with which the architecture says that it has some
                if hasattr(model.config, name):
                    setattr(model.config, name, True)
        surgery.merge(model)
        if pretrained.is_decoder(model.config):  # whose classifiers look for the first padding
            model.config.pad_token_id = padding_of(run.tokenizer)
        names = label_names(run)
        model.config.id2label = names
        model.config.label2id = {name: number for number, name in names.items()}
        model.config.problem_type = run.task.PROBLEM_TYPE
        model.save_pretrained(folder)
        layout.save_tokenizer(run, folder)

    def usage(self, run: Restored, folder: Path) -> str:
        """Python that loads the files with transformers alone."""
        return USAGE.format(
            auto_class=run.auto_class,
            folder=str(folder.resolve()),
            example=layout.example(run),
        )

    def load_back(self, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
        """Logits of what the README's lines load, after a look at what they leave out."""
        auto_class: Any = getattr(transformers, run.auto_class)
        _, info = auto_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            need(not info[problem], f"{folder.name} has {problem}: {sorted(info[problem])[:3]}")
        return logits_from(layout.run_readme(folder), inputs), "loaded back with transformers"
