"""What an answer costs in CPU-seconds: finegrid, version 0.6 and the best peer's loop.

python benchmarks/answer.py finegrid --keep multirun/answer --out answer.json
python benchmarks/answer.py before,peer --before 0.6.0/ --adapters-python PY --out answer.json

The question: which of six methods is the best on MRPC and STS-B at a tenth of the rows (MiniLM),
with 8 rates a method and a verdict at 5 % from up to 10 seeds.

`finegrid` runs it for real: searched, raced, fused. `before` is version 0.6 in a checkout of its
own: every rate at full length, every seed, the test rows scored twice, fused. `peer` is the Trainer
with peft and adapters: dynamic padding, the precision that is fast here, one process for many
cells. Of the last two a sample runs, task by task and in turns, and is scaled to all cells. Same
rows, batch size, longest text and epochs for all. `--out` gathers what several calls measured; the
table is of all of it. Restrict the command to one core (`taskset -c 0`) for cells one at a time:
neighbours on the other core make CPU-seconds longer.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peers import page, rows
from peers.processes import ROOT, Contender, environment, measured, note, output

METHODS = ("full", "bitfit", "lora", "houlsby", "ia3", "head")
TASKS = ("mrpc", "stsb")
RATES, SEEDS = 8, 10
MODEL, FRACTION, BATCH = "minilm", "0.1", 16
FACTORS = [0.1, 0.2, 0.4, 0.7, 1.4, 2.7, 5.2, 10]  # 0.6's rates; what they are costs the same
TINY = ("method=head", "task=builtin_paraphrase", "model=tiny", "budget=steps", "budget.steps=1",
        "evaluations=1")  # fmt: skip
Measure = dict[str, Any]  # side, task, cells that ran, `of` all, their CPU-seconds, those of all


def main() -> None:
    """Measure the sides that are asked for, then print the table of all that was measured."""
    given = parsed()
    for number, task, side in itertools.product(range(given.rounds), given.tasks, given.sides):
        if side == "finegrid":
            if number == 0 and task == given.tasks[0]:
                add(given.out, finegrid(given))
            continue
        load = os.getloadavg()[0]
        measure = {"before": before, "peer": peer}[side](given, task)
        measure |= {"side": side, "task": task, "load": [load, os.getloadavg()[0]]}
        add(given.out, measure | {"epochs": given.epochs})
    print(table(read(given.out)))
    for side, directory in (text.split("=", 1) for text in given.sentence):
        print(f"\n{side}: {sentence(Path(directory))}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = {"type": lambda text: text.split(",")}
    parser.add_argument("sides", nargs="?", default=[], help="finegrid, before, peer", **words)
    parser.add_argument("--tasks", default=list(TASKS), help="to sample", **words)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sample", type=int, default=1, help="rates and seeds of a sample")
    parser.add_argument("--rounds", type=int, default=1, help="times that a sample runs")
    parser.add_argument("--keep", type=Path, help="finegrid's sweep directory")
    parser.add_argument("--before", type=Path, help="checkout of version 0.6.0")
    parser.add_argument("--adapters-python", help="interpreter that has adapters and accelerate")
    parser.add_argument("--setting", default="best", help="the peer's, see peers/trainer.py")
    parser.add_argument("--out", type=Path, required=True, help="JSON to add the measurements to")
    parser.add_argument(
        "--sentence", action="append", default=[], help="SIDE=DIR: what that sweep's records say"
    )
    return parser.parse_args()


def finegrid(given: argparse.Namespace) -> Measure:
    """The whole question, asked by one command; started again, it goes on."""
    asked = ["-m", *_grid(TASKS), f"seed=range(0,{SEEDS})", f"tune.trials={RATES}", "race=best"]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        cpu = _sweep(ROOT, [*asked, f"budget.epochs={given.epochs}"], given.keep, Path(work))
    records = [json.loads(path.read_text()) for path in given.keep.rglob("record.json")]
    seeds = sum(record["seed"] in range(SEEDS) for record in records)
    cells = f"{len(records) - seeds} trials, {seeds}"
    return {"side": "finegrid", "task": "all", "cells": cells, "of": _cells(len(TASKS)),
            "cpu": cpu, "all": cpu, "load": [load, os.getloadavg()[0]],
            "epochs": given.epochs}  # fmt: skip


def before(given: argparse.Namespace, task: str) -> Measure:
    """A sample of 0.6's cells: some rates, then some seeds; a command's start is scaled to none."""
    common = [*_grid([task]), f"budget.epochs={given.epochs}"]
    some = ",".join(map(str, range(given.sample)))
    search = ["experiment=tune", f"trial={some}", f"tune.factors={FACTORS}"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        start = _sweep(given.before, ["-m", *TINY, "seed=0"], work / "start", work)
        tried = _sweep(given.before, ["-m", *search, *common], work / "tried", work)
        seeds = _sweep(given.before, ["-m", f"seed={some}", *common], work / "seeds", work)
    scaled = (RATES * (tried - start) + SEEDS * (seeds - start)) / given.sample
    note(f"0.6 {task}: start {start:.1f}, rates {tried:.1f}, seeds {seeds:.1f} CPU-s")
    return {"cells": 2 * given.sample * len(METHODS), "of": _cells(1),
            "cpu": tried + seeds, "all": scaled + 2 * start}  # fmt: skip


def peer(given: argparse.Namespace, task: str) -> Measure:
    """A sample of seeds; a rate's run is a seed's without the test."""
    with tempfile.TemporaryDirectory() as folder, measured() as cost:
        work, answers = Path(folder), list[dict[str, Any]]()
        env = environment(1, work / "cache")
        shared = rows.holdout(work / "rows", task=task, model=MODEL, share=FRACTION)
        with ExitStack() as stack:
            usual = Contender("loop", sys.executable, env, stack)
            adapters = Contender("loop", given.adapters_python, env, stack)
            for seed, method in itertools.product(range(given.sample), METHODS):
                spec = shared.spec(
                    method=method, setting=given.setting, epochs=given.epochs, batch=BATCH,
                    seed=seed, lr=rows.rate(method, MODEL),
                )  # fmt: skip
                answers.append((adapters if method == "houlsby" else usual).ask(spec))
                note(f"peer {task} {method}: {json.dumps(answers[-1])}")
    fit, test = (sum(answer[part] for answer in answers) for part in ("fit", "test"))
    scaled = ((RATES + SEEDS) * fit + SEEDS * test) / given.sample
    return {"cells": len(answers), "of": _cells(1),
            "cpu": cost.cpu, "all": scaled + cost.cpu - fit - test}  # fmt: skip


def _grid(tasks: Sequence[str]) -> list[str]:
    """What every side of ours runs."""
    return [f"method={','.join(METHODS)}", f"task={','.join(tasks)}", f"model={MODEL}",
            f"data.fraction={FRACTION}", f"data.batch_size={BATCH}"]  # fmt: skip


def _cells(tasks: int) -> int:
    return tasks * len(METHODS) * (RATES + SEEDS)


def _sweep(checkout: Path, arguments: Sequence[str], directory: Path, work: Path) -> float:
    """CPU-seconds of one sweep by a checkout's train.py."""
    env = environment(1, work / "cache")
    env["PYTHONPATH"] = str(checkout.resolve() / "src")
    train = checkout.resolve() / "train.py"
    with measured() as cost:
        place = f"hydra.sweep.dir={directory.resolve()}"
        note(output([sys.executable, str(train), *arguments, place], env).splitlines()[-1])
    return cost.cpu


def read(path: Path) -> list[Measure]:
    """What has been measured so far."""
    return json.loads(path.read_text()) if path.exists() else []


def add(path: Path, measure: Measure) -> None:
    """Keep a measurement."""
    note(json.dumps(measure))
    path.write_text(json.dumps([*read(path), measure], indent=1) + "\n")


def table(measures: Sequence[Measure]) -> str:
    """A line a side; the mean of its rounds for each task, and finegrid's as it ran."""
    total = {side: _total(measures, side) for side in ("before", "peer", "finegrid")}
    titles = [
        "side",
        "cells run",
        "of",
        "CPU-s of all",
        "rounds",
        "load",
        "of 0.6's",
        "of the peer's",
    ]
    return page.table(titles, _lines(measures, total))


def _lines(measures: Sequence[Measure], total: dict[str, float | None]) -> Iterator[list[str]]:
    for side, cpu in total.items():
        mine = [measure for measure in measures if measure["side"] == side]
        if cpu is None:
            continue
        rounds = "; ".join(f"{measure['task']} {measure['all']:.0f}" for measure in mine)
        loads = [load for measure in mine for load in measure["load"]]
        shares = [
            f"{cpu / other:.2f}" if (other := total[name]) else "" for name in ("before", "peer")
        ]
        cells = " + ".join(str(measure["cells"]) for measure in mine)
        yield [
            side,
            cells,
            str(_cells(len(TASKS))),
            f"{cpu:.0f}",
            rounds,
            page.spread(loads, 1),
            *shares,
        ]


def _total(measures: Sequence[Measure], side: str) -> float | None:
    """CPU-seconds of all cells of a side: of a sampled one every task must be there.

    finegrid's measurements are parts of one run, where it was stopped and went on.
    """
    mine = [measure for measure in measures if measure["side"] == side]
    if side == "finegrid":
        return sum(measure["all"] for measure in mine) or None
    tasks = [[m["all"] for m in mine if m["task"] == task] for task in TASKS]
    return sum(map(statistics.fmean, tasks)) if all(tasks) else None


def sentence(directory: Path) -> str:
    """What a sweep's report says first of each task: the best method, and those level with it."""
    from finegrid.report.comparison import Comparison
    from finegrid.report.headlines import headlines
    from finegrid.report.load import rankings

    said = []
    for headline in headlines(Comparison.of(rankings.load([directory]))):
        best, level = headline.main.best.name, ", ".join(headline.main.level)
        stands = f"level with {level}" if level else "the best"
        learned = f"{best} is {stands}" if headline.main.learned else "no method learned anything"
        said.append(f"{headline.task}: {learned}")
    return "; ".join(said)


if __name__ == "__main__":
    main()
