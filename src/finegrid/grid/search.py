"""The search that a sweep begins with: each method's learning rate, found with equal effort.

Trials are ordinary cells: of another seed, a share of the budget and a rate of the design, scored
on validation rows alone. What is needed next is a function of the records on disk, so that a killed
search goes on where it was, and the cells of the comparison get the rates that it chose.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from finegrid import recipes
from finegrid.config import bind
from finegrid.errors import require
from finegrid.grid.changed import Changed
from finegrid.grid.compose import Axis, at
from finegrid.grid.expand import Cell, grids
from finegrid.grid.known import readable
from finegrid.grid.stages import Ended
from finegrid.grid.status import Store
from finegrid.recipes import TuneConfig
from finegrid.runs import layout, settings
from finegrid.runs.record import Record, cell_hash, command_line
from finegrid.storage.files import write_atomic
from finegrid.tuning import design, halving, rungs

FOLDER = "tuned"  # of a sweep: its rates, a file a model
SIZE = ("data.fraction", "data.rows")
SEEDS = ("seed", "data.subset_seed")


class MethodSearch:
    """The search of one method, with its options, on one task (or all of `tune.per`) and model."""

    def __init__(
        self, name: str, cells: Sequence[Cell], makers: Mapping[str, Changed], store: Store
    ) -> None:
        """Prepare a search.

        Args:
            name: by which records tell which search a trial is of.
            cells: all that it is for, of several seeds, fractions and maybe tasks.
            makers: cell -> what makes others of it.
            store: where the records lie.
        """
        self.name, self.cells, self.makers, self.store = name, cells, makers, store
        self.points = points(cells[0])
        self.ladder = halving.ladder(len(self.points), cells[0].config["tune"]["full"])
        self.at = list(_middle(cells))  # of each task one cell, of the middle fraction
        self._entered = [list(range(len(self.points)))]  # trials of each rung that has begun
        self._made: dict[tuple[int, int], list[Cell]] = {}

    def needed(self, ended: Ended) -> list[Cell]:
        """The trials needed so far: a rung's once the one before has ended."""
        self._advance(ended)
        return self._all()

    def over(self, ended: Ended) -> bool:
        """Whether every trial has ended."""
        self._advance(ended)
        last = len(self.ladder) - 1
        return len(self._entered) > last and self._ran(last, ended)

    def tuned(self, cell: Cell) -> Cell:
        """A cell with what a search that is over chose: the published values if it chose none."""
        point = self.points[self._chosen or 0]
        tuned = self.makers[cell.key](cell, point | {"tune.chosen": list(point)})
        return _noted(tuned, self._cost)

    def records(self) -> list[Record]:
        """The records of the trials that have one."""
        records = (self.store.record(cell) for cell in self._all())
        return [record for record in records if record is not None]

    @cached_property
    def _chosen(self) -> int | None:
        """The best trial; None if all at full length failed."""
        return halving.winner(self._scores(len(self.ladder) - 1))

    @cached_property
    def _cost(self) -> dict[str, int]:
        records = self.records()
        return {"runs": len(records), "examples": sum(map(rungs.examples, records))}

    def _all(self) -> list[Cell]:
        """The cells of all rungs that have begun; in a tiny budget two rungs may be the same."""
        cells = (
            cell
            for rung, trials in enumerate(self._entered)
            for trial in trials
            for cell in self._cells(rung, trial)
        )
        return list({cell.key: cell for cell in cells}.values())

    def _advance(self, ended: Ended) -> None:
        """Let the best of a rung that has ended enter the next one."""
        while len(self._entered) < len(self.ladder) and self._ran(len(self._entered) - 1, ended):
            scores, rung = self._scores(len(self._entered) - 1), self.ladder[len(self._entered)]
            self._entered.append(halving.survivors(scores, rung))

    def _ran(self, rung: int, ended: Ended) -> bool:
        trials = self._entered[rung]
        return all(ended(cell) is not None for t in trials for cell in self._cells(rung, t))

    def _scores(self, rung: int) -> list[halving.Score]:
        return [
            rungs.scored(trial, [self.store.record(cell) for cell in self._cells(rung, trial)])
            for trial in self._entered[rung]
        ]

    def _cells(self, rung: int, trial: int) -> list[Cell]:
        """A trial's cells in a rung, one a task."""
        if (rung, trial) not in self._made:
            share = self.ladder[rung].share
            self._made[rung, trial] = [self._cell(cell, share, trial) for cell in self.at]
        return self._made[rung, trial]

    def _cell(self, cell: Cell, share: float, trial: int) -> Cell:
        unit, budget = cell.facts["budget_unit"], cell.facts["budget"]
        part = halving.amount(unit, budget, share)
        point, seed = self.points[trial], cell.config["tune"]["seed"]
        changes = {"trial": trial, "seed": seed, "store": "none", "tune.chosen": list(point)}
        made = self.makers[cell.key](cell, point | changes | {f"budget.{unit}": part})
        notes = {"search": self.name, "budget": budget, "full": self.ladder[-1].trials}
        return _noted(made, notes)


class Search:
    """The searches of all methods of a sweep."""

    def __init__(self, searches: Sequence[MethodSearch], store: Store) -> None:
        self.searches, self.store = searches, store
        self._of = {cell.key: search for search in searches for cell in search.cells}
        self._tuned: dict[str, Cell] = {}
        self._over: dict[str, bool] = {}  # search -> whether it was over when it was last asked

    @classmethod
    def of(
        cls,
        loader: ConfigLoader,
        config: DictConfig,
        arguments: Sequence[str],
        base: Sequence[Cell],
        store: Store,
    ) -> "Search":
        """The search that the cells of a sweep ask for; with fewer than two trials, none.

        Raises:
            UserError: if they ask for several kinds of search, or give what it is to find.
        """
        asked = [cell for cell in base if _asks(cell)]
        tune = _tune(asked)
        if tune is None or not halving.ladder(tune.trials):
            return cls((), store)
        grouped: dict[str, list[Cell]] = defaultdict(list)
        for cell in asked:
            grouped[_name(cell, tune)].append(cell)
        makers: dict[str, Changed] = {}
        for axes in grids(loader, config, arguments):
            left = [cell for cell in asked if cell.key not in makers and _is_of(cell, axes)]
            for alike in _families(left):
                made = _changing(alike, loader, config, axes)
                makers |= dict.fromkeys((cell.key for cell in alike), made)
        searches = [MethodSearch(name, cells, makers, store) for name, cells in grouped.items()]
        return cls(searches, store)

    @property
    def most(self) -> int:
        """How many trials there are at most, of all rungs."""
        return sum(
            rung.trials * len(search.at) for search in self.searches for rung in search.ladder
        )

    def needed(self, ended: Ended) -> list[Cell]:
        """The trials needed so far, those that have ended included."""
        self._over.clear()
        return [cell for search in self.searches for cell in search.needed(ended)]

    def tuned(self, cell: Cell, ended: Ended) -> Cell | None:
        """A cell of the comparison with the values found for it; None while they are not known.

        A search is looked at once after each call of `needed`: a sweep has thousands of cells.
        """
        search = self._of.get(cell.key)
        if search is None:
            return cell
        if search.name not in self._over:
            self._over[search.name] = search.over(ended)
        if cell.key not in self._tuned and self._over[search.name]:
            self._tuned[cell.key] = search.tuned(cell)
        return self._tuned.get(cell.key)

    def conclude(self) -> None:
        """Write the rates found for each model, in the sweep's directory.

        What other commands found there for other methods and tasks stands beside them.
        """
        from finegrid.tuning import write_rungs  # pandas comes with it, which a plan needs not load

        found = self._results()
        there = _by_model(_records_below(self.store.root)) if found else {}
        for model, results in found.items():
            every = rungs.joined(results, there.get(model, ()))
            text = write_rungs.overlay(every, model, command_line())
            path = self.store.root / FOLDER / f"{model}.yaml"
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, text.encode())

    def summary(self) -> list[str]:
        """A few lines for the end of a sweep: what was found, and at what cost."""
        from finegrid.tuning import write_rungs

        return [
            line
            for model, results in self._results().items()
            for line in write_rungs.summary(results, f"{self.store.root}/{FOLDER}/{model}.yaml")
        ]

    def _results(self) -> dict[str, list[rungs.Result]]:
        """Model -> its methods' searches, as far as they have come."""
        return _by_model(record for search in self.searches for record in search.records())


def _by_model(records: Iterable[Record]) -> dict[str, list[rungs.Result]]:
    """Model -> the searches that records are of, each of which is of one model."""
    found: dict[str, list[rungs.Result]] = defaultdict(list)
    for result in rungs.results(records, unequal=True):
        found[result.model].append(result)
    return {model: found[model] for model in sorted(found)}


def _records_below(directory: Path) -> list[Record]:
    """Those of a search's trials below a sweep's directory, as far as they can be read."""
    runs = map(readable, layout.run_directories(directory))
    return rungs.of_search(run for run in runs if run is not None)


def _asks(cell: Cell) -> bool:
    """Whether a cell asks for a search: those that one has made do not."""
    tune = cell.config.get("tune") or {}
    return bool(tune.get("trials")) and not tune.get("chosen")


def _tune(cells: Sequence[Cell]) -> TuneConfig | None:
    """The search that all cells ask for, and that none of them anticipates."""
    if not cells:
        return None
    kinds = {json.dumps(cell.config["tune"], sort_keys=True): cell for cell in cells}
    require(len(kinds) == 1, "tune.* must be the same for all cells: the effort would not be equal")
    tune = bind(TuneConfig, cells[0].config["tune"], "tune")
    searched = {"trial", *(o for cell in cells for o in recipes.space(cell.config["method"]))}
    for override in {line for cell in cells for line in cell.overrides}:
        key, value = settings.split_override(override)
        require(
            key not in searched or value == "null",
            f"tune.trials={tune.trials} searches {', '.join(sorted(searched - {'trial'}))}; leave "
            f"out either it or {override}",
        )
    return tune


def _name(cell: Cell, tune: TuneConfig) -> str:
    """A cell's search, by a hash of what its cells have in common."""
    free = [*SEEDS, *recipes.space(cell.config["method"])]
    free += [] if "fraction" in tune.per else SIZE
    free += [] if "task" in tune.per else ["task"]
    return cell_hash(settings.without(settings.deciding(cell.config), free))


def _middle(cells: Sequence[Cell]) -> Iterator[Cell]:
    """One cell of each task: of the middle fraction, the smaller one of two."""
    tasks: dict[str, dict[tuple[float, float], Cell]] = defaultdict(dict)
    for cell in cells:
        data = cell.config["data"]
        size = (float(data.get("rows") or 0), float(data["fraction"]))
        tasks[str(cell.facts["task"])].setdefault(size, cell)
    for sizes in tasks.values():
        yield sizes[sorted(sizes)[(len(sizes) - 1) // 2]]


def _is_of(cell: Cell, axes: Sequence[Axis]) -> bool:
    """Whether a cell is one of a grid."""
    lines = cell.overrides
    return len(lines) == len(axes) and all(
        any(str(choice.input_line) == line for choice in axis.choices)
        for line, axis in zip(lines, axes, strict=True)
    )


def _families(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells in whose configs a search sets the same keys."""
    families: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        options = recipes.space(cell.config["method"])
        families[cell.facts["budget_unit"], *options].append(cell)
    yield from families.values()


def _changing(
    cells: Sequence[Cell], loader: ConfigLoader, config: DictConfig, axes: Sequence[Axis]
) -> Changed:
    """What makes the trials and the tuned cells of a family."""
    tune = bind(TuneConfig, cells[0].config["tune"], "tune")
    options = list(recipes.space(cells[0].config["method"]))
    unit = cells[0].facts["budget_unit"]
    every = [point for cell in cells for point in points(cell)]
    shares = [rung.share for rung in halving.ladder(tune.trials, tune.full)]
    budgets = [halving.amount(unit, c.facts["budget"], share) for c in cells for share in shares]
    values: dict[str, Sequence[Any]] = {o: [point[o] for point in every] for o in options}
    values |= {"tune.chosen": [options], f"budget.{unit}": budgets, "seed": [tune.seed]}
    values |= {"store": ["none"], "trial": range(tune.trials)}
    unnamed = ("store", "tune.chosen")
    return Changed(loader, config, axes, cells=cells, values=values, unnamed=unnamed)


def _noted(cell: Cell, notes: Mapping[str, Any]) -> Cell:
    """A cell with notes under `tune`, to which nothing in a config refers."""
    lines = tuple(f"tune.{key}={value}" for key, value in notes.items())
    facts = cell.facts | {field: notes.get(name) for field, name in settings.NOTED.items()}
    config = cell.config | {"tune": cell.config["tune"] | dict(notes)}
    return replace(cell, overrides=cell.overrides + lines, facts=facts, config=config)


def points(cell: Cell) -> list[design.Point]:
    """What the trials of a cell's search try."""
    tune, space = cell.config["tune"], recipes.space(cell.config["method"])
    own = {option: float(at(cell.config, option.split("."))) for option in space}
    return design.points(own, space, tune["trials"], widen=tune["widen"])
