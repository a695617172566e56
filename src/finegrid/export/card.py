"""The model card of an export: README.md with what Hugging Face's hub reads at its head.

The fields are those of huggingface.co/docs/hub/model-cards. A licence is for whoever shares it.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finegrid import __version__
from finegrid.errors import UserError, printable
from finegrid.export import layout
from finegrid.inference import Restored
from finegrid.runs.layout import run_directories
from finegrid.runs.record import Record, read

LICENCE = "# license: name one here before you share this; the base model's may bind you\n"
TEXT = """---
{licence}{head}---

# {method} on {task}

{base} fine-tuned with {method} on {task} by finegrid {version}.

- Score: {score}
- Outputs: {outputs}
- Command: `{command}`

{usage}"""


def write(
    run: Restored, folder: Path, usage: str, *, library: str, scores: Mapping[int, float]
) -> None:
    """Write the card; `usage` says how the files are loaded, `scores` has a test score a seed."""
    record, task = run.record, run.task
    text = TEXT.format(
        licence=LICENCE,
        head=yaml.safe_dump(_head(run, library), sort_keys=False, allow_unicode=True),
        base=printable(_base(run)),
        method=printable(record.method),
        task=printable(task.name),
        version=__version__,
        score=_score(record, scores),
        outputs=", ".join(map(printable, layout.label_names(run).values())),
        command=printable(record.command),
        usage=usage,
    )
    (folder / layout.README).write_text(text, encoding="utf-8")


def siblings(directory: Path, record: Record) -> dict[int, float]:
    """Seed -> test score of this run and of those beside it that differ from it in the seed alone.

    An unreadable record beside it is no sibling.
    """
    scores = {}
    for path in [*run_directories(directory.resolve().parent), directory]:
        try:
            other = read(path)
        except UserError:
            continue
        if other.test is not None and _settings(other) == _settings(record):
            scores[other.seed] = other.test
    return scores


def _settings(record: Record) -> tuple[Any, ...]:
    others = sorted(item for item in record.overrides if not item.startswith("seed="))
    return (record.versions.get("finegrid"), record.test_hash, record.fingerprint, others)


def _head(run: Restored, library: str) -> dict[str, Any]:
    """The front matter: what the hub searches by, and the score as a `model-index`."""
    record, task = run.record, run.task
    kind = "text-classification"  # which the hub calls a regression on text, too
    source = {"name": task.name, "type": task.path, "config": task.subset or "default"}
    found = [
        {"name": name, "type": name, "value": round(value, 4)}
        for name, value in record.metrics.get("test", {}).items()
    ]
    result = {"task": {"type": kind}, "dataset": source, "metrics": found}
    name = f"{record.method}-{task.name}-{record.model}"
    return {
        "base_model": _base(run),
        "library_name": library,
        "pipeline_tag": kind,
        "tags": ["finegrid", record.method],
        "metrics": list(task.metrics),
        "model-index": [{"name": name, "results": [result] if found else []}],
    }


def _base(run: Restored) -> str:
    """The base model's hub id; of a local one its folder's name, since a path tells nobody."""
    path = run.config.model.path
    return Path(path).name if Path(path).is_dir() else path


def _score(record: Record, scores: Mapping[int, float]) -> str:
    if record.test is None:
        return "unknown"
    text = f"{record.metric} {record.test:.4f} on test with seed {record.seed}"
    if len(scores) < 2:
        return f"{text}, the only seed at hand"
    mean, spread = statistics.mean(scores.values()), statistics.stdev(scores.values())
    seeds = ", ".join(map(str, sorted(scores)))
    return f"{text}; over seeds {seeds} {mean:.4f} ± {spread:.4f} (standard deviation)"
