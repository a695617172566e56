"""After training: scores on the test splits, the delta file and the predictions file."""

from pathlib import Path
from typing import Any

import torch

from finegrid.runs import delta
from finegrid.runs.predictions import write_predictions
from finegrid.runs.record import Record
from finegrid.tasks.task import Task
from finegrid.training import device
from finegrid.training.checkpoint import BestCheckpoint
from finegrid.training.components import RunComponents
from finegrid.training.module import predict

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "none": torch.float32}
Scores = dict[str, dict[str, float]]  # split -> metric -> value


def score(
    components: RunComponents, record: Record, selection: BestCheckpoint, directory: Path
) -> None:
    """Score the selected weights, once; save the delta and the predictions.

    What is scored is what the delta file holds, so weights are rounded to its precision before.
    With `score_last` the last weights are scored too, as they are.
    """
    task, config, model = components.task, components.config, components.module.model
    dtype = DTYPES[config.store]
    if config.score_last:
        last = _scores(_calibrated(components), components, _predict_tests(components))
        record.test_last = last.get("test", {}).get(task.headline)
    chosen, record.best_step = selection.last, selection.best.step
    if config.select == "best" and selection.best.step != selection.last.step:
        chosen = selection.best
        selection.restore(components.module)
    delta.round_to(model, dtype)
    task, outputs = _calibrated(components), _predict_tests(components)
    scores = _scores(task, components, outputs)
    record.metric, record.test = task.headline, scores.get("test", {}).get(task.headline)
    record.validation = chosen.scores[task.headline]
    record.validation_loss = selection.lowest_loss
    record.metrics = {"validation": chosen.scores, **scores}
    for name, value in task.facts().items():
        setattr(record, name, value)
    record.degenerate = chosen.constant  # of a trial, which has no test scores
    if outputs:
        record.degenerate = task.degenerate(outputs["test"])
        write_predictions(directory, task, components.splits.test, outputs)
    _save_delta(components, record, directory, dtype)


def _save_delta(
    components: RunComponents, record: Record, directory: Path, dtype: torch.dtype
) -> None:
    """Write the delta, unless the config wants none; its size is counted in any case."""
    model, path = components.module.model, directory / delta.FILE
    values = components.task.attribute_values
    record.stored = components.config.store != "none"
    record.delta_bytes = delta.save(
        path if record.stored else None,
        model,
        method=record.method,
        fingerprint=str(record.fingerprint),
        labels=components.task.labels,
        dtype=dtype,
        more={delta.VALUES: values} if values else None,
    )
    record.delta_digest = delta.digest(path) if record.stored else None
    trained = (record.params_delta or 0) + (record.params_pooler or 0) + (record.params_head or 0)
    record.delta_bits_per_trainable = 8 * record.delta_bytes / trained if trained else None
    record.delta_bound_bytes = delta.bound(delta.state(model), dtype)


def _predict_tests(components: RunComponents) -> dict[str, Any]:
    """Outputs of every test split; of none in a trial, which must not see test scores."""
    splits = components.splits.test if components.config.trial is None else ()
    return {name: _predict(components, name) for name in splits}


def _predict(components: RunComponents, split: str) -> Any:
    config = components.config
    return predict(
        components.module.model,
        components.encoded[split],
        batch_size=config.data.eval_batch_size,
        precision=device.precision(config.trainer),
        task=components.task,
    )


def _calibrated(components: RunComponents) -> Task:
    """The task with what is chosen on validation with the weights as they are, if anything is."""
    if not components.task.calibrates:
        return components.task
    labels = components.encoded["validation"].labels
    return components.task.calibrated(_predict(components, "validation"), labels)


def _scores(task: Task, components: RunComponents, outputs: dict[str, Any]) -> Scores:
    return {
        name: task.score(values, components.encoded[name].labels)
        for name, values in outputs.items()
    }
