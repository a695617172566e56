"""A whole run in a fresh process, from command to score: the Trainer's script against train.py."""

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peers import page, rows
from peers.processes import Cost, environment, measured, note, output

Runs = dict[str, Callable[[], str]]  # contender -> its run, which returns JSON


def table(given: Namespace) -> str:
    """Measure and describe."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        env = environment(given.threads, work / "cache")
        place = {"task": given.task, "model": given.model, "share": given.fraction}
        shared = rows.fraction(work / "rows", **place)
        runs: Runs = {
            name: partial(output, trainer(given, shared, name, given.method), env)
            for name in given.peers
        }
        for options in given.ours:
            runs[ours(options)] = partial(_ours, given, options, work, env)
        return _table(given, *_take_turns(given, runs))


def stand_in(given: Namespace, method: str) -> str:
    """The method that a peer runs for one of ours: another one if theirs is not to be had."""
    return "bitfit" if method == "houlsby" and not given.adapters_python else method


def ours(options: str) -> str:
    """A variant's name in the tables."""
    return f"ours `{options}`" if options else "ours"


def trainer(
    given: Namespace, shared: rows.Shared, setting: str, method: str, seed: str = "0"
) -> list[str]:
    """The command of a peer's run."""
    run = stand_in(given, method)
    python = given.adapters_python if run == "houlsby" else sys.executable
    spec = shared.spec(
        method=run,
        setting=setting,
        epochs=given.epochs,
        batch=given.batch,
        seed=int(seed),
        lr=rows.rate(method, given.model),
    )
    return [python, "-m", "peers.trainer_cell", json.dumps(spec)]


def common(given: Namespace, options: str) -> list[str]:
    """What all of finegrid's runs have in common."""
    return [
        f"task={given.task}",
        f"model={given.model}",
        f"budget.epochs={given.epochs}",
        f"evaluations={given.epochs}",
        f"data.batch_size={given.batch}",
        *options.split(),
    ]


def trained(record: dict[str, int]) -> int:
    """How many parameters a run of ours trained."""
    return sum(record[f"params_{part}"] for part in ("delta", "pooler", "head"))


def _ours(given: Namespace, options: str, work: Path, env: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory(dir=work) as directory:
        own = [f"method={given.method}", f"data.fraction={given.fraction}"]
        line = ["train.py", *own, *common(given, options), f"hydra.run.dir={directory}"]
        output([sys.executable, *line], env)
        record = json.loads(Path(directory, "record.json").read_text(encoding="utf-8"))
    facts = {"parameters": trained(record), "memory": record["peak_memory_bytes"]}
    return json.dumps(facts | {"scores": record["metrics"]["test"]})


def _take_turns(given: Namespace, runs: Runs) -> tuple[dict[str, list[Cost]], dict[str, float]]:
    """Run every contender once a round, each round from another one on; costs and peak bytes."""
    memory: dict[str, float] = {}
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    found: dict[str, int] = {}
    names = list(runs)
    for number in range(given.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with measured() as cost:
                answer = runs[name]().strip().splitlines()[-1]
            costs[name].append(cost)
            found[name] = json.loads(answer)["parameters"]
            memory[name] = json.loads(answer)["memory"]
            note(f"round {number + 1} {name}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU-s, {answer}")
    same = stand_in(given, given.method) == given.method
    assert not same or len(set(found.values())) == 1, f"trainable parameters differ: {found}"
    return costs, memory


def _table(given: Namespace, costs: dict[str, list[Cost]], memory: dict[str, float]) -> str:
    variants = [ours(options) for options in given.ours]
    ratio = [f"{name} over it, {unit}" for name in variants for unit in ("wall", "CPU")]
    lines = []
    for name, spent in costs.items():
        seconds = [page.middle(list(values)) for values in _seconds(spent)]
        over = [
            page.spread(page.ratios(theirs, mine))
            for variant in variants
            for theirs, mine in zip(_seconds(spent), _seconds(costs[variant]), strict=True)
        ]
        peak = f"{memory[name] / 2**20:.0f}"
        lines.append([name, *seconds, peak, *(over if name in given.peers else ["" for _ in over])])
    peer = stand_in(given, given.method)
    lacking = "" if peer == given.method else f" (peers: {peer}, adapters not given)"
    about = f"{given.task} {given.fraction}, {given.method}{lacking}, {given.epochs} epochs"
    titles = [
        "contender",
        "wall s",
        "CPU s",
        "peak MB",
        *(title.replace("over it", "faster") for title in ratio),
    ]
    return f"{about}, {given.threads} threads:\n\n{page.table(titles, lines)}"


def _seconds(spent: list[Cost]) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds, one a round."""
    return [cost.wall for cost in spent], [cost.cpu for cost in spent]
