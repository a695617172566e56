"""Compare an export with its run: the same inputs must give the same logits within 1e-4."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples, read_rows
from finegrid.data.loading import load
from finegrid.data.tokenization import encode, padding_of
from finegrid.errors import UserError, require
from finegrid.export.layout import Inputs, room
from finegrid.inference import Restored
from finegrid.models import backbone
from finegrid.training.limits import Limits
from finegrid.training.module import logits_of

ROWS = 16
LENGTHS = (4, 7, 12, 20, 33)  # of the made-up texts, where the run's own are not at hand
TOLERANCE = 1e-4
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # what a batch has for the model


def logits_from(model: nn.Module, inputs: Inputs) -> Tensor:
    """fp32 logits of one batch, in eval mode; zero at the padding, where each token has some."""
    with torch.inference_mode():
        logits = logits_of(model.eval(), inputs).float().clone()
    return logits * inputs["attention_mask"][..., None] if logits.ndim == 3 else logits


def probe(run: Restored) -> tuple[Inputs, str]:
    """A padded batch of the run's first training texts, else of made-up ones; and which it is."""
    longest = min(run.config.model.max_length, room(run))
    if not run.task.FUSES:  # a row is no input of the model as it is
        return _made_up(run, longest), f"{len(LENGTHS)} made-up texts"
    try:
        _, tables = load(run.task, run.config.data)
        rows = read_rows(tables.train.slice(0, ROWS), run.task, tables.source)
    except UserError:
        return _made_up(run, longest), f"{len(LENGTHS)} made-up texts"
    return _batch(run, rows, longest), f"{len(rows)} texts of {run.task.name}"


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two batches of logits.

    Raises:
        UserError: if it exceeds what fp32 explains.
    """
    require(
        ours.shape == theirs.shape,
        f"the export gives logits of shape {tuple(theirs.shape)}, the run {tuple(ours.shape)}",
    )
    largest = float((ours - theirs).abs().max())
    require(
        math.isfinite(largest) and largest <= TOLERANCE,
        f"the export's logits differ from the run's by {largest:.2g}, more than {TOLERANCE:g}",
    )
    return largest


def _batch(run: Restored, rows: Examples, longest: int) -> Inputs:
    limits = Limits.of(run.model, run.config.model.name)
    decoder = backbone.is_decoder(run.config.model)
    tokens = encode(
        rows.texts, run.tokenizer, longest, task=run.task, labels=rows.labels, decoder=decoder
    )
    fitting = limits.fit({"rows": tokens})["rows"]
    batch = TokenizedDataset(rows, fitting, collate=run.task.collate).batch(range(len(rows)))
    return {name: batch[name] for name in INPUTS if name in batch}


def _made_up(run: Restored, longest: int) -> Inputs:
    """Rows of random token ids of several lengths, padded."""
    lengths = torch.tensor([min(length, longest) for length in LENGTHS])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    padding = padding_of(run.tokenizer)
    known = Limits.of(run.model, run.config.model.name).vocabulary
    ids = {*run.tokenizer.get_vocab().values()} - {padding}
    vocabulary = np.array(sorted(number for number in ids if number < known))
    drawn = np.random.Generator(np.random.PCG64(0)).choice(vocabulary, size=tuple(mask.shape))
    return {
        "input_ids": torch.from_numpy(drawn).where(mask.bool(), padding),
        "attention_mask": mask,
    }
