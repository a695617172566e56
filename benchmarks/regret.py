"""How far the rates that the search finds are from the best of a grid: regret in test score.

python benchmarks/regret.py grid,search --dir multirun/regret --seeds 0,1
python benchmarks/regret.py --dir multirun/regret --seeds 0,1   # the table of what has run

`grid` runs 12 rates a method, evenly spaced (in logarithms) over the space that the search draws
from. `search` searches with `--trials` rates on validation rows and tuning seeds, then runs the
rates found. Both are scored on test rows, which the search never sees, with the same seeds. The
regret is the grid's best mean score minus that of the rate found. The best of 12 noisy means is too
good by chance, so regret is overstated, the more so the fewer the seeds. Both are sweeps: started
again, they run what is missing.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
from peers import page, rows  # the package beside this file
from peers.processes import ROOT, measured, note

from finegrid.runs import layout, record

SPACE = (0.1, 10)  # of a method that names none, times its published rate
FAILED = 0.0  # score of a run that diverged, as in the search
# (task, method, rows and budget) -> rate -> seed -> score
Scores = dict[tuple[str, str, str], dict[float, dict[int, float]]]


def main() -> None:
    """Run the sweeps that are asked for, then print the table."""
    given = parsed()
    for part in given.parts:
        for command in {"grid": grid, "search": search}[part](given):
            with measured() as cost:
                subprocess.run(command, cwd=ROOT, check=True)
            note(f"{part}: {cost.cpu:.0f} CPU-s, {cost.wall:.0f} s")
    print(table(given))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = {"type": lambda text: text.split(",")}
    parser.add_argument("parts", nargs="?", default=[], help="grid, search", **words)
    parser.add_argument("--dir", type=Path, required=True, help="of both sweeps")
    parser.add_argument(
        "--searched", type=Path, nargs="+", default=[], help="other sweeps that searched alike"
    )
    parser.add_argument("--methods", default=["houlsby", "bitfit", "lora"], **words)
    parser.add_argument("--tasks", default=["mrpc", "cola", "stsb"], **words)
    parser.add_argument("--seeds", default=["0", "1"], help="to report", **words)
    parser.add_argument("--rates", type=int, default=12, help="of the grid")
    parser.add_argument("--trials", type=int, default=8, help="of the search")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--fraction", default="0.1")
    parser.add_argument("--override", action="append", default=[], help="of both sweeps")
    return parser.parse_args()


def grid(given: argparse.Namespace) -> Iterator[list[str]]:
    """A sweep a method, whose rates are its own."""
    for method in given.methods:
        config = rows.composed(f"method={method}", f"model={given.model}")
        low, high = config.method.get("search", {}).get("optim.lr", SPACE)
        factors = np.geomspace(low, high, given.rates)
        rates = ",".join(f"{factor * config.optim.lr:.3g}" for factor in factors)
        yield _sweep(given, "grid", f"method={method}", f"optim.lr={rates}")


def search(given: argparse.Namespace) -> Iterator[list[str]]:
    """One sweep that searches and then runs the rates found."""
    methods = f"method={','.join(given.methods)}"
    yield _sweep(given, "search", methods, f"tune.trials={given.trials}")


def _sweep(given: argparse.Namespace, part: str, *arguments: str) -> list[str]:
    axes = [f"task={','.join(given.tasks)}", f"seed={','.join(given.seeds)}"]
    common = [f"model={given.model}", f"data.fraction={given.fraction}", "report=false"]
    place = f"hydra.sweep.dir={(given.dir / part).resolve()}"
    return [sys.executable, "train.py", "-m", *arguments, *axes, *common, *given.override, place]


def scores(given: argparse.Namespace, *sweeps: Path) -> Scores:
    """The test scores of sweeps' runs; those of the search itself have none."""
    found: Scores = defaultdict(lambda: defaultdict(dict))
    for directory in (run for sweep in sweeps for run in layout.run_directories(sweep)):
        run = record.read(directory)
        if run.trial is None and str(run.seed) in given.seeds and run.lr is not None:
            score = run.test if run.status == "ok" and run.test is not None else FAILED
            alike = f"{run.train_hash} {run.budget}"  # only such runs are compared
            found[run.task, run.method, alike][run.lr][run.seed] = score
    return found


def table(given: argparse.Namespace) -> str:
    """A line a method and task whose grid has a score, and the mean regret."""
    titles = ("task", "method", "rates", "median", "best", "at", "found", "score", "regret", "sd")
    every, lines, regrets = scores(given, given.dir / "grid"), [], []
    searched = scores(given, given.dir / "search", *given.searched)
    for cell, of_rate in sorted(every.items()):
        means = {rate: fmean(of_seed.values()) for rate, of_seed in of_rate.items()}
        best = max(means, key=lambda rate: means[rate])
        line = [*cell[:2], str(len(means)), f"{median(means.values()):.4f}",
                f"{means[best]:.4f}", f"{best:.3g}"]  # fmt: skip
        for rate, of_seed in searched[cell].items():
            seeds = of_seed.keys() & of_rate[best]
            apart = [of_rate[best][seed] - of_seed[seed] for seed in seeds]
            regrets += apart
            line += _regret(rate, [of_seed[seed] for seed in seeds], apart) if seeds else []
        lines.append(line + [""] * (len(titles) - len(line)))
    mean = f"\n\nmean regret {fmean(regrets):+.4f}" if regrets else ""
    return page.table(titles, lines) + mean


def _regret(rate: float, found: Sequence[float], apart: Sequence[float]) -> list[str]:
    """The rate found, its mean score, and how far the grid's best is from it, seed by seed."""
    spread = f"{stdev(apart):.4f}" if len(apart) > 1 else ""
    return [f"{rate:.3g}", f"{fmean(found):.4f}", f"{fmean(apart):+.4f}", spread]


if __name__ == "__main__":
    main()
