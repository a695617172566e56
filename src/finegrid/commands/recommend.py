"""Which method to use, by what was measured, and the command that trains it.

    finegrid recommend multirun/grid --labels 500 --minutes 5 --megabytes 2

Each limit is optional. Nothing is extrapolated: the answer may be that there is not enough
evidence. Without directories the results that come with finegrid are read, whatever their
precision. --check leaves each task out in turn and says how far what the others recommend is below
the best method there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from finegrid.commands import arguments
from finegrid.errors import UserError, nearest
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings
from finegrid.report.recommend import crosscheck, text
from finegrid.report.recommend.decide import Asked, bearing, decide
from finegrid.storage.paths import published_runs

MIXED = ["precision"]  # of the results that come with finegrid: several machines made them


def main(argv: Sequence[str] | None = None) -> None:
    """Read the results, decide, and print the answer."""
    given = _arguments(argv)
    places = [*given.directories, *given.results]
    mix = given.mix or ([] if places else MIXED)
    runs = rankings.load(places or published_runs())
    runs = _of_model(runs, given.model) if given.model else runs
    asked = Asked(given.labels, given.minutes, given.megabytes, given.task, given.budget)
    if given.check:
        print(crosscheck.text(crosscheck.cross_check(Comparison.of(runs, mix=mix), asked)))
        return
    made = Comparison.of(bearing(runs, asked), mix=mix)
    decision = decide(made, asked)
    print(text.answer(decision).text())
    if given.why:
        notes = [*made.results.notes, *made.evidence.notes]
        print(f"\n{text.why(decision, notes=notes)}")
    else:
        print(text.brief(decision))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("recommend", __doc__)
    places = "sweep directories, reports, or their runs.parquet (default: finegrid's results)"
    parser.add_argument("directories", type=Path, nargs="*", help=places)
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="the same")
    parser.add_argument("--labels", type=int, help="training rows that you have")
    parser.add_argument("--minutes", type=float, help="of training, for one task")
    parser.add_argument("--megabytes", type=float, help="to store for one task")
    parser.add_argument("--task", help="one task; otherwise the mean over the tasks measured")
    parser.add_argument(
        "--budget",
        help="kind of budget, such as epochs or seconds; otherwise that of most evidence",
    )
    parser.add_argument("--model", help="one model; otherwise the one with most evidence")
    arguments.add_mixing(parser, rankings.UNASKED)
    parser.add_argument("--why", action="store_true", help="show the evidence")
    parser.add_argument(
        "--check",
        action="store_true",
        help="leave each task out, decide by the others, and show what that costs in score",
    )
    return parser.parse_args(argv)


def _of_model(runs: pd.DataFrame, model: str) -> pd.DataFrame:
    models = sorted(set(runs["model"].dropna().astype(str)))
    if model not in models:
        raise UserError(f"no runs of model {model}; {nearest(model, models)}")
    return runs[runs["model"].eq(model)].reset_index(drop=True)
