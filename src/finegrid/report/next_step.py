"""What to do after a comparison, as one shell command."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd

from finegrid.report.headlines import Headline
from finegrid.report.load import variants
from finegrid.report.load.rankings import TABLE
from finegrid.report.recommend.decide import SEEDS
from finegrid.runs import layout
from finegrid.runs.settings import OF_SWEEP, Role, role, split_override
from finegrid.runs.text import alone, folder_of, hydra_value

MANY = 10  # seeds beyond which more of them seldom tell level methods apart
RIVALS = ("head", "full")  # what a method that ran alone is compared with
DEMO = "experiment=demo"
METHODS = "method=head,bitfit,lora,full seed=0,1,2"
OWN = "task=custom task.train=rows.csv task.text=text task.label=label"
NAMING = ["overrides", "method", "task", "model", "fraction", "seed"]
DEFAULT = "multirun/grid"  # where a sweep goes that names no directory


def next_step(runs: pd.DataFrame, found: Sequence[Headline], *, rising: bool) -> str:
    """More methods, seeds or budget where the answer lacks them; else the use of the best.

    Seeds that a race decided not to need are not among them.

    Args:
        runs: of one setting.
        found: its headlines, none if no run has a score.
        rising: whether validation still rose where the budget ended.
    """
    mains = [one.main for one in found]
    if not mains:
        return f"finegrid status {_quoted(_root(runs))}" if _root(runs) else sweep(runs, {})
    if runs["overrides"].astype(str).str.contains(DEMO, regex=False).any():
        return measure(None, "minilm")
    runs = _repeatable(runs, found)
    seeds = min(main.seeds for main in mains)
    declared = max(main.declared for main in mains)
    if max(main.methods for main in mains) == 1:
        own = runs["method"].astype(str).str.split(" ").str[0]  # named in its YAML, as options are
        methods = dict.fromkeys([*_values(runs).get("method", own), *RIVALS])
        return sweep(runs, {"method": list(methods), "seed": _seeds(runs, SEEDS)})
    if any(main.going_on for main in mains):
        return sweep(runs, {"seed": _seeds(runs, declared)})
    if seeds < SEEDS and not declared:
        return sweep(runs, {"seed": _seeds(runs, SEEDS)})
    if rising or not any(main.learned for main in mains):
        key = f"budget.{runs['budget_unit'].iloc[0]}"
        return sweep(runs, {key: [f"{2 * runs['budget'].max():g}"]})
    if any(main.level for main in mains) and seeds < MANY and not declared:
        return sweep(runs, {"seed": _seeds(runs, 2 * seeds)})
    return _use(runs, found[0])


def _repeatable(runs: pd.DataFrame, found: Sequence[Headline]) -> pd.DataFrame:
    """The runs that one sweep repeats, with more seeds: of all, of one task, or of its leader."""
    compared = runs[runs[TABLE].apply(tuple, axis=1).isin({one.key[: len(TABLE)] for one in found})]
    of_task = compared[compared["task"].eq(found[0].task)]
    leading = of_task[of_task["method"].eq(found[0].main.best.name)]
    return next((some for some in (compared, of_task, leading) if _is_grid(some)), leading.iloc[:1])


def _is_grid(runs: pd.DataFrame) -> bool:
    """Whether the product of all values of all overrides, seeds apart, is what was run."""
    values = _values(runs)
    values.pop("seed", None)
    ways = {
        tuple(sorted(one for one in _overrides(run) if not one.startswith("seed=")))
        for run in runs[NAMING].to_dict("records")
    }
    return prod(map(len, values.values())) <= len(ways)


def _use(runs: pd.DataFrame, of: Headline) -> str:
    """Predict with the best run of the best method; train it, where its files are elsewhere."""
    mine = runs[runs["method"].eq(of.main.best.name) & runs["task"].eq(of.task)]
    best = mine[mine["status"].eq("ok")].sort_values("validation").iloc[-1]
    if best["directory"]:
        return f"finegrid predict {_quoted(best['directory'])} --input rows.csv"
    return train(mine)


def measure(task: str | None, model: str) -> str:
    """The sweep that compares some methods on a task; none: on one's own rows."""
    return f"finegrid sweep {f'task={task}' if task else OWN} model={model} {METHODS}"


def train(runs: pd.DataFrame) -> str:
    """The command of the first of some runs, by itself, without what its sweep noted in it."""
    asked = list(filter(_is_asked, _overrides(runs.iloc[0])))
    return shlex.join(["finegrid", "train", *_folder(runs), *asked, *alone(asked)])


def _folder(runs: pd.DataFrame) -> list[str]:
    """The `--config-dir` of the first run that tells its command."""
    told = (one for one in runs.get("command", ()) if isinstance(one, str))
    return folder_of(next(told, ""))


def _is_asked(override: str) -> bool:
    """Whether an override is part of what a run is: of no search or sweep, nor for its display."""
    key, _ = split_override(override)
    return key.partition(".")[0] not in ("tune", *OF_SWEEP) and role(key) is not Role.SPEED


def sweep(runs: pd.DataFrame, changes: Mapping[str, Sequence[str]]) -> str:
    """The sweep that some runs are of, with other values of some settings."""
    values = _values(runs) | {key: list(several) for key, several in changes.items()}
    words = [f"{key}={','.join(several)}" for key, several in values.items()]
    root = _root(runs)
    elsewhere = root not in ("", DEFAULT) and "hydra.sweep.dir" not in values
    words += [f"hydra.sweep.dir={hydra_value(root)}"] * elsewhere
    return shlex.join(["finegrid", "sweep", *_folder(runs), *words])


def _values(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Key of an override -> the values that it has in some runs."""
    values: dict[str, list[str]] = {}
    for run in runs.drop_duplicates("overrides")[NAMING].to_dict("records"):
        for override in _overrides(run):
            key, _, value = override.partition("=")
            values.setdefault(key, [])
            values[key] += [value] * (value not in values[key])
    return values


def _overrides(run: Any) -> list[str]:
    """A run's overrides; of one that has none the options that its fields name."""
    text = run["overrides"]
    given = [one for one in variants.listed(text) if one] if isinstance(text, str) else []
    if given:
        return given
    options = {name: str(run[name]).split(" ")[0] for name in ("method", "task", "model")}
    options |= {"data.fraction": f"{run['fraction']:g}", "seed": str(int(run["seed"]))}
    return [f"{key}={value}" for key, value in options.items()]


def _seeds(runs: pd.DataFrame, many: int) -> list[str]:
    """So many seeds, those that there are first."""
    there = sorted(set(runs["seed"].astype(int)))
    more = [seed for seed in range(many + len(there)) if seed not in there]
    return [str(seed) for seed in sorted([*there, *more[: max(0, many - len(there))]])]


def _root(runs: pd.DataFrame) -> str:
    """The directory of the sweep that most runs are of; empty where they are of none."""
    places = runs["directory"].astype(str)
    roots = [str(Path(place).parents[layout.DEPTH - 1]) for place in places if layout.parse(place)]
    return max(Counter(roots).items(), key=lambda root: root[1], default=("", 0))[0]


def _quoted(place: object) -> str:
    return shlex.quote(str(place))
