"""Reads published scores, `conf/reference/`, a file a paper, into one table with their protocols.

A published score may be drawn beside ours where it is of the same backbone, task, metric and
protocol. It is never ranked: optimizer, selection and seeds still differ, and most spreads are
unknown. A name in a file is ours (`conf/method/`, `conf/task/`, `conf/model/`) only where the thing
is the same; `other:` explains the rest.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from finegrid.errors import UserError
from finegrid.storage.paths import CONF

DIRECTORY = CONF / "reference"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a fifteenth of the time
# what every protocol says, if only that it was not found
PROTOCOL = ("backbone", "split", "selection", "seeds", "initialisation", "batch", "lr", "epochs")
PAIRS = ({"accuracy", "f1"}, {"pearson", "spearman"})  # of which our tasks report the mean as well
COLUMNS = (
    "paper", "arxiv", "table", "source", "method", "task", "metric", "score", "sd", "n", "params",
    *PROTOCOL, "note", "label",
)  # fmt: skip


def papers(directory: Path = DIRECTORY) -> dict[str, dict[str, Any]]:
    """Each paper's file by its name.

    Raises:
        UserError: if there is none, or one lacks what every paper says.
    """
    by_name = {path.stem: _read(path) for path in sorted(directory.glob("*.yaml"))}
    if not by_name:
        raise UserError(f"no published numbers in {directory}: one *.yaml a paper is wanted")
    return by_name


def _read(path: Path) -> dict[str, Any]:
    try:
        plain: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
        lacking = [key for key in PROTOCOL if key not in plain["protocol"]]
        if lacking:
            raise UserError(f"{path}: the protocol says nothing of {', '.join(lacking)}")
        return dict(plain)
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no paper's file: {error!r}") from error


def references(directory: Path = DIRECTORY) -> pd.DataFrame:
    """Every published score, one a row, from 0 to 1 (files have percent, as the papers print).

    `n` is the number of training examples, empty where all were used. Where a paper has both of a
    task's metrics, a row with their mean, which is our headline, follows.
    """
    rows = [row for name, paper in papers(directory).items() for row in _rows(name, paper)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["label"] = frame["method"] + " (" + frame["paper"] + ")"
    frame = frame.astype({"score": float, "sd": float, "n": "Int64", "params": "Int64"})
    frame[["score", "sd"]] /= 100
    return pd.concat([frame, _means(frame)], ignore_index=True)


def _rows(name: str, paper: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for table in paper.get("tables", ()):
        arxiv = paper["paper"].get("arxiv", "")
        shared = {"paper": name, "arxiv": arxiv, "table": table["title"]}
        shared |= {"source": table.get("source", paper["source"]), "note": table.get("note", "")}
        protocol = paper["protocol"] | table.get("protocol", {})
        shared |= {key: str(protocol[key]) for key in PROTOCOL}
        for score in table["scores"]:
            yield shared | score


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean of a task's two metrics for each row that has a partner with the other one."""
    key = ["paper", "table", "method", "task", "n"]
    means = []
    for _, group in frame.groupby(key, dropna=False, sort=False):
        if set(group["metric"]) in PAIRS and len(group) == 2:
            note = f"our mean of {' and '.join(group['metric'])}"
            mean = {"metric": "mean", "score": group["score"].mean(), "sd": float("nan")}
            means.append(group.iloc[0].to_dict() | mean | {"note": note})
    return pd.DataFrame(means, columns=frame.columns).astype(frame.dtypes)


def matching(
    refs: pd.DataFrame, *, model: str, task: str, metric: str, protocol: str, n: int | None = None
) -> pd.DataFrame:
    """The published scores that may be drawn beside ours: to show, never to rank.

    Same backbone from its pre-trained weights, same task, metric and data.protocol; on all training
    rows, or on `n` of them.
    """
    same = (refs["backbone"] == model) & (refs["task"] == task) & (refs["metric"] == metric)
    same &= (refs["split"] == protocol) & (refs["initialisation"] == "pretrained")
    return refs[same & (refs["n"].isna() if n is None else (refs["n"] == n).fillna(False))]
