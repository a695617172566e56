"""What a sweep costs beyond training: `python benchmarks/launchers.py slots basic fresh`.

Runs one 24-cell builtin grid with each engine, one after the other, and prints for each the wall
time, the CPU time of every process involved, and both a cell beyond what the cells' records say
went into training and evaluation. `fresh` is the usual way without a sweep: one process a cell, two
at a time. Engines of other environments (joblib, ray) are run with `--python` there; SLURM's jobs
are no descendants of this process, so their CPU time is unknown.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from peers import processes  # the package beside this file

ROOT = Path(__file__).resolve().parents[1]
AXES = {
    "method": ("head", "bitfit", "lora"),
    "data.fraction": ("0.3", "1.0"),
    "seed": ("0", "1", "2", "3"),
}
COMMON = ("budget=steps", "budget.steps=20", "evaluations=2", "trainer.threads=1")
SLOTS = 2
OPTIONS = {
    "slots": [f"hydra.launcher.cpu_slots={SLOTS}"],
    "basic": [],
    "joblib": [f"hydra.launcher.n_jobs={SLOTS}"],
    "ray": ["hydra.launcher.num_cpus=1", f"hydra.launcher.local_cpus={SLOTS}"],
    "slurm": [f"hydra.launcher.{option}" for option in ("cpus_per_task=1", "mem_gb=2")],
}


def main() -> None:
    """Measure the engines named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="+", choices=[*OPTIONS, "fresh"])
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the engine")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    print(
        "| engine | wall s | CPU s | train + eval s | wall s a cell beyond | CPU s a cell beyond |"
    )
    print("|---|---|---|---|---|---|")
    for _, engine in itertools.product(range(given.rounds), given.engines):
        with tempfile.TemporaryDirectory(dir=ROOT / "multirun") as directory:
            print(measured(engine, given.python, Path(directory)), flush=True)


def measured(engine: str, python: str, directory: Path) -> str:
    """Run the grid with an engine; its row of the table."""
    run = fresh if engine == "fresh" else sweep
    with processes.measured() as cost:
        run(engine, python, directory)
    wall, cpu = cost.wall, cost.cpu
    records = [json.loads(path.read_text()) for path in directory.rglob("record.json")]
    cells = [record for record in records if record["status"] == "ok"]
    assert len(cells) == len(commands()), f"{engine}: {len(cells)} cells are ok"
    useful = sum(record["train_seconds"] + record["eval_seconds"] for record in cells)
    at_once = 1 if engine == "basic" else SLOTS
    beyond = ((wall - useful / at_once) / len(cells), (cpu - useful) / len(cells))
    used = ("?", "?") if engine == "slurm" else (f"{cpu:.1f}", f"{beyond[1]:.2f}")
    return f"| {engine} | {wall:.1f} | {used[0]} | {useful:.1f} | {beyond[0]:.2f} | {used[1]} |"


def sweep(engine: str, python: str, directory: Path) -> None:
    """One multirun command."""
    axes = [f"{key}={','.join(values)}" for key, values in AXES.items()]
    options = [f"hydra/launcher={engine}", f"hydra.sweep.dir={directory}", "report=false"]
    options += OPTIONS[engine]
    call(python, ["-m", *axes, *COMMON, *options])


def fresh(engine: str, python: str, directory: Path) -> None:
    """One process a cell, as many at a time as there are slots."""
    running: list[subprocess.Popen[bytes]] = []
    for number, overrides in enumerate(commands()):
        if len(running) == SLOTS:
            running.pop(0).wait()
        line = [python, "train.py", *overrides, *COMMON, f"hydra.run.dir={directory}/{number}"]
        running.append(
            subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
    for process in running:
        process.wait()


def commands() -> list[list[str]]:
    """Each cell's overrides."""
    keys = list(AXES)
    products = itertools.product(*AXES.values())
    return [[f"{k}={v}" for k, v in zip(keys, values, strict=True)] for values in products]


def call(python: str, arguments: Sequence[str]) -> None:
    """Run train.py quietly; its output is shown if it fails."""
    ended = subprocess.run(
        [python, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    if ended.returncode:
        sys.exit(f"{ended.stdout}{ended.stderr}")


if __name__ == "__main__":
    main()
