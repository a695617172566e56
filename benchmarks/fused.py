"""K runs in one pass against the same K runs one after the other: rows a second.

python benchmarks/fused.py --task mrpc,cola --method bitfit,lora,houlsby --runs 2,4,8 --rounds 10

Whole training steps, with dropout, clipping and AdamW, each run with rows, seeds and weights of its
own. Both ways alternate, step by step. Seconds are the process's CPU-seconds, on a GPU those
between two events.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from peers.rows import composed  # the package beside this file

from finegrid.config import RunConfig, TrainerConfig
from finegrid.data.batching import BucketSampler, TokenizedDataset
from finegrid.kernels.dropout import draw_from, patch_dropout
from finegrid.kernels.optimize import optimize
from finegrid.models import backbone
from finegrid.models.backbone import Backbone
from finegrid.strategies.fused_model import FusedBackbone
from finegrid.tasks.task import Task
from finegrid.training.components import build_method, rows_of
from finegrid.training.device import accelerator
from finegrid.training.module import FineTuner, logits_of

Batches = dict[int, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One of the runs: its model, its optimizer, its order of rows."""

    module: FineTuner
    optimizer: torch.optim.Optimizer
    order: list[list[int]]


def main() -> None:
    """Measure and print a Markdown table."""
    given = parsed()
    torch.set_num_threads(given.threads)
    print("| task | method | runs | rows/s apart | together | ratio (quartiles) |")
    print("|---|---|---|---|---|---|")
    for task, method, count in itertools.product(given.task, given.method, given.runs):
        print(line(given, task, method, int(count)), flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = partial(str.split, sep=",")
    parser.add_argument("--task", type=words, default=["mrpc", "cola"])
    parser.add_argument("--method", type=words, default=["bitfit", "lora", "houlsby"])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--runs", type=words, default=["2", "4", "8"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--override", action="append", default=[])
    return parser.parse_args()


def line(given: argparse.Namespace, task: str, method: str, count: int) -> str:
    """One row of the table."""
    cfg = composed(f"task={task}", f"method={method}", f"model={given.model}", *given.override)
    config = RunConfig.of(cfg)
    told, _, encoded = rows_of(config)
    trainer = TrainerConfig(device="auto", precision=given.precision, threads=None)
    device = torch.device("cuda" if accelerator(trainer) == "gpu" else "cpu")
    base = backbone.build(config.model, outputs=told.outputs, seed=0)
    base.model.to(device)
    runs = [made(cfg, config, told, encoded["train"], base, seed) for seed in range(count)]
    shared = FusedBackbone(base, [run.module.backbone for run in runs])
    autocast = partial(
        torch.autocast, device.type, torch.bfloat16, enabled=given.precision == "bf16-mixed"
    )
    ways = {
        "apart": partial(apart, runs, autocast),
        "together": partial(fused, runs, shared, autocast),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(given.rounds + 2):
        batches = drawn(runs, encoded["train"], number, device)
        for way in sorted(ways, reverse=number % 2 == 0):
            took = timed(partial(step, runs, ways[way], batches), device)
            if number > 1:  # the first two warm up
                seconds[way].append(took)
    return row(task, method, count, seconds, config.data.batch_size)


def row(task: str, method: str, count: int, seconds: dict[str, list[float]], rows: int) -> str:
    """The medians, and the median of the ratios with the quartiles around it."""
    rate = {way: count * rows / statistics.median(each) for way, each in seconds.items()}
    pairs = zip(seconds["apart"], seconds["together"], strict=True)
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return (
        f"| {task} | {method} | {count} | {rate['apart']:.0f} | {rate['together']:.0f} "
        f"| **{middle:.2f}** ({low:.2f}..{high:.2f}) |"
    )


def made(
    cfg: DictConfig,
    config: RunConfig,
    task: Task,
    rows: TokenizedDataset,
    base: Backbone,
    seed: int,
) -> Run:
    """A run of a seed, ready to train."""
    mine = base.sharing(seed=seed)
    optimize(mine.model)
    build_method(RunConfig.of(cfg).method).tune(mine, seed=seed)
    mine.own()
    module = FineTuner(mine, task, config.optim, seed=seed)
    module.model.train()
    patch_dropout(module.model)  # what the method injected
    draw_from(module.model, np.random.SFC64(seed))
    order = list(BucketSampler(rows.lengths, batch_size=config.data.batch_size, seed=seed))
    return Run(module, module.configure_optimizers(), order)


def drawn(runs: list[Run], rows: TokenizedDataset, number: int, device: torch.device) -> Batches:
    """Each run's batch of a step."""
    found = {}
    for index, run in enumerate(runs):
        batch = rows.batch(run.order[number % len(run.order)])
        del batch["real_tokens"]
        found[index] = {name: value.to(device) for name, value in batch.items()}
    return found


def apart(
    runs: list[Run], autocast: Callable[[], Any], batches: Batches, update: Callable[[int], None]
) -> None:
    """One run's whole step after the other's."""
    for index, batch in batches.items():
        module = runs[index].module
        with autocast():
            logits = logits_of(module.model, batch)
        module.loss_of(logits, batch).backward()  # type: ignore[no-untyped-call]
        update(index)


def fused(
    runs: list[Run],
    shared: FusedBackbone,
    autocast: Callable[[], Any],
    batches: Batches,
    update: Callable[[int], None],
) -> None:
    """One pass for all."""
    with autocast():
        logits = shared(batches)
    losses = [runs[index].module.loss_of(logits[index], batches[index]) for index in batches]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    for index in batches:
        update(index)


def step(runs: list[Run], way: Callable[..., None], batches: Batches) -> None:
    """A training step of all runs."""

    def update(index: int) -> None:
        optimizer = runs[index].optimizer
        runs[index].module.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    way(batches, update)


def timed(work: Callable[[], None], device: torch.device) -> float:
    """CPU-seconds of some work, or the GPU's."""
    if device.type == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / 1000


if __name__ == "__main__":
    main()
