"""Validation from a set of its own (`fixed`) or the fraction's rows (`share`): which is better?

python benchmarks/validation.py --model tiny --task builtin_paraphrase --out runs.jsonl
python benchmarks/validation.py --summarise runs.jsonl

Scores are on an outer split of the training rows; the official dev set is never read. Three arms at
each fraction: `fixed`; `share` of the same fraction, whose validation comes out of the rows that
`fixed` trains on; `share` of as many labels as `fixed` uses for training and validation.
"""

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig
from peers.rows import composed  # the package beside this file

from finegrid.config import DataConfig
from finegrid.data.loading import RawSplits, load
from finegrid.data.splits import stratified_order
from finegrid.runs.record import Record
from finegrid.runs.spec import RunSpec
from finegrid.strategies.single import run
from finegrid.tasks.task import Task
from finegrid.training import components

ARMS = ("fixed", "share", "share, same labels")


def main() -> None:
    """Run the cells that are asked for, a line of JSON each, or summarise such lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="builtin_paraphrase")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--methods", nargs="+", default=["full", "bitfit", "lora"])
    parser.add_argument("--fractions", nargs="+", default=["0.05", "0.1", "0.3"])
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--epochs", default="5")
    parser.add_argument("--outer", type=int, default=600, help="rows that no run sees before")
    parser.add_argument("--out", type=Path, default=Path("validation.jsonl"))
    parser.add_argument("--summarise", type=Path, nargs="+")
    given = parser.parse_args()
    if given.summarise:
        print(table(pd.concat(pd.read_json(path, lines=True) for path in given.summarise)))
        return
    torch.set_num_threads(1)
    components.load = partial(outer_split, rows=given.outer)  # where a run reads its rows
    for seed, fraction, method in itertools.product(given.seeds, given.fractions, given.methods):
        common = [f"task={given.task}", f"model={given.model}", f"method={method}", f"seed={seed}",
                  f"data.subset_seed={seed}", f"data.split_seed={seed}", "store=none",
                  f"budget.epochs={given.epochs}"]  # fmt: skip
        fixed = measured(common, [f"data.fraction={fraction}"], given.out, ARMS[0], fraction)
        measured(common, ["data.validation=share", f"data.rows={fixed.train_rows}"],
                 given.out, ARMS[1], fraction)  # fmt: skip
        labels = (fixed.train_rows or 0) + (fixed.validation_rows or 0)
        measured(common, ["data.validation=share", f"data.rows={labels}"],
                 given.out, ARMS[2], fraction)  # fmt: skip


def outer_split(task: Task, data: DataConfig, *, rows: int) -> tuple[Task, RawSplits]:
    """A task's training rows alone, `rows` of them as its test set."""
    filled, tables = load(task, data)
    labels = tables.train.column(filled.label).to_pandas()
    codes = labels.factorize()[0] if filled.kind == "classification" else labels.to_numpy()
    order = stratified_order(filled.strata(codes), 12345)
    outer, inner = sorted(order[:rows]), sorted(order[rows:])
    tables = replace(tables, dev={"outer": tables.train.take(outer)})
    return filled, replace(tables, train=tables.train.take(inner))


def measured(common: list[str], rows: list[str], out: Path, arm: str, fraction: str) -> Record:
    """Train and score one cell, and write what it was and cost."""
    cfg: DictConfig = composed(*common, "data.validation=fixed", "trainer=cpu", *rows)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        record = run(RunSpec.of(cfg, Path(directory)))
    facts = asdict(record) | {"arm": arm, "fraction": float(fraction)}
    names = ("arm", "task", "model", "method", "fraction", "seed", "train_rows", "validation_rows",
             "test", "validation", "evaluations", "epochs")  # fmt: skip
    line = {name: facts[name] for name in names} | {"cpu": time.process_time() - began}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return record


def table(runs: pd.DataFrame) -> str:
    """Mean outer scores by task, fraction and arm, and each arm's difference to `fixed`."""
    place = ["task", "fraction", "method", "seed"]
    fixed = runs[runs["arm"] == ARMS[0]].set_index(place)["test"].rename("base")
    runs = runs.join(fixed, on=place)
    runs["difference"] = runs["test"] - runs["base"]
    runs["optimism"] = runs["validation"] - runs["test"]
    validated = runs["evaluations"] * runs["validation_rows"]
    runs["cost"] = validated / (runs["epochs"] * runs["train_rows"])
    lines = [
        "| task | fraction | validation | train + validation rows | outer score | "
        "difference to fixed (s.e.) | validation - outer | rows validated / trained |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (task, fraction, arm), cells in runs.groupby(["task", "fraction", "arm"]):
        mean = cells.mean(numeric_only=True)
        lines.append(
            f"| {task} | {fraction:g} | {arm} | {mean['train_rows']:.0f} + "
            f"{mean['validation_rows']:.0f} | {mean['test']:.4f} | "
            f"{mean['difference']:+.4f} ({cells['difference'].sem():.4f}) | "
            f"{mean['optimism']:+.4f} | {mean['cost']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
