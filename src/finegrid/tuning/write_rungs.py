"""Searches by successive halving as text: tables, a file of the group `tuned`, a few lines."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import exp

from finegrid.errors import UserError
from finegrid.recipes import RATE
from finegrid.report.load.rankings import ordered
from finegrid.runs.text import hydra_value, markdown_table
from finegrid.tuning.rungs import Result, Tried

BLIND = "one prediction for all rows at full length, so rates were not told apart: raise the budget"
WIDER = "more trials or tune.widen=3 reach farther, alike for all"


def markdown(results: Sequence[Result]) -> str:
    """A table for each task and protocol: every method's rungs, and the rate that it chose."""
    sections = [f"### Rates found {_way(results)}"]
    for head, rows in _tables(results):
        sections += [head, _table(rows)]
    return "\n\n".join([*sections, cost(results)])


def overlay(results: Sequence[Result], name: str, command: str) -> str:
    """The text of an option of the group `tuned`, with one rate for each method and task.

    Raises:
        UserError: if the searches are of several models.
    """
    models = sorted({result.model for result in results})
    if len(models) > 1:
        raise UserError(f"the searches are for {' and '.join(models)}; name those of one model")
    tables = (line for head, rows in _tables(results) for line in (head, *_table(rows).split("\n")))
    header = [f"{name}: rates for {models[0]}, found {_way(results)}", *tables]
    header += [cost(results), f"by: {command}", *_left_out(results)]
    rates, others = _rates(results), _others(results)
    lines = [f"name: {name}", f"model: {models[0]}", "lr:" if rates else "lr: {}"]
    lines += [f"  {method}: {_inline(of_task)}" for method, of_task in rates.items()]
    lines += ["options: # chosen together with the rate: give them too"] if others else []
    for method, of_option in others.items():
        lines += [f"  {method}:"]
        lines += [f"    {option}: {_inline(values)}" for option, values in of_option.items()]
    return "\n".join([*(f"# {line}".rstrip() for line in header), *lines, ""])


def summary(results: Sequence[Result], path: str) -> list[str]:
    """What a sweep says of its search when it ends."""
    begun = "rates found" if all(r.complete for r in results) else "the search has not ended"
    lines = [f"{begun}, see {path}; {cost(results)}"]
    for method in ordered({result.method for result in results}):
        chosen = [(r, r.chosen) for r in results if r.method == method and r.chosen is not None]
        if chosen:
            parts = (f"{_values(tried)} ({', '.join(r.tasks)})" for r, tried in chosen if tried)
            lines.append(f"  {method}: {'; '.join(parts)}")
    if edges := [f"{r.method} ({', '.join(r.tasks)})" for r in results if any(r.at_edge())]:
        lines.append(f"  at the edge of what was tried: {', '.join(edges)}; {WIDER}")
    if blind := [f"{r.method} ({', '.join(r.tasks)})" for r in results if r.blind]:
        lines.append(f"  {', '.join(blind)}: {BLIND}")
    failed = [r for r in results if r.complete and r.chosen is None]
    lines += [f"  {r.method} ({', '.join(r.tasks)}): {_nothing()}" for r in failed]
    return lines


def cost(results: Sequence[Result]) -> str:
    """How many runs and examples each method's search took; the same for all, or who differs."""
    counts: dict[tuple[int, int], list[str]] = defaultdict(list)
    for result in results:
        counts[len(result.runs), result.examples].append(result.method)
    (runs, examples), *others = sorted(counts, key=lambda count: -len(counts[count]))
    tasks = " and task" * all(len(result.tasks) == 1 for result in results)
    text = f"the search took {runs} runs, {examples:,} examples a method{tasks}"
    named = (f"{', '.join(counts[c])} {c[0]} runs, {c[1]:,} examples" for c in others)
    return f"{text} ({'; '.join(named)})" if others else text


def _way(results: Sequence[Result]) -> str:
    halved = any(len(result.rungs) > 1 for result in results)
    return "by successive halving" if halved else "by trials at full length"


def _nothing() -> str:
    return "no rate found, every run at full length failed: the published one is used"


def _tables(results: Iterable[Result]) -> Iterator[tuple[str, list[Result]]]:
    """What each table is of, and its results."""
    grouped: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        grouped[_protocol(result)].append(result)
    for head in sorted(grouped):
        order = ordered({result.method for result in grouped[head]})
        yield head, sorted(grouped[head], key=lambda result: order.index(result.method))


def _protocol(result: Result) -> str:
    run = result.runs[0]
    weights = "" if run.pretrained else ", random weights"
    return (
        f"{run.model}{weights} on {' and '.join(result.tasks)}: protocol {run.protocol}, fraction "
        f"{run.fraction:g}, {run.select} checkpoint, seed {run.seed}; score: validation "
        f"({run.metric or 'no finished run'})"
    )


def _table(results: Sequence[Result]) -> str:
    """A row a method: the trials of each rung, what was chosen, and what to know of it."""
    budgets = sorted({rung[0].runs[0].budget for result in results for rung in result.rungs})
    unit = results[0].runs[0].budget_unit
    rows = []
    for result in results:
        of_budget = {rung[0].runs[0].budget: rung for rung in result.rungs}
        cells = [", ".join(map(_tried, of_budget.get(budget, ()))) for budget in budgets]
        chosen = result.chosen
        best = [_values(chosen), f"{chosen.score.value:.4f}"] if chosen else ["none", ""]
        rows.append([result.method, *cells, *best, "; ".join(_notes(result))])
    heads = [f"{budget:g} {unit}" for budget in budgets]
    return markdown_table(["method", *heads, "best rate", "validation", "note"], rows, padded=False)


def _tried(tried: Tried) -> str:
    """For example `0.001: 0.8213, loss 0.52` or `0.01: diverged`."""
    score = tried.score
    ends = {run.status for run in tried.runs} - {"ok"}
    text = " and ".join(sorted(ends)) if score.state == "failed" else f"{score.value:.4f}"
    loss = "" if score.loss is None or score.state == "failed" else f" (loss {exp(score.loss):.4g})"
    return f"{_values(tried)}: {text}{loss}" + " constant" * (score.state == "constant")


def _values(tried: Tried) -> str:
    values = tried.values
    return " ".join(
        f"{option}={value:g}" if option != RATE else f"{value:g}"
        for option, value in values.items()
    )


def _notes(result: Result) -> Iterator[str]:
    if not result.complete:
        yield "not at its end"
    elif result.chosen is None:
        yield _nothing()
    elif result.blind:
        yield BLIND
    for option in result.at_edge():
        yield f"{option} at the edge of what was tried: {WIDER}"
    if all(len({(one.score.state, one.score.value) for one in rung}) == 1 for rung in result.rungs):
        yield "the rate makes no difference"
    states = [tried.score.state for tried in result.rungs[0]]
    first = " at first" * (len(result.rungs) > 1)
    for state in ("failed", "constant"):
        if state in states:
            yield f"{states.count(state)} of {len(states)} trials {state}{first}"


def _rates(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Method -> task -> rate, of methods that have one."""
    return {
        method: {task: float(tried.runs[0].lr or 0) for task, tried in of_task.items()}
        for method, of_task in _by_task(results).items()
    }


def _others(results: Sequence[Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> further option -> task -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method, of_task in _by_task(results).items():
        for task, tried in of_task.items():
            for option, value in tried.values.items():
                if option != RATE:
                    found.setdefault(method, {}).setdefault(option, {})[task] = value
    return found


def _by_task(results: Sequence[Result]) -> dict[str, dict[str, Tried]]:
    """Method -> task -> the trial chosen, where one search alone is of both."""
    found: dict[str, dict[str, Tried]] = defaultdict(dict)
    for result in results:
        if result.chosen is not None and result not in _ambiguous(results):
            found[result.name] |= dict.fromkeys(result.tasks, result.chosen)
    return dict(sorted(found.items()))


def _ambiguous(results: Sequence[Result]) -> list[Result]:
    """Searches of one method on one task that differ in something else, such as its options."""
    pairs = [(result.name, task) for result in results for task in result.tasks]
    return [r for r in results if any(pairs.count((r.name, task)) > 1 for task in r.tasks)]


def _left_out(results: Sequence[Result]) -> Iterator[str]:
    names = sorted({result.name for result in _ambiguous(results)})
    if names:
        yield f"not below, as they were searched in several ways: {', '.join(names)}"


def _inline(values: dict[str, float]) -> str:
    """A table on one line of YAML."""
    return "{" + ", ".join(f"{key}: {hydra_value(value)}" for key, value in values.items()) + "}"
