"""A view of a W&B project: scores by method and fraction, costs, failures.

    finegrid workspace --project mine --task mrpc

For runs that logger=wandb or `finegrid sync` sent. Needs the extra `workspaces`. Each call saves a
new view and prints its address; with --dry-run it prints the view's specification as JSON and needs
no network.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.tracking.run_info import STEP

METHOD, FRACTION = "method.name", "data.fraction"  # in a run's config
# a record's fields that a method costs, with what a panel calls them
COSTS = {
    "train_seconds": "seconds of training",
    "eval_seconds": "seconds of evaluation",
    "peak_memory_bytes": "peak memory, bytes",
    "params_delta": "parameters trained below the head",
    "delta_bytes": "bytes to store",
}
COLUMNS = [f"summary:{name}" for name in ("test", "validation", "status", *COSTS)]
# of which a task has one
HEADLINES = ("mean", "matthews", "accuracy", "macro_f1", "entity_f1", "bleu")


def main(argv: Sequence[str] | None = None) -> None:
    """Describe the view; print or save it."""
    given = _arguments(argv)
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            "views need the package wandb-workspaces: pip install 'finegrid[workspaces]'"
        ) from error
    runs = ws.RunsetSettings(
        filters=[ws.Tags().isin([given.task])] if given.task else "",
        groupby=[ws.Config(METHOD), ws.Config(FRACTION)],
        order=[ws.Ordering(ws.Summary("test"), ascending=False)],
        pinned_columns=COLUMNS,
    )
    view = ws.Workspace(
        entity=given.entity or "",
        project=given.project,
        name=f"finegrid {given.task}" if given.task else "finegrid",
        sections=[_section(ws, name, panels) for name, panels in _panels().items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=runs,
    )
    if given.dry_run:
        model = view._to_model()  # the package has no public way to it
        print(model.model_dump_json(by_alias=True, exclude_none=True, indent=1))
    else:
        print(_saved(view).url)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("workspace", __doc__)
    parser.add_argument("--project", required=True)
    parser.add_argument("--entity", help="user or team; your own if not given")
    parser.add_argument("--task", help="of this task alone; scores of several do not mix well")
    parser.add_argument("--dry-run", action="store_true", help="print the specification as JSON")
    return parser.parse_args(argv)


def _section(ws: Any, name: str, panels: list[Any]) -> Any:
    layout = ws.SectionLayoutSettings(columns=2, rows=(len(panels) + 1) // 2)
    return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)


def _panels() -> dict[str, list[Any]]:
    """The panels of each section."""
    import wandb_workspaces.reports.v2 as wr

    method, fraction = wr.Config(METHOD), wr.Config(FRACTION)

    def bars(title: str, name: str, by: Any, how: str = "mean", spread: str = "stddev") -> Any:
        return wr.BarPlot(
            title=title, metrics=[name], groupby=by, groupby_aggfunc=how,
            groupby_rangefunc=spread, max_bars_to_show=50,
        )  # fmt: skip

    def points(title: str, x: Any, y: str, log: bool = False) -> Any:
        return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), log_x=log)

    curves = wr.LinePlot(
        title="validation along the budget", x=STEP, groupby=method,
        y=[f"validation/{name}" for name in HEADLINES], groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )  # fmt: skip
    seconds, stored = wr.SummaryMetric("train_seconds"), wr.SummaryMetric("delta_bytes")
    return {
        "Scores": [
            bars("test score by method", "test", method),
            bars("test score by fraction", "test", fraction),
            points("test score by fraction, each run", fraction, "test"),
            bars("validation score by method", "validation", method),
            curves,
        ],
        "Costs": [
            *(bars(f"{text} by method", name, method) for name, text in COSTS.items()),
            points("test score by seconds of training", seconds, "test", log=True),
            points("test score by bytes to store", stored, "test", log=True),
        ],
        "Failures": [
            wr.ScalarChart(title="failed runs", metric="failed", groupby_aggfunc="sum"),
            bars("failed runs by method", "failed", method, how="sum", spread="none"),
            wr.MarkdownPanel(
                markdown="The column `error` says why a run failed; filter by `status`."
            ),
        ],
    }


def _saved(view: Any) -> Any:
    """Save the view as a new one of the project."""
    import wandb

    try:
        view.entity = view.entity or wandb.Api().default_entity
        return view.save()
    except Exception as error:  # W&B's failures have no class in common
        line = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"W&B did not take the view: {line}") from error
