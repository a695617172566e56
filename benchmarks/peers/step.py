"""Throughput of training and evaluation: long-lived contenders that take turns."""

import itertools
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import page, rows
from peers.cell import stand_in
from peers.processes import Contender, environment, note

WARM = 3  # steps before the first round, not counted
Rounds = dict[str, list[dict[str, Any]]]  # contender -> its answers, one a round


@dataclass
class Race:
    """All rounds of one method on one task."""

    task: str
    method: str
    peer: str  # the method that the peers run: another one if theirs is not to be had
    rounds: Rounds = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Method, and what stands in for it among the peers."""
        return self.method if self.peer == self.method else f"{self.method} (peers: {self.peer})"

    def of(self, contender: str, key: str) -> list[Any]:
        """A contender's values, one a round."""
        return [answer[key] for answer in self.rounds[contender]]

    def check(self, contender: str) -> None:
        """A contender must have trained as much of the model, and as long, as finegrid."""
        for key in ("steps", *(("parameters",) if self.peer == self.method else ())):
            theirs, ours = self.of(contender, key), self.of(_ours(0), key)
            assert theirs == ours, f"{self.title} of {contender}: {key} {theirs}, ours {ours}"


def table(given: Namespace) -> str:
    """Measure and describe."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        env = environment(given.threads, work / "cache")
        sides = {_side(given, method) for method in given.method}
        pythons = {"trainer": sys.executable, "adapters": given.adapters_python}
        contenders = {
            (name, side): Contender("trainer", pythons[side], env, stack)
            for name in given.peers
            for side in sides
        }
        mine = {
            _ours(n): Contender("ours", sys.executable, env, stack) for n in range(len(given.ours))
        }
        gauge = Contender("gauge", sys.executable, env, stack)
        races = []
        for task, method in itertools.product(given.task, given.method):
            side = _side(given, method)
            peers = {name: contenders[name, side] for name in given.peers}
            races.append(_race(given, work, task, method, {"gauge": gauge} | peers | mine))
    return "\n\n".join([*_tables(given, races), _machine(given, races)])


def _side(given: Namespace, method: str) -> str:
    return "adapters" if stand_in(given, method) == "houlsby" else "trainer"


def _ours(number: int) -> str:
    return f"ours {number}"


def _race(
    given: Namespace, work: Path, task: str, method: str, contenders: dict[str, Contender]
) -> Race:
    """Warm every contender up, then let them take turns, each round from another one on."""
    race = Race(task, method, stand_in(given, method))
    request = _request(given, work / task / method, task, method)
    names = list(contenders)
    for number in range(-1, given.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            asked = request | _own(given, race, name) | ({"warm": WARM} if number < 0 else {})
            answer = contenders[name].ask(asked)
            if number >= 0:
                race.rounds.setdefault(name, []).append(answer)
                note(f"{task} {race.title} round {number + 1} {name}: {_brief(answer)}")
    for name in given.peers:
        race.check(name)
    return race


def _request(given: Namespace, folder: Path, task: str, method: str) -> dict[str, Any]:
    """What every contender is asked; the rows are written to a folder."""
    count = given.steps * given.batch
    shared = rows.first(folder, task=task, model=given.model, count=count, dev=given.dev)
    rate = rows.rate(method, given.model)
    return shared.spec(task=task, model=given.model, batch=given.batch, lr=rate)


def _own(given: Namespace, race: Race, name: str) -> dict[str, Any]:
    """What a request says to one contender alone."""
    if name.startswith("ours"):
        return {"method": race.method, "ours": given.ours[int(name.split()[1])]}
    return {"method": race.peer, "setting": name}


def _brief(answer: dict[str, Any]) -> str:
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in answer.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _tables(given: Namespace, races: list[Race]) -> Iterator[str]:
    for key, title in (("train", "Training"), ("evaluation", "Evaluation of the dev set")):
        over = [f"ours / {name}" for name in given.peers]
        titles = ["task", "method", "ours with", *given.peers, "ours", *over]
        lines = [
            _line(given, race, number, key) for race in races for number in range(len(given.ours))
        ]
        yield f"{title}, rows a CPU-second:\n\n{page.table(titles, lines)}"


def _line(given: Namespace, race: Race, number: int, key: str) -> list[str]:
    ours = race.of(_ours(number), key)
    peers = [race.of(name, key) for name in given.peers]
    over = [page.spread(page.ratios(ours, peer)) for peer in peers]
    options = f"`{given.ours[number]}`, " if given.ours[number] else ""
    precision = str(race.of(_ours(number), "precision")[0])
    return [
        race.task,
        race.title,
        options + precision,
        *map(page.middle, peers),
        page.middle(ours),
        *over,
    ]


def _machine(given: Namespace, races: list[Race]) -> str:
    """What the machine gave in each round."""
    titles = ["task", "method", "round", "fp32 GFLOP/s", "bf16 GFLOP/s", "load"]
    lines = []
    for race in races:
        for number, answer in enumerate(race.rounds["gauge"], 1):
            names = [name for name in ("float32", "bfloat16") if name in answer]
            rates = [f"{answer[name]:.0f}" for name in names] + ["emulated"] * (2 - len(names))
            lines.append([race.task, race.method, str(number), *rates, f"{answer['load']:.1f}"])
    cores = f"{given.threads} of {os.cpu_count()} cores"
    about = f"A 2048 x 2048 matrix product beside each round, on {cores}"
    return f"{about}:\n\n{page.table(titles, lines)}"
