"""Which method for so many labels, minutes and megabytes, by what was measured.

    finegrid recommend --labels 500 --minutes 5 --megabytes 2 --task mrpc

Only what was measured within the three limits counts, and nothing is extrapolated: the answer may
be that there is not enough evidence. Without --results the results that come with finegrid are
read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments
from finegrid.errors import UserError, nearest
from finegrid.report.load import rankings
from finegrid.report.recommend import text
from finegrid.report.recommend.decide import decide
from finegrid.report.stats import compare
from finegrid.report.stats.scores import evidence
from finegrid.storage.paths import published_runs


def main(argv: Sequence[str] | None = None) -> None:
    """Read the results, decide, and print the answer."""
    given = _arguments(argv)
    results = rankings.results(given.results or published_runs())
    if given.model:
        results = _of_model(results, given.model)
    known = evidence(results)
    decision = decide(
        results,
        compare.cells(results, known),
        compare.draws(results, known=known),
        compare.standings(known),
        labels=given.labels,
        minutes=given.minutes,
        megabytes=given.megabytes,
        task=given.task,
        budget=given.budget,
    )
    print(text.text(decision, notes=[*results.notes, *known.notes]))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("recommend", __doc__)
    parser.add_argument("--labels", type=int, required=True, help="training rows that you have")
    parser.add_argument("--minutes", type=float, required=True, help="of training, for one task")
    parser.add_argument("--megabytes", type=float, required=True, help="to store for one task")
    parser.add_argument("--task", help="one task; otherwise the mean over the tasks measured")
    parser.add_argument(
        "--budget",
        help="kind of budget, such as epochs or seconds; otherwise that of most evidence",
    )
    parser.add_argument("--model", help="one model; otherwise the one with most evidence")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        help="sweep directories, or the runs.parquet of reports (default: finegrid's)",
    )
    return parser.parse_args(argv)


def _of_model(results: rankings.Results, model: str) -> rankings.Results:
    models = sorted({setting.model for setting in results.settings})
    if model not in models:
        raise UserError(f"no runs of model {model}; {nearest(model, models)}")
    runs = results.runs[results.runs["model"] == model].reset_index(drop=True)
    return rankings.Results(runs, results.settings, results.notes)
