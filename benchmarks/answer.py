"""What an answer costs in CPU-seconds: finegrid, version 0.6 and the best peer's loop.

python benchmarks/answer.py finegrid --keep multirun/answer --out answer.json
python benchmarks/answer.py before,peer --before 0.6.0/ --adapters-python PY --out answer.json

The question: which of six methods is the best on MRPC and STS-B at a tenth of the rows (MiniLM),
with 8 rates a method and a verdict at 5 % from up to 10 seeds.

`finegrid` runs it for real: searched, raced, fused. `before` is version 0.6 in a checkout of its
own: every rate at full length, every seed, the test rows scored twice, fused. `peer` is the Trainer
with peft and adapters: dynamic padding, the precision that is fast here, one process for many
cells. Same rows to train on, to validate on and to test on, batch size, longest text and epochs for
all three; `shipped` is `before` with the validation rows that 0.6 carves by itself, five times as
many on MRPC. Of all but finegrid a sample runs, task by task and in turns, and is scaled to all
cells. `--out` gathers what several calls measured; the table is of all of it. Restrict the command
to one core (`taskset -c 0`) for cells one at a time: busy neighbours make CPU-seconds longer.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

from peers import page, rows  # the package beside this file
from peers.processes import ROOT, Contender, environment, measured, note

METHODS = ("full", "bitfit", "lora", "houlsby", "ia3", "head")
TASKS = ("mrpc", "stsb")
RATES, SEEDS = 8, 10
MODEL, BATCH = "minilm", 8
LABELS = ("data.fraction=0.1", "data.validation=share")
FACTORS = [0.1, 0.2, 0.4, 0.7, 1.4, 2.7, 5.2, 10]  # 0.6's rates; what they are costs the same
TINY = ("method=head", "task=builtin_paraphrase", "model=tiny", "budget=steps", "budget.steps=1",
        "evaluations=1")  # fmt: skip
SHARE = 0.2  # of the labelled rows for validation: finegrid's `data.validation=share`
SIDES = {"shipped": "0.6 with more validation rows", "before": "0.6's way",
         "peer": "the peer's loop", "finegrid": "finegrid"}  # fmt: skip
Measure = dict[str, Any]  # cells that ran: rates, seeds; their CPU-seconds, and those of all cells
Side = Callable[[argparse.Namespace, Sequence[str]], Measure]


def main() -> None:
    """Measure the sides that are asked for, then print the table of all that was measured."""
    given = parsed()
    sampled: dict[str, Side] = {
        "before": before,
        "shipped": partial(before, shipped=True),
        "peer": peer,
    }
    if "finegrid" in given.sides:
        add(given, finegrid, "finegrid", TASKS)
    sides = [side for side in given.sides if side in sampled]
    for _, task, side in itertools.product(range(given.rounds), given.tasks, sides):
        add(given, sampled[side], side, [task])
    print(table(read(given.out)))
    for side, directory in (text.split("=", 1) for text in given.sentence):
        print(f"\n{side}: {sentence(Path(directory))}")


def add(given: argparse.Namespace, side: Side, name: str, tasks: Sequence[str]) -> None:
    """Measure one side on some tasks and keep what it gave."""
    load = os.getloadavg()[0]
    measure = {"side": name, "tasks": tasks, "epochs": given.epochs} | side(given, tasks)
    measure |= {"load": [load, os.getloadavg()[0]]}
    note(json.dumps(measure))
    given.out.write_text(json.dumps([*read(given.out), measure], indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = partial(str.split, sep=",")
    parser.add_argument(
        "sides", nargs="?", default=[], help="finegrid, before, shipped, peer", type=words
    )
    parser.add_argument("--tasks", default=list(TASKS), help="to sample", type=words)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--sample", type=int, default=1, help="rates and seeds of a sample")
    parser.add_argument("--rounds", type=int, default=1, help="times that a sample runs")
    parser.add_argument("--keep", type=Path, help="finegrid's sweep directory")
    parser.add_argument("--cpu", type=float, help="its CPU-seconds, if it has run already")
    parser.add_argument("--before", type=Path, help="checkout of version 0.6.0")
    parser.add_argument("--adapters-python", help="interpreter that has adapters and accelerate")
    parser.add_argument("--setting", default="best", help="the peer's, see peers/trainer.py")
    parser.add_argument("--out", type=Path, required=True, help="JSON to add the measurements to")
    parser.add_argument(
        "--sentence", action="append", default=[], help="SIDE=DIR: what that sweep's records say"
    )
    return parser.parse_args()


def finegrid(given: argparse.Namespace, tasks: Sequence[str]) -> Measure:
    """The whole question, asked by one command, or what it cost when it ran."""
    asked = [*_grid(tasks), *LABELS, f"seed=range(0,{SEEDS})", f"tune.trials={RATES}", "race=best"]
    with tempfile.TemporaryDirectory() as work:
        ask = partial(_sweep, ROOT, [*asked, f"budget.epochs={given.epochs}"])
        cpu = given.cpu or ask(given.keep, Path(work))
    records = [json.loads(path.read_text()) for path in given.keep.rglob("record.json")]
    trials = sum(record["trial"] is not None for record in records)
    return {"cells": [trials, len(records) - trials], "cpu": cpu, "all": cpu}


def before(given: argparse.Namespace, tasks: Sequence[str], *, shipped: bool = False) -> Measure:
    """A sample of 0.6's cells: some rates, then some seeds; a command's start is not scaled."""
    some = ",".join(map(str, range(given.sample)))
    search = ["experiment=tune", f"trial={some}", f"tune.factors={FACTORS}"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        common = [*_grid(tasks), f"budget.epochs={given.epochs}"]
        common += [LABELS[0]] if shipped else _labelled(tasks, work / "rows")
        start = _sweep(given.before, [*TINY, "seed=0"], work / "start", work)
        tried = _sweep(given.before, [*search, *common], work / "tried", work)
        seeds = _sweep(given.before, [f"seed={some}", *common], work / "seeds", work)
    note(f"0.6 on {tasks}: start {start:.1f}, rates {tried:.1f}, seeds {seeds:.1f} CPU-s")
    scaled = (RATES * (tried - start) + SEEDS * (seeds - start)) / given.sample
    cells = len(tasks) * len(METHODS) * given.sample
    return {"cells": [cells, cells], "cpu": tried + seeds, "all": scaled + 2 * start}


def _labelled(tasks: Sequence[str], folder: Path) -> list[str]:
    """What lets 0.6 carve validation from the labelled rows, of which it trains on the others."""
    for task in tasks:
        rows.labelled(folder, f"task={task}", f"model={MODEL}", LABELS[0])
    return [f"data.source={folder}", f"data.validation_fraction={SHARE}"]


def peer(given: argparse.Namespace, tasks: Sequence[str]) -> Measure:
    """A sample of seeds of one task; a rate's run is a seed's without the test."""
    (task,) = tasks
    with tempfile.TemporaryDirectory() as folder, measured() as cost:
        work, answers = Path(folder), list[dict[str, Any]]()
        env = environment(1, work / "cache")
        shared = rows.holdout(work / "rows", f"task={task}", f"model={MODEL}", *LABELS)
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
    return {"cells": [0, len(answers)], "cpu": cost.cpu, "all": scaled + cost.cpu - fit - test}


def _grid(tasks: Sequence[str]) -> list[str]:
    """What every side of ours runs."""
    return [f"method={','.join(METHODS)}", f"task={','.join(tasks)}", f"model={MODEL}",
            f"data.batch_size={BATCH}"]  # fmt: skip


def _sweep(checkout: Path, arguments: Sequence[str], directory: Path, work: Path) -> float:
    """CPU-seconds of one sweep by a checkout's train.py."""
    place = f"hydra.sweep.dir={directory.resolve()}"
    env = environment(1, work / "cache") | {"PYTHONPATH": str(checkout.resolve() / "src")}
    command = [sys.executable, str(checkout.resolve() / "train.py"), "-m", *arguments, place]
    with measured() as cost:
        subprocess.run(command, cwd=ROOT, env=env, stdout=sys.stderr, check=True)
    return cost.cpu


def read(path: Path) -> list[Measure]:
    """What has been measured so far."""
    return json.loads(path.read_text()) if path.exists() else []


def table(measures: Sequence[Measure]) -> str:
    """A line a side, at last its shares of the others; of a sampled one the mean of its rounds."""
    titles = ["side", "rates", "seeds", "CPU-s", "rounds", "load", "of 0.6's", "of the peer's"]
    total = {side: _total(measures, side) for side in SIDES}
    lines = []
    for side, cpu in total.items():
        mine = [measure for measure in measures if measure["side"] == side]
        cells = [str(sum(measure["cells"][part] for measure in mine)) for part in (0, 1)]
        rounds = "; ".join(f"{' '.join(m['tasks'])} {m['all']:.0f}" for m in mine)
        loads = page.spread([load for m in mine for load in m["load"]] or [nan], 1)
        shares = [f"{cpu / total[other]:.2f}" for other in ("before", "peer")]
        lines.append([SIDES[side], *cells, f"{cpu:.0f}", rounds, loads, *shares])
    return page.table(titles, lines)


def _total(measures: Sequence[Measure], side: str) -> float:
    """CPU-seconds of all cells of a side; not a number where a task is not measured."""
    of_task: dict[str, list[float]] = defaultdict(list)
    for measure in measures:
        if measure["side"] == side:
            of_task[" ".join(measure["tasks"])].append(measure["all"])
    every = sorted(TASKS) == sorted(" ".join(of_task).split())
    return sum(map(statistics.fmean, of_task.values())) if every else nan


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
