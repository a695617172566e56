"""A search as Markdown, and as `conf/tuned/<name>.yaml`: a rate per method, and where from."""

from collections.abc import Sequence

from finegrid.report.load.rankings import ordered
from finegrid.runs.record import Record
from finegrid.runs.text import markdown_table
from finegrid.tuning.search import FAILED, Search, Trial, at_edge, best, expected_best


def markdown(search: Search) -> str:
    """What was tried, what won, and the expected best of fewer trials."""
    sections = [
        f"### Rates: {_what(search)}",
        f"{_protocol(search)} Score: validation ({_metrics(search)}), mean over tasks and seeds "
        f"(± standard deviation over seeds); a run that failed or diverged counts {FAILED:g}.",
        trials(search),
        "Expected best validation score of n of these trials (after arXiv 1909.03004, but drawn "
        "without replacement):",
        expected(search),
    ]
    return "\n\n".join(sections)


def trials(search: Search) -> str:
    """A row a method: every rate with its score, the best one, and what to know of it."""
    most = max(map(len, search.values()))
    rows = []
    for method in ordered(search):
        tried = search[method]
        cells = [f"{trial.lr:g}: {_score(trial)}" for trial in tried]
        cells += [""] * (most - len(tried))
        rows.append([method, *cells, *_winner(tried)])
    numbers = [f"rate {number + 1}" for number in range(most)]
    return markdown_table(
        ["method", *numbers, "best rate", "validation", "best - worst", "note"], rows
    )


def expected(search: Search) -> str:
    """A row a method: the expected best score of 1, 2, ... trials."""
    most = max(map(len, search.values()))
    rows = []
    for method in ordered(search):
        scores = [trial.score for trial in search[method]]
        cells = [f"{expected_best(scores, n + 1):.4f}" for n in range(len(scores))]
        rows.append([method, *cells, *[""] * (most - len(scores))])
    return markdown_table(["method", *(f"n = {n + 1}" for n in range(most))], rows)


def overlay(search: Search, name: str, command: str) -> str:
    """The text of an option of the group `tuned`: its header says how it came to be."""
    runs = _runs(search)
    header = [
        f"{name}: rates for {_what(search)}",
        _protocol(search),
        *trials(search).splitlines(),
        f"by: {command}",
        *sorted({f"of: {run.command}" for run in runs}),
    ]
    chosen = {method: best(tried) for method, tried in sorted(search.items())}
    rates = [f"  {method}: {trial.lr!r}" for method, trial in chosen.items() if trial]
    lines = [f"name: {name}", f"model: {runs[0].model}", "lr:", *rates]
    return "\n".join([*(f"# {line}" for line in header), *lines, ""])


def _score(trial: Trial) -> str:
    if trial.failed == len(trial.runs):
        return " and ".join(sorted({run.status for run in trial.runs}))
    spread = "" if trial.spread is None else f" ± {trial.spread:.4f}"
    failed = f" ({trial.failed} of {len(trial.runs)} failed)" if trial.failed else ""
    return f"{trial.score:.4f}{spread}{failed}"


def _winner(tried: Sequence[Trial]) -> list[str]:
    chosen = best(tried)
    if chosen is None:
        return ["none", "", "", "every run failed: not in the overlay"]
    scores = [trial.score for trial in tried]
    notes = []
    if max(scores) == min(scores) and len(scores) > 1:
        notes.append("the rate makes no difference")
    elif at_edge(tried, chosen):
        notes.append("at the edge of the rates tried: try more, alike for all")
    if failed := sum(trial.failed == len(trial.runs) for trial in tried):
        notes.append(f"{failed} of {len(tried)} trials failed")
    span = f"{max(scores) - min(scores):.4f}"
    return [f"{chosen.lr:g}", _score(chosen), span, "; ".join(notes)]


def _what(search: Search) -> str:
    """For example `tiny, 3 methods, 3 trials each, on mrpc and rte`."""
    runs = next(iter(search.values()))[0].runs
    tasks = " and ".join(sorted({run.task for run in runs}))
    counts = sorted({len(tried) for tried in search.values()})
    methods = f"{len(search)} method{'s' * (len(search) > 1)}"
    number = " to ".join(map(str, sorted({counts[0], counts[-1]})))
    return f"{runs[0].model}, {methods}, {number} trials each, on {tasks}"


def _protocol(search: Search) -> str:
    runs = _runs(search)
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    weights = "" if runs[0].pretrained else "Random weights. "
    return (
        f"{weights}Protocol {runs[0].protocol}, fraction {runs[0].fraction:g}, budget "
        f"{runs[0].budget:g} {runs[0].budget_unit}, {runs[0].select} checkpoint, seed {seeds}."
    )


def _metrics(search: Search) -> str:
    metrics = {run.metric for run in _runs(search) if run.metric}
    return ", ".join(sorted(metrics)) or "no finished run"


def _runs(search: Search) -> list[Record]:
    return [run for tried in search.values() for trial in tried for run in trial.runs]
